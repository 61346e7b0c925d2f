import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file

from runs import CONFIG, CURATION, fit, make_module
from visplay.callbacks import SelfPlay
from visplay.modules import NonFiniteUpdateError


def _spoiled(bad, config=CONFIG):
    """A module whose Questioner's loss is not finite in the steps ``bad``, counted from 1."""
    module = make_module(config)
    backward = module.manual_backward

    def spoil(loss):
        return backward(loss * math.nan if module.phase.role == "questioner" and module.phase.step + 1 in bad else loss)

    module.manual_backward = spoil
    return module


def _weights(module):
    return {name: weight.clone() for name, weight in module.questioner.vlm.state_dict().items()}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_batch_is_written_and_the_run_goes_on(tmp_path, precision):
    trainer, module, _ = fit(tmp_path, module=_spoiled({2}), precision=precision)
    assert (module.questioner.vlm.version, module.reasoner.vlm.version) == (1, 2)
    directory = Path(trainer.log_dir) / "skipped"
    name = "1-questioner-iteration-1-step-2"
    assert sorted(path.name for path in directory.iterdir()) == [f"{name}.json", f"{name}.safetensors"]
    facts = json.loads((directory / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert (facts["step"], facts["version"], facts["grad_norm"], facts["in_a_row"]) == (2, 1, "nan", 1)
    assert len(facts["prompts"]) == 3
    assert [c["text"] for c in facts["prompts"][0]["completions"]][0] == "nonsense"
    tensors = load_file(directory / f"{name}.safetensors")
    assert {"token_ids", "mask", "rewards", "advantages", "old_logps", "sampled_logps", "weights"} <= tensors.keys()
    rewards = [[c["reward"] for c in prompt["completions"]] for prompt in facts["prompts"]]
    assert torch.equal(torch.tensor(rewards), tensors["rewards"])
    assert tensors["old_logps"].isfinite().all()


def test_the_run_ends_with_the_weights_it_had(tmp_path):
    module = _spoiled({1, 2}, replace(CONFIG, max_skipped_updates=2))
    with pytest.raises(NonFiniteUpdateError, match="questioner, version 0: .* in 2 updates in a row"):
        fit(tmp_path, module=module)
    fresh = make_module()
    fresh.questioner.vlm.load()
    for name, weight in _weights(module).items():
        assert torch.equal(weight.cpu(), fresh.questioner.vlm.state_dict()[name]), name
    assert len(list(tmp_path.rglob("skipped/*.safetensors"))) == 2


def test_float16_goes_on_after_a_skipped_update(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    _, module, _ = fit(tmp_path, module=_spoiled({1}), plugins=[plugin])
    assert (module.questioner.vlm.version, module.reasoner.vlm.version) == (1, 2)
    assert scaler.get_scale() == 2.0**7  # an update whose loss is spoiled lowers it too
    assert all(weight.isfinite().all() for weight in module.questioner.vlm.parameters())


def test_a_few_are_written_and_the_rest_is_counted(tmp_path, caplog):
    config = replace(CONFIG, steps=7, max_skipped_updates=9)
    fit(tmp_path, module=_spoiled(range(8), config), self_play=SelfPlay(1, CURATION))
    assert len(list(tmp_path.rglob("skipped/*.json"))) == 5
    assert caplog.text.count("its batch is in") == 5
    assert caplog.text.count("5 batches are in") == 2


def test_a_directory_that_cannot_be_written_is_no_end(tmp_path, caplog, monkeypatch):
    def full(path):
        raise OSError("no space left on device")

    monkeypatch.setattr("visplay.callbacks.skipped_updates.replacing", full)
    _, module, _ = fit(tmp_path, module=_spoiled({1}))
    assert module.questioner.vlm.version == 1
    assert "its batch could not be written: no space left on device" in caplog.text
