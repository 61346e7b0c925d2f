from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runs import CONFIG, fit, make_module
from visplay.callbacks import Recorder
from visplay.callbacks.records import recorder as module_under_test
from visplay.callbacks.records.step_record import write_tensors
from visplay.functional import token_truncated_weights
from visplay.modules.learner.grpo import GRPO


def written(root):
    return sorted(path.name for path in Path(root).rglob("records/*"))


def test_steps_and_phases_that_are_chosen(tmp_path):
    fit(tmp_path, callbacks=[Recorder([2, 7], phases=[1])])
    assert written(tmp_path) == ["phase-01-step-0002"]


def test_nothing_is_recorded_unless_it_is_chosen(tmp_path):
    fit(tmp_path, callbacks=[Recorder()])
    assert written(tmp_path) == []


def test_a_step_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        assert any(name.endswith(".state.safetensors") for name in written(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(GRPO, "_update", fail)
    with pytest.raises(SystemExit):
        fit(tmp_path, callbacks=[Recorder("all")])
    assert written(tmp_path) == []


def test_a_disk_that_is_full_is_no_end(tmp_path, caplog, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(module_under_test, "write_record", full)
    _, module, _ = fit(tmp_path, callbacks=[Recorder([1])])
    assert module.questioner.vlm.version == 2
    assert written(tmp_path) == []
    assert "phase-00-step-0001: the step could not be recorded: no space left on device" in caplog.text


def test_what_a_killed_process_left_goes(tmp_path):
    left = tmp_path / "records" / ".phase-00-step-0001.state.safetensors"
    left.parent.mkdir(parents=True)
    left.touch()
    fit(tmp_path, callbacks=[Recorder([1], phases=[0])], logger=False)
    assert not left.exists()


def test_a_step_that_another_one_sampled_cannot_be_recorded(tmp_path):
    module = make_module(replace(CONFIG, staleness=1, correction=token_truncated_weights))
    with pytest.raises(ValueError, match=r"record: a step samples .* with questioner.grpo.staleness=0, got 1"):
        fit(tmp_path, module=module, callbacks=[Recorder("all")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": [0]}, r"steps: \[0\] must be 'all', or steps of a phase, counted from 1"),
        ({"steps": "all", "phases": [-1]}, r"phases: \[-1\] must be phases of the run, counted from 0, or null"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Recorder(**settings)


def test_a_directory_that_vanished_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="^a.safetensors: "):
        write_tensors(tmp_path / "gone" / "a.safetensors", {"weight": torch.zeros(1000)})
