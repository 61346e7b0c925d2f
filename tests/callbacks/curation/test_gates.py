import json
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf

from helpers import Scripted, image_number
from runs import CURATION, fit, script
from visplay.callbacks import (
    CalibratedAccuracy,
    Candidate,
    ConfidenceBand,
    Curation,
    Gate,
    Margin,
    NotAskedBefore,
    QuantileBand,
    RunRecord,
    SelfPlay,
    TooFewQuestionsError,
)
from visplay.callbacks.curation.gates import admit, describe_gate, gate_states, load_gate_states
from visplay.commands.settings.configuration import build
from visplay.data.generated import read_examples
from visplay.functional import keep_in_band
from visplay.modules import SecondView
from visplay.types import PhaseState, Question, Vote

DOCS = (Path(__file__).parents[3] / "docs" / "gates.md").read_text()


def _candidate(winner=5, runner_up=0, total=10, text="How many?", image="a.png", kind="numerical"):
    counts = tuple((name, count) for name, count in (("x", winner), ("y", runner_up)) if count)
    return Candidate(image, Question(text, kind), Vote("x", winner / total, counts, winner + runner_up, total))


def test_the_band_is_the_published_one():
    """Compared with Eq. 9 as it was written first, a question at a time."""
    draw = random.Random(0)
    for _ in range(100):
        low, high = sorted(draw.choice([0, 1 / 3, 0.3, 0.5, 0.8, 1]) for _ in range(2))
        candidates = [_candidate(draw.randint(1, k), total=k) for k in draw.choices([3, 9, 10], k=20)]
        reasons = ConfidenceBand(low, high).judge(candidates)
        kept = [index for index, reason in enumerate(reasons) if reason is None]
        assert kept == keep_in_band([each.vote for each in candidates], low, high, min_parsed_fraction=0.0)
    assert ConfidenceBand(0.3, 0.8).judge([_candidate(n) for n in (2, 3, 8, 9)]) == ["below", None, None, "above"]
    assert ConfidenceBand() == ConfidenceBand(Curation().low, Curation().high)


def test_margin_by_hand():
    candidates = [_candidate(4, 3), _candidate(4, 2), _candidate(1), _candidate(5, 3, 16), _candidate(5, 4, 8)]
    assert Margin(0.2).judge(candidates) == ["close", None, "close", "close", "close"]
    assert Margin().judge(candidates) == ["close", None, "close", None, None]  # leads .1, .2, .1, 2/16 and 1/8
    assert Margin(0).judge([_candidate(5, 5)]) == [None]


def test_quantiles_are_those_of_the_candidates_by_hand():
    candidates = [_candidate(winner) for winner in (9, 2, 5, 5, 7)]
    assert QuantileBand(0.21, 0.8).judge(candidates) == ["above", "below", None, None, None]
    assert QuantileBand(0, 1).judge(candidates) == [None] * 5
    assert QuantileBand(0.5, 0.5).judge(candidates) == ["above", "below", None, None, "above"]
    sure = [_candidate(winner) for winner in (10, 10, 9)]
    assert QuantileBand(0.21, 0.8).judge(sure) == [None] * 3  # as many as before, though all are sure
    assert QuantileBand(0.2, 0.8).judge([]) == []


def test_what_was_asked_before_by_hand():
    gate = NotAskedBefore()
    first = [_candidate(text=text) for text in ("How many?", "how  MANY?", "Which?")]
    assert gate.judge(first) == [None, "repeated", None]
    second = [
        _candidate(text="Which?", image="b.png"),
        _candidate(text="which?"),
        _candidate(text="Where?"),
        _candidate(text="Which?", image="b.png"),
    ]
    assert gate.judge(second) == [None, "repeated", None, "repeated"]
    assert gate.judge([]) == []
    assert gate.state_dict() == {"asked": {"a.png": ["How many?", "Which?", "Where?"], "b.png": ["Which?"]}}


def test_another_image_may_be_no_other_question():
    gate = NotAskedBefore(same_image=False)
    assert gate.judge([_candidate(), _candidate(image="b.png")]) == [None, "repeated"]
    assert gate.judge([_candidate(image="c.png")]) == ["repeated"]


def test_near_duplicates_across_iterations():
    """1 - (1/3)^(1/4) = .24 between the first two."""
    asked = [_candidate(text=f"how many red dots are {where}") for where in ("there", "here")]
    for threshold, reason in ((0.24, None), (0.25, "repeated")):
        gate = NotAskedBefore(threshold)
        assert gate.judge(asked[:1]) == [None]
        assert gate.judge([*asked[1:], _candidate(text="what is this")]) == [reason, None]


