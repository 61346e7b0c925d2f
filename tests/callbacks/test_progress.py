import io
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from visplay.callbacks import progress
from visplay.callbacks.progress import PhaseProgress
from visplay.clock import Clock
from visplay.tiny import BASE
from visplay.types import PhaseState

ROOT = Path(__file__).parents[2]


def _module(stage="votes", note="64/400 images", step=3, role="reasoner"):
    clock = Clock()
    clock.stage, clock.note = stage, note
    phase, learner = PhaseState(role, 2, step=step), SimpleNamespace(config=SimpleNamespace(steps=30))
    roles = dict.fromkeys(("questioner", "reasoner"), learner)
    return SimpleNamespace(phase=phase, clock=clock, role=learner, roles=roles, evaluated="base")


def _trainer(epoch=3, fn=TrainerFn.FITTING, **state):
    metrics = {"reasoner/reward": torch.tensor(0.25), "reasoner/agreement": 0.5, "questioner/reward": 9.0}
    metrics |= {"reasoner/rollout_tokens": torch.tensor(900.0), "reasoner/update_tokens": 900.0}
    flags = {"evaluating": False, "sanity_checking": False, "testing": False} | state
    return SimpleNamespace(
        state=SimpleNamespace(fn=fn), callback_metrics=metrics, max_epochs=6, current_epoch=epoch, **flags
    )


@pytest.fixture
def at(monkeypatch):
    """Set what a clock says."""
    seconds = [0.0]
    monkeypatch.setattr(PhaseProgress, "now", staticmethod(lambda: seconds[0]))
    return lambda value: seconds.__setitem__(0, value)


@pytest.fixture
def lines(caplog):
    """Lines of the log so far."""
    caplog.set_level(logging.INFO, logger="visplay")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of a person."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    monkeypatch.setattr(progress, "CONSOLE", console)
    return console


def test_says_iteration_phase_and_stage():
    assert PhaseProgress().describe(_trainer(), _module()) == "iteration 2 · reasoner · votes 64/400 images"
    assert PhaseProgress().describe(_trainer(), _module("", "")) == "iteration 2 · reasoner"


def test_says_what_it_evaluates():
    say = PhaseProgress().describe
    assert say(_trainer(sanity_checking=True), _module(note="")) == "validation of the base"
    module = _module(note="mmmu, batch 3")
    assert say(_trainer(evaluating=True), module) == "validation of iteration 2 · mmmu, batch 3"
    assert say(_trainer(evaluating=True, testing=True, fn=TrainerFn.TESTING), module) == "test of base · mmmu, batch 3"


def test_says_how_a_step_went_and_the_time_left(at, lines):
    said, trainer = PhaseProgress(), _trainer(epoch=1)
    said.on_fit_start(trainer, _module())
    said.on_train_epoch_end(trainer, _module(role="questioner"))  # took no time
    at(50.0)
    said.on_train_epoch_start(trainer, _module(step=0))
    assert said.describe(trainer, _module("rollout", "", 0)) == "iteration 2 · reasoner · rollout · step 0/30"
    at(80.0)
    said.on_train_batch_end(trainer, _module(step=10), None, None, 9)
    told = "iteration 2 · reasoner · step 10/30 · reward 0.250 · agreement 0.500 · 3 s/step · 60 s left in the phase"
    assert said.describe(trainer, _module("", "")) == f"{told} · about 6 min left in the run"  # 60 + 2 phases of 140
    at(140.0)
    trainer.callback_metrics |= {"reasoner/reward": 0.5, "reasoner/agreement": 0.75}
    said.on_train_batch_end(trainer, _module(step=30), None, None, 29)
    (line,) = lines()
    told = "iteration 2 · reasoner · 30 steps done in 2 min · reward 0.250 → 0.500 · agreement 0.500 → 0.750"
    # twice 900 tokens in 90 s; two phases of 140 s and two that took no time are to come
    assert line == f"{told} · 20 sampled tokens/s · about 5 min left in the run"
    said.teardown(trainer, _module(), "fit")


