"""``visplay export`` with every configuration that ships, and with one as LightningCLI saves it; the base is tiny."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from text_models import llama
from visplay.__main__ import main
from visplay.callbacks.export.export_callback import describe_data
from visplay.cli import VisPlayCLI, run
from visplay.commands.export import describe_config, find_checkpoint, read_role
from visplay.commands.settings.configuration import read_config
from visplay.data.module import LabelledSource, SelfPlayData
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.tiny import BASE

CONFIGS = Path(__file__).parent.parent / "configs"
MODELS = {path.stem: yaml.safe_load(path.read_text()).get("model", {}) for path in CONFIGS.glob("*.yaml")}
KINDS = {"visplay.modules.VisPlay": ["questioner", "reasoner"]}
KINDS |= dict.fromkeys(("visplay.modules.Reasoner", "visplay.modules.Describer"), ["reasoner"])
BASES = sorted(name for name, model in MODELS.items() if "class_path" in model)


@pytest.fixture
def override(tmp_path):
    """A configuration that puts the tiny base in the place of any other."""
    return put(BASE, tmp_path)


def put(model, directory):
    """A configuration that puts a model in the place of any other."""
    limits = dict.fromkeys(("min_pixels", "max_pixels", "max_context_tokens"))
    path = directory / "tiny.yaml"
    path.write_text(yaml.safe_dump({"model": {"init_args": {"vlm": {"init_args": {"path": str(model)} | limits}}}}))
    return path


def write_run(directory, configs):
    """A checkpoint of the roles of a configuration, which are not the base; returns them."""
    config = read_config([str(path) for path in configs])
    names = KINDS.get(config.model.class_path, ["questioner"])
    roles, state = [read_role(config, name) for name in names], {}
    for number, role in enumerate(roles):
        role.vlm.load()
        with torch.no_grad():
            for weight in role.vlm.trained_weights():
                weight.add_(0.01 * (number + 1))
        state |= role.vlm.state_dict(prefix=f"{role.name}.vlm." if len(roles) > 1 else "vlm.")
    (directory / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": state, "callbacks": {}}, directory / "checkpoints" / "last.ckpt")
    return roles


def assert_exported(role, out):
    found = dict(ModelSource(str(out)).load(type(role.vlm)(role.vlm.path)).weights())
    assert all(weight.equal(found[name]) for name, weight in role.vlm.weights())
    card = (out / "README.md").read_text()
    settings = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert settings["grpo"]["learning_rate"] == role.config.learning_rate
    assert settings["tuning"]["lora"]["rank"] == 32
    assert not {str(out.parent), str(CONFIGS.parent)} & set(card.split())
    assert str(CONFIGS.parent) not in card
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"]


@pytest.fixture
def adapters(tmp_path):
    """What configs/lora.yaml says to a role that is fitted alone, which has no roles to set rates of."""
    path = tmp_path / "adapters.yaml"
    path.write_text(yaml.safe_dump({"model": {"init_args": {"vlm": MODELS["lora"]["init_args"]["vlm"]}}}))
    return path


@pytest.mark.parametrize("config", BASES)
def test_every_config_with_adapters(override, adapters, tmp_path, monkeypatch, config):
    monkeypatch.chdir(CONFIGS.parent)
    alone = MODELS[config]["class_path"] != "visplay.modules.VisPlay"
    if MODELS[config]["init_args"]["vlm"]["class_path"] == "visplay.modules.CausalLM":
        llama(tmp_path / "llama")
        override = put(tmp_path / "llama", tmp_path)
    configs = [CONFIGS / f"{config}.yaml", adapters if alone else CONFIGS / "lora.yaml", override]
    for role in write_run(tmp_path / "run", configs):
        out = tmp_path / role.name
        given = [f"--config={path}" for path in configs]
        main(["export", str(tmp_path / "run"), *given, "--role", role.name, "--output", str(out), "--dtype", "float32"])
        assert_exported(role, out)


def test_the_configuration_that_a_run_saved(override, tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", lambda self, subcommand: None)
    configs = [CONFIGS / "tiny.yaml", CONFIGS / "lora.yaml", override]
    cli = run(["fit", *(f"--config={path}" for path in configs)])
    torch.use_deterministic_algorithms(False)
    roles = write_run(tmp_path / "run", configs)
    cli._parser("fit").save(cli.config["fit"], tmp_path / "run" / "config.yaml", skip_none=False)
    main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "out"), "--dtype", "float32"])
    assert_exported(roles[1], tmp_path / "out")


def test_a_configuration_that_is_none(tmp_path):
    write_run(tmp_path / "run", [CONFIGS / "tiny_labelled.yaml"])
    (tmp_path / "broken.yaml").write_text("model: [")
    (tmp_path / "empty.yaml").write_text("data: {}")
    for name, message in (("broken", "cannot be read as YAML"), ("empty", "there is no model.class_path")):
        with pytest.raises(SystemExit, match=f"error: (.|\n)*{message}"):
            main(["export", str(tmp_path / "run"), "--config", f"{tmp_path / name}.yaml", "--output", "out"])


def test_checkpoints_within_a_phase_are_passed_over(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for age, name in enumerate(("phase-00", "phase-01", "phase-02-step-0007")):
        path = tmp_path / "checkpoints" / f"{name}.ckpt"
        torch.save({"state_dict": {}, "callbacks": {}}, path)
        os.utime(path, (age, age))
    assert find_checkpoint(tmp_path, "reasoner", None).path.name == "phase-01.ckpt"
    assert find_checkpoint(path, "reasoner", None).path == path  # where it is named
    for name in ("phase-00", "phase-01"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="no directory of a run that has finished a phase"):
        find_checkpoint(tmp_path, "reasoner", None)


def test_a_card_calls_data_the_same_during_a_run_and_after_it():
    given = {
        "images": "owner/images",
        "labelled": {"path": "a/directory/answers.parquet"},
        "silver": "x/y/made.parquet",
    }
    config = {"data": {"class_path": "visplay.data.module.SelfPlayData", "init_args": given}}
    data = SelfPlayData(given["images"], LabelledSource(**given["labelled"]), given["silver"])
    assert describe_data(data) == describe_config(OmegaConf.create(config))
    assert describe_data(data) == {
        "module": "SelfPlayData",
        "images": "owner/images",
        "labelled questions": "answers.parquet",
        "generated questions": "made.parquet",
    }


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=rf"source: '{tmp_path}/run' is no checkpoint"):
        main(["export", "~/run", "--output=~/out"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    with pytest.raises(SystemExit, match=rf"output: '{tmp_path}/out' is there already"):
        main(["export", "~/run", "--output=~/out"])
    (tmp_path / "a.yaml").write_text("model: {class_path: x, init_args: {vlm: {path: ~/base}}}")
    assert read_config(["~/a.yaml"]).model.class_path == "x"