def test_a_state_gives_back_what_was_remembered():
    gate, again, other = NotAskedBefore(), NotAskedBefore(), Margin()
    gate.judge([_candidate()])
    states = json.loads(json.dumps(gate_states([gate, other])))
    assert states.keys() == {"not_asked_before", "margin"}
    assert describe_gate(gate) != describe_gate(again)
    load_gate_states([again, other], states)
    assert describe_gate(gate) == describe_gate(again)
    assert again.judge([_candidate(), _candidate(text="Why?")]) == ["repeated", None]
    assert gate_states([gate])["not_asked_before"] == states["not_asked_before"], "states are copies"
    load_gate_states([gate], {})  # of a run without this gate
    assert gate.judge([_candidate()]) == [None]


def test_a_gate_sees_what_those_before_it_kept():
    candidates = [_candidate(n) for n in (10, 9, 6, 5, 4)]
    reasons = admit([ConfidenceBand(0, 0.8), QuantileBand(0.5, 1)], candidates)
    assert reasons == ["confidence_band/above"] * 2 + [None, None, "quantile_band/below"]
    assert admit([], candidates) == [None] * 5
    assert admit([Margin(), NotAskedBefore()], []) == []


@dataclass
class Lazy(Gate):
    name: str = "lazy"

    def judge(self, candidates):
        return [None]


class Bare(Gate):
    name = "bare"

    def judge(self, candidates):
        return [None] * len(candidates)


def test_bad_settings():
    for kind in (ConfidenceBand, QuantileBand):
        with pytest.raises(ValueError, match=r"low, high: need 0 <= low <= high <= 1, got low=0.8, high=0.2"):
            kind(0.8, 0.2)
    with pytest.raises(ValueError, match=r"least: must be in \[0, 1\], got 1.5"):
        Margin(1.5)
    with pytest.raises(ValueError, match=r"threshold: must be in \[0, 1\], got nan"):
        NotAskedBefore(float("nan"))
    with pytest.raises(ValueError, match="gates: 'lazy' must judge each of 2 candidates, got 1"):
        admit([Lazy()], [_candidate()] * 2)
    with pytest.raises(ValueError, match="gates: Bare must be a dataclass, whose arguments are its settings"):
        Curation(gates=[Bare()])
    with pytest.raises(ValueError, match=r"names must differ, got \['margin'\] more than once"):
        Curation(gates=[Margin(), Margin(0.5)])
    with pytest.raises(ValueError, match=r"\['confidence_band'\] .*; low and high are a gate named 'confidence_band'"):
        Curation(gates=[ConfidenceBand()])
    assert len(Curation(gates=[ConfidenceBand(name="second_band"), Margin()]).gates) == 2


def _asks(policy, prompt, text, sample):
    """Of an image one question does not parse and two are the same; its answers agree if its number is even."""
    if policy == "questioner" or image_number(prompt.images[0]) % 2:
        return script(policy, prompt, text, sample)
    return "\\boxed{1}"


def _run(root, gates, says=_asks, images=6, **settings):
    curation = replace(CURATION, images=images, low=0.0, high=1.0, gates=gates)
    return fit(root, engine=Scripted(says), self_play=SelfPlay(1, curation), callbacks=[RunRecord()], **settings)


def _admission(trainer, iteration):
    lines = (Path(trainer.log_dir) / "generated" / f"iteration-{iteration}" / "admission.jsonl").read_text()
    return [json.loads(line) for line in lines.splitlines()]