def test_the_time_of_the_run_waits_for_a_phase_of_each_role(at):
    said, trainer = PhaseProgress(), _trainer(epoch=0)
    said.on_train_epoch_start(trainer, _module())
    at(30.0)
    said.on_train_batch_end(trainer, _module(step=10, role="questioner"), None, None, 9)
    assert said.describe(trainer, _module("", "")).endswith("60 s left in the phase")


def test_speaks_outside_a_terminal_while_nothing_else_happens(lines):
    said, module = PhaseProgress(seconds_between_lines=0.01), _module()
    said.on_fit_start(_trainer(), module)
    _wait_for(lambda: "iteration 2 · reasoner · votes 64/400 images" in lines())
    module.clock.note = "128/400 images"
    _wait_for(lambda: "iteration 2 · reasoner · votes 128/400 images" in lines())
    said.on_exception(_trainer(), module, KeyboardInterrupt())
    count = len(lines())
    time.sleep(0.05)
    assert len(lines()) == count


def _wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_is_silent_where_another_process_speaks(lines):
    said = PhaseProgress(seconds_between_lines=0.01)
    said.disable()
    said.on_fit_start(_trainer(), _module())
    time.sleep(0.05)
    said.on_train_batch_end(_trainer(), _module(step=30), None, None, 29)
    assert lines() == []


def test_a_line_in_a_terminal_is_redrawn_and_makes_room_for_results(terminal, lines):
    said = PhaseProgress()
    said.on_fit_start(_trainer(), _module())
    said.on_train_epoch_start(_trainer(), _module())
    said.on_validation_epoch_end(_trainer(), _module())
    said.on_validation_end(_trainer(), _module())
    terminal.print("a table")
    said.on_train_epoch_end(_trainer(), _module())
    said.on_fit_end(_trainer(), _module())
    before, after = terminal.file.getvalue().split("a table")
    assert "iteration 2 · reasoner · votes 64/400 images" in before
    assert "iteration 2 · reasoner · votes 64/400 images" in after
    assert lines() == []


def test_an_interval_is_a_time():
    with pytest.raises(ValueError, match="seconds_between_lines: 0 must be above 0"):
        PhaseProgress(seconds_between_lines=0)


def test_a_run_whose_output_is_a_file(tmp_path):
    """Every line has its time and is whole; each stage ends with one, and the summary follows each validation."""
    small = [
        *(
            "--self_play.iterations=1",
            "--self_play.curation={images: 4, questions_per_image: 4, low: 0, high: 1, gates: [], second_view: null}",
        ),
        *("--model.questioner.grpo={steps: 1, prompts_per_step: 2}", "--model.reasoner.voting.votes=4"),
        *("--model.reasoner.grpo={steps: 2, prompts_per_step: 2}", "--data.n_images=6"),
        *("--data.heldout_questions=8", "--data.heldout_votes=2", f"--model.vlm.path={BASE}"),
        *(f"--trainer.default_root_dir={tmp_path}", "--progress.seconds_between_lines=0.1"),
    ]
    command = [sys.executable, "-m", "visplay", "fit", f"--config={ROOT / 'configs/tiny.yaml'}", *small]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "iteration" in line or "validation" in line]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line) for line in said)
    told = "\n".join(said)
    for stage in (
        "validation of the base · answered in",
        "iteration 1 · questioner · 1 step done in",
        "iteration 1: kept",
        "iteration 1 · reasoner · 2 steps done in",
        "validation of iteration 1 · answered in",
    ):
        assert stage in told
    assert re.search(r"questioner · 1 step done in .* s · reward \S+ · valid fraction \S+ · \d+ sampled tokens/s", told)
    number = r"\d\.\d{3} → \d\.\d{3}"
    assert re.search(rf"reasoner · 2 steps done in .* s · reward {number} · agreement {number} · \d+ sampled", told)
    assert re.search(r"iteration 1 · questioner · (rollout|votes|update) · step 0/1", told)  # between the ends
    assert done.stdout.count("Self-play, iteration by iteration") == 2
    assert all(re.match(r"\d{4}-", line) for line in done.stderr.splitlines()), done.stderr  # nobody else says anything
    assert "\r" not in done.stderr
