"""What happens when too few questions survive, and stages with settings of their own."""

from dataclasses import replace
from pathlib import Path

import pytest

from helpers import Scripted, image_number
from runs import CURATION, fit, script
from visplay.callbacks import SelfPlay, TooFewQuestionsError
from visplay.data.generated import read_examples
from visplay.modules import Voting
from visplay.prompts import Template


def _split(policy, prompt, text, sample):
    """Of image 0 half of the answers agree, the others are unanimous but for one answer in four."""
    if policy == "questioner":
        return script(policy, prompt, text, sample)
    return "\\boxed{1}" if sample >= (2 if image_number(prompt.images[0]) == 0 else 1) else f"\\boxed{{{2 + sample}}}"


def _fit(root, engine=None, **change):
    curation = replace(CURATION, **{"images": 10, "high": 0.6} | change)
    return fit(root, engine=engine or Scripted(_split), self_play=SelfPlay(1, curation))[2]


def _scores(self_play):
    return sorted(example.score for example in read_examples(Path(self_play.dataset)))


def test_continue_takes_what_there_is_and_says_so(tmp_path, caplog):
    self_play = _fit(tmp_path, min_kept=5)
    assert _scores(self_play) == [0.5, 0.5]
    assert "too few questions: 2 of the 20 valid questions (min_kept=5)" in caplog.text


def test_relax_widens_the_band_until_there_are_enough(tmp_path):
    self_play = _fit(tmp_path, min_kept=5, on_too_few="relax")
    assert _scores(self_play) == [0.5, 0.5] + [0.75] * 18
    assert (self_play.statistics["low"], self_play.statistics["high"]) == (0.25, 0.75)


def test_relax_leaves_the_band_where_it_keeps_enough(tmp_path):
    self_play = _fit(tmp_path, min_kept=2, on_too_few="relax")
    assert _scores(self_play) == [0.5, 0.5]
    assert self_play.statistics["high"] == 0.6


def test_stop_says_why(tmp_path):
    with pytest.raises(TooFewQuestionsError, match=r"2 of the 20 valid .* \[0, 0, 0, 0, 0, 2, 0, 18, 0, 0\]; widen"):
        _fit(tmp_path, min_kept=5, on_too_few="stop")


def test_a_stage_has_its_own_prompts_and_votes(tmp_path):
    asked = []

    def note(policy, prompt, text, sample):
        if sample == 0:
            asked.append((policy, "curate" in text))
        return _split(policy, prompt, text, sample)

    engine = Scripted(note)
    voting = Voting(votes=8, template=Template(user="curate {question}"), top_k=5)
    _fit(tmp_path, engine=engine, high=0.9, template=Template(user="curate: Ask."), voting=voting)
    samplings = [(s.n, s.top_k) for name, _, s in engine.calls if name == "reasoner"]
    assert (8, 5) in samplings
    assert (4, 0) in samplings
    assert {*asked} == {(policy, curating) for policy in ("questioner", "reasoner") for curating in (True, False)}


@pytest.mark.parametrize(("most_tokens", "sampled"), [(96, 96), (10**6, 1023), (None, 48)])
def test_a_stage_samples_its_questions_in_its_own_way(tmp_path, most_tokens, sampled):
    engine = Scripted(_split)
    _fit(tmp_path, engine=engine, max_new_tokens=most_tokens, top_p=0.95, top_k=7)
    asked = {(s.max_new_tokens, s.top_p, s.top_k, s.n) for name, _, s in engine.calls if name == "questioner"}
    assert asked == {(48, 1.0, 0, 2), (sampled, 0.95, 7, 3)}
    assert {(s.max_new_tokens, s.top_p) for name, _, s in engine.calls if name == "reasoner"} == {(48, 1.0)}


@pytest.mark.parametrize("kept", [True, False])
def test_unparsed_answers_in_the_denominator(tmp_path, kept):
    """Three of four parse and agree: c is 1 among the parsed, 3/4 among all."""

    def half_broken(policy, prompt, text, sample):
        if policy == "questioner":
            return script(policy, prompt, text, sample)
        return "\\boxed{1}" if sample % 4 else "no box"

    voting = Voting(votes=4, count_unparsed=kept, min_parsed_fraction=0.5)
    curation = replace(CURATION, voting=voting, high=0.8)
    if not kept:
        with pytest.raises(TooFewQuestionsError):
            fit(tmp_path, engine=Scripted(half_broken), self_play=SelfPlay(1, curation))
        return
    self_play = fit(tmp_path, engine=Scripted(half_broken), self_play=SelfPlay(1, curation))[2]
    assert set(_scores(self_play)) == {0.75}


def test_questions_seen_before_are_counted(tmp_path):
    self_play = fit(tmp_path, self_play=SelfPlay(2, replace(CURATION, images=20)))[2]
    assert self_play.statistics["kept"] == 40  # ten images, all of them asked about in each iteration
    assert self_play.statistics["seen_before_fraction"] == 1.0
    assert self_play.statistics["duplicate_fraction"] == 30 / 40


def _tie(policy, prompt, text, sample):
    """Image 0 splits the votes in half."""
    if policy == "questioner":
        return script(policy, prompt, text, sample)
    return "\\boxed{yes}" if sample % 2 else f"\\boxed{{{'no' if image_number(prompt.images[0]) == 0 else 'yes'}}}"


@pytest.mark.parametrize("on_too_few", ["continue", "relax"])
def test_a_tie_is_no_label_and_is_counted(tmp_path, on_too_few):
    settings = {"high": 1.0, "on_too_few": on_too_few, "min_kept": 19}
    self_play = _fit(tmp_path, engine=Scripted(_tie), **settings)
    assert _scores(self_play) == [1.0] * 18
    assert (self_play.statistics["kept"], self_play.statistics["valid_fraction"]) == (18, 20 / 30)
    assert self_play.statistics["tied_fraction"] == 2 / 30


def test_too_few_questions_say_how_many_are_ties(tmp_path):
    with pytest.raises(TooFewQuestionsError, match=r"none of the 20 valid .*; 2 are ties, which have no label"):
        _fit(tmp_path, engine=Scripted(_tie))


def test_a_tie_is_drawn_where_asked_for(tmp_path):
    voting = Voting(votes=4, ties="draw")
    self_play = _fit(tmp_path, engine=Scripted(_tie), high=1.0, voting=voting)
    assert _scores(self_play) == [0.5] * 2 + [1.0] * 18
    assert self_play.statistics["tied_fraction"] == 2 / 30


def test_a_tie_is_drawn_anew_for_every_question(tmp_path):
    def split(policy, prompt, text, sample):
        if policy == "questioner":
            return script(policy, prompt, text, sample)
        return "\\boxed{yes}" if sample % 2 else "\\boxed{no}"

    drawn = []
    for root in (tmp_path / "one", tmp_path / "again"):
        self_play = _fit(root, engine=Scripted(split), voting=Voting(votes=4, ties="draw"))
        drawn.append([example.answer for example in read_examples(Path(self_play.dataset))])
    assert 4 <= drawn[0].count("no") <= 16
    assert drawn[0] == drawn[1]