def test_a_run_says_why_each_question_is_not_kept(tmp_path):
    trainer, _, self_play = _run(tmp_path, [Margin(0.3), NotAskedBefore()], images=10, enable_checkpointing=False)
    rows, asked = _admission(trainer, 1), set()
    assert [row["key"] for row in rows] == [f"1/{index}" for index in range(30)]
    for index, row in enumerate(rows):
        close = int(row["image"].removesuffix(".png")) % 2  # votes 2, 1 and 1 of 4: a lead of .25
        if index % 3 == 0:
            assert (row["rejected"], row["question"], row["confidence"]) == ("unparsed_question", None, None)
        elif close:
            assert (row["rejected"], row["confidence"]) == ("margin/close", 0.5)
        else:
            reason = "not_asked_before/repeated" if row["image"] in asked else None
            assert (row["rejected"], row["confidence"]) == (reason, 1.0)
            asked.add(row["image"])
    kept = [(row["key"], row["question"], row["answer"]) for row in rows if row["rejected"] is None]
    assert kept == [(e.key, e.problem, e.answer) for e in read_examples(Path(self_play.dataset))]

    counts = Counter(row["rejected"] for row in rows if row["rejected"])
    assert {*counts} == {"unparsed_question", "margin/close", "not_asked_before/repeated"}
    assert {reason: self_play.statistics[f"rejected/{reason}"] for reason in counts} == counts
    phases = [json.loads(line) for line in (Path(trainer.log_dir) / "phases.jsonl").read_text().splitlines()]
    assert phases[1]["dataset"]["rejected"] == counts
    assert "curation/rejected/margin/close" in (Path(trainer.log_dir) / "metrics.csv").read_text()


def test_a_run_says_what_left_too_few(tmp_path):
    with pytest.raises(TooFewQuestionsError, match=r"none of the 12 valid .* rejected: margin/close 12, unparsed_que"):
        _run(tmp_path, [Margin(1.0)], script, enable_checkpointing=False)


def test_a_run_takes_over_a_data_set_with_what_its_gates_remembered(tmp_path):
    gate = NotAskedBefore()
    trainer, module, self_play = _run(tmp_path, [gate], enable_checkpointing=False)
    engine = module.reasoner.engine

    def begin(state):
        gate.load_state_dict(state)
        self_play.phase = PhaseState("reasoner")  # as a checkpoint gives it back
        self_play.begin_phase(trainer, module)
        return len(engine.calls)

    calls = begin({})  # the policies have learned since: generated anew
    remembered = gate.state_dict()
    assert remembered["asked"]
    assert begin({}) == calls
    assert gate.state_dict() == remembered
    assert begin({"asked": {"0.png": ["What is 0?"]}}) > calls, "a gate that remembers something else judges otherwise"


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_continued_remembers_what_was_asked(tmp_path, epoch):
    def run(root, **settings):
        writer = ModelCheckpoint(
            root / "ckpt", filename="{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True
        )
        curation = replace(CURATION, images=8, low=0.0, high=1.0, gates=[NotAskedBefore()])
        engine, self_play = Scripted(_asks), SelfPlay(2, curation)
        return fit(root, engine=engine, self_play=self_play, callbacks=[writer], **settings)

    whole, _, done = run(tmp_path / "whole")
    first, second = _admission(whole, 1), _admission(whole, 2)
    before = {row["image"] for row in first}
    again = [row for row in second if row["image"] in before and row["question"]]
    assert again, "images come again"
    assert all(row["rejected"] == "not_asked_before/repeated" for row in again)
    assert any(row["rejected"] is None for row in second)

    continued, _, self_play = run(tmp_path / "again", ckpt_path=tmp_path / "whole" / "ckpt" / f"epoch={epoch}.ckpt")
    assert _admission(continued, 2) == second
    mine, theirs = self_play.state_dict(), done.state_dict()
    assert Path(mine.pop("dataset")).read_bytes() == Path(theirs.pop("dataset")).read_bytes()
    assert [sha256 for _, sha256 in mine.pop("learned")] == [sha256 for _, sha256 in theirs.pop("learned")]
    assert mine == theirs
    assert {*mine["gates"]["not_asked_before"]["asked"]} >= before


def test_what_the_docs_say(monkeypatch):
    """The YAML builds, and the gate of one's own is short and found by its path."""
    chain, view, own = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len(code.splitlines()) <= 20
    module = ModuleType("own_gates")
    monkeypatch.setitem(sys.modules, "own_gates", module)
    exec(code, module.__dict__)

    assert _build(view) == Curation(gates=[CalibratedAccuracy(0.75)], second_view=SecondView())
    gates = [_build(text).gates for text in (chain, own)]
    assert gates[0] == [QuantileBand(0.25, 0.9), Margin(), NotAskedBefore()]
    assert gates[1] == [module.WithoutKinds(["multiple choice"])]
    candidates = [_candidate(kind=kind) for kind in ("numerical", "multiple choice")]
    assert admit(gates[1], candidates) == [None, "without_kinds/kind"]


def _build(text):
    return build(Curation, OmegaConf.create(yaml.safe_load(text)["self_play"]["curation"]))
