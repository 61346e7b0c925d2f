"""Questions that are voted on twice: by whom, of what image, which answer is the label, and what gates make of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from PIL import Image, ImageOps

from helpers import Scripted, image_number
from runs import CURATION, fit
from visplay.callbacks import (
    AgreementOfViews,
    CalibratedAccuracy,
    Candidate,
    Curation,
    NeedsTheImage,
    SelfPlay,
    TooFewQuestionsError,
)
from visplay.commands.settings.configuration import build
from visplay.data.generated import read_examples
from visplay.functional import LabelAccuracy
from visplay.modules import SecondView, Voting
from visplay.types import Question, UnlabeledImage, Vote


def _plays(policy, prompt, text, sample):
    """Of image n the Reasoner says n in three of four answers and -1 in one; the base says n of even n, else -1."""
    if not prompt.images:
        return "\\boxed{4}"
    number = image_number(prompt.images[0])
    if policy == "questioner":
        own = f"<answer>{number}</answer>" if number % 3 else ""
        return f"<type>numerical</type><question>What is {number}?</question>{own}"
    right = sample % 4 != 3 if policy == "reasoner" else number % 2 == 0
    return f"\\boxed{{{number if right else -1}}}"


def _run(root, view, gates=(), engine=None, iterations=1, **settings):
    curation = replace(CURATION, images=20, questions_per_image=1, low=0.0, high=1.0, gates=gates, second_view=view)
    play = SelfPlay(iterations, curation)
    return fit(root, engine=engine or Scripted(_plays), self_play=play, **settings)


def _rows(trainer, iteration=1):
    path = Path(trainer.log_dir) / "generated" / f"iteration-{iteration}" / "admission.jsonl"
    return {int(row["image"].removesuffix(".png")): row for row in map(json.loads, path.read_text().splitlines())}


def test_the_base_votes_as_it_was_at_the_start_of_the_run(tmp_path):
    trainer, _, self_play = _run(tmp_path, SecondView(), [AgreementOfViews(0.8)], iterations=2)
    curve = LabelAccuracy()
    for iteration in (1, 2):
        for number, row in _rows(trainer, iteration).items():
            agree = number % 2 == 0
            assert (row["answer"], row["confidence"], row["views_agree"]) == (str(number), 0.75, agree)
            assert row["accuracy"] == pytest.approx(curve(float(agree))), "the first vote is as sure of all of them"
            assert row["rejected"] == (None if agree else "agreement_of_views/differ"), "2 · .75 / 1.75 = .857"
    kept = read_examples(Path(self_play.dataset))
    assert {int(example.answer) % 2 for example in kept} == {0}
    figures = self_play.statistics
    agree = figures["views_agree_fraction"]
    assert 20 * agree == len(kept) > 5
    assert figures["estimated_silver_accuracy"] == pytest.approx(curve(1.0))
    assert figures["estimated_accuracy_of_asked"] == pytest.approx(agree * curve(1.0) + (1 - agree) * curve(0.0))
    assert figures["estimated_silver_accuracy_low"] < curve(1.0) < figures["estimated_silver_accuracy_high"] <= 1


def _unsure_of_odd_numbers(policy, prompt, text, sample):
    """Of image n both say n, but of odd n the Reasoner says -1 in one of four answers."""
    if policy == "questioner" or not prompt.images:
        return _plays(policy, prompt, text, sample)
    number = image_number(prompt.images[0])
    return f"\\boxed{{{-1 if policy == 'reasoner' and number % 2 and sample % 4 == 3 else number}}}"


def test_a_label_is_less_likely_right_where_the_first_vote_is_less_sure(tmp_path):
    trainer, _, _ = _run(tmp_path, SecondView(), engine=Scripted(_unsure_of_odd_numbers))
    rows, curve = _rows(trainer), LabelAccuracy()
    mean = sum(row["confidence"] for row in rows.values()) / len(rows)
    for number, row in rows.items():
        assert row["confidence"] == (0.75 if number % 2 else 1.0)
        assert row["accuracy"] == pytest.approx(curve(1.0, row["confidence"] - mean))


def test_the_harmonic_label_is_what_both_support(tmp_path):
    trainer, _, _ = _run(tmp_path, SecondView(label="harmonic", voting=Voting(votes=2)))
    for number, row in _rows(trainer).items():
        even = number % 2 == 0
        assert row["answer"] == (str(number) if even else "-1"), "what the base never says has no support"
        assert row["confidence"] == pytest.approx(2 * 0.75 / 1.75 if even else 2 * 0.25 / 1.25)
        assert row["views_agree"] is even


def test_the_questioners_own_answer_may_be_the_second_view(tmp_path):
    trainer, _, _ = _run(tmp_path, SecondView("questioner"), [AgreementOfViews()])
    for number, row in _rows(trainer).items():
        assert row["rejected"] == (None if number % 3 else "agreement_of_views/differ")
        assert row["accuracy"] == pytest.approx(LabelAccuracy()(float(number % 3 > 0)))


def _darker(image):
    red, green, blue = image.getpixel((0, 0))
    return Image.new("RGB", image.size, (red + 20 + int(torch.randint(2, ())), green, blue))


def test_an_image_is_changed_unless_the_question_forbids_it_and_alike_every_time(tmp_path):
    seen = []

    def look(policy, prompt, text, sample):
        if policy == "reasoner" and not sample:
            seen.append((image_number(prompt.images[0]), int(text.rpartition("What is ")[2].split("?")[0])))
        return _plays(policy, prompt, text, sample)

    view = SecondView("reasoner", image=_darker, unless=r"is [0-4]\?")
    rows = []
    for name in ("one", "other"):
        seen.clear()
        trainer, _, _ = _run(tmp_path / name, view, engine=Scripted(look))
        assert {shown - asked for shown, asked in seen} == {0, 20, 21}
        assert {asked for shown, asked in seen if shown != asked} == {5, 6, 7, 8, 9}
        rows.append(_rows(trainer))
    assert rows[0] == rows[1]
    assert {number: row["views_agree"] for number, row in rows[0].items()} == {n: n < 5 for n in rows[0]}


def test_what_is_answered_without_the_image(tmp_path):
    trainer, _, _ = _run(tmp_path, None, [NeedsTheImage()])
    rejected = {number: row["rejected"] for number, row in _rows(trainer).items()}
    assert rejected == {number: "needs_the_image/answered_blind" if number == 4 else None for number in rejected}
    assert 4 in rejected


def _candidate(agree=True, joint=0.6, accuracy=0.8, blind=False):
    vote = Vote("x", joint, (("x", 6),), 10, 10)
    return Candidate("a.png", Question("How many?", "numerical"), vote, agree, vote, accuracy, blind)


def test_gates_by_hand():
    some = [_candidate(), _candidate(agree=False), _candidate(joint=0.49), _candidate(joint=0.5)]
    assert AgreementOfViews().judge(some) == [None, "differ", "weak", None]
    some = [_candidate(accuracy=0.7), _candidate(accuracy=0.69), _candidate(accuracy=None)]
    assert CalibratedAccuracy(0.7).judge(some) == [None, "doubtful", "doubtful"]
    assert NeedsTheImage().judge([_candidate(), _candidate(blind=True)]) == [None, "answered_blind"]
    for gate in (AgreementOfViews, CalibratedAccuracy):
        with pytest.raises(ValueError, match=r"least: must be in \[0, 1\], got 1.5"):
            gate(1.5)


def test_a_gate_without_the_view_it_needs_is_refused():
    with pytest.raises(ValueError, match=r"second_view: the gates \['agreement_of_views'\] .* got null"):
        Curation(gates=[AgreementOfViews()])
    with pytest.raises(ValueError, match=r"unless: '\(' is no regular expression"):
        SecondView(image=ImageOps.mirror, unless="(")
    with pytest.raises(ValueError, match="image: without a change of it"):
        SecondView(unless="left")
    with pytest.raises(ValueError, match="voter: the Questioner's answer"):
        SecondView("questioner", voting=Voting())


def test_a_teacher_that_is_not_there_is_refused(tmp_path):
    asked = Scripted(_plays)
    with pytest.raises(ValueError, match=r"second_view.voter: the teacher .* give `teacher`"):
        _run(tmp_path, SecondView("teacher"), engine=asked)
    assert not asked.calls, "before the first question"


def test_a_change_that_gives_no_image_is_refused(tmp_path):
    with pytest.raises(TypeError, match="image: must return a PIL image, got Tensor"):
        _run(tmp_path, SecondView("reasoner", image=lambda image: torch.zeros(3)))


def test_no_label_at_all_says_so(tmp_path):
    apart = Scripted(lambda policy, *rest: "\\boxed{7000}" if policy == "base" else _plays(policy, *rest))
    with pytest.raises(TooFewQuestionsError, match="no_common_answer 20"):
        _run(tmp_path, SecondView(label="harmonic"), engine=apart)


def test_a_run_continued_votes_with_the_same_base(tmp_path):
    def run(root, **settings):
        writer = ModelCheckpoint(root / "ckpt", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        return _run(root, SecondView(), [CalibratedAccuracy()], iterations=2, callbacks=[writer], **settings)

    whole, _, done = run(tmp_path / "whole")
    again, _, self_play = run(tmp_path / "again", ckpt_path=tmp_path / "whole" / "ckpt" / "epoch=1.ckpt")
    assert _rows(again, 2) == _rows(whole, 2)
    assert Path(self_play.dataset).read_bytes() == Path(done.dataset).read_bytes()


def test_transforms_of_torchvision_are_given_by_their_path():
    text = {
        "image": {"class_path": "torchvision.transforms.v2.ColorJitter", "init_args": {"brightness": 0.2}},
        "unless": "colou?r",
    }
    view = build(SecondView, OmegaConf.create(text))
    image = UnlabeledImage("a.png", Image.new("RGB", (8, 8), (200, 100, 50)))
    shown = []
    state = torch.get_rng_state()
    for _ in range(2):
        view.vote([image], [[Question("How many?", "numerical")]], 0, lambda images, *rest: shown.extend(images) or [])
    assert shown[0].image.getpixel((0, 0)) == shown[1].image.getpixel((0, 0)) != (200, 100, 50)
    assert torch.equal(torch.get_rng_state(), state), "draws of the run are its own"
