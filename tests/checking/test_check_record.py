"""A path is checked once, and again when what it depends on has changed; by the command too."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from examples.add_a_vlm import Llava
from families import llava
from visplay.__main__ import main
from visplay.checking import FamilyError, ModelCheck, model_check
from visplay.checking.check_record import check_once, key_of, record_path
from visplay.modules import Qwen2_5_VL
from visplay.modules.policy.contract import AttentionContract
from visplay.tiny import BASE


class WithoutWindows(Llava):
    attention = AttentionContract()


@pytest.fixture(autouse=True)
def _own_record(monkeypatch, tmp_path):
    monkeypatch.setenv("VISPLAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def directory(tmp_path):
    llava(tmp_path / "model", model_type="mistral", sliding_window=12)
    return str(tmp_path / "model")


def load(family, directory, **settings):
    vlm = family(directory, **settings)
    vlm.load()
    return vlm


def test_once(directory):
    vlm = load(Llava, directory)
    assert check_once(vlm)
    assert not check_once(vlm)
    assert not check_once(load(Llava, directory))
    (entry,) = json.loads(record_path().read_text()).values()
    assert entry == {"family": "examples.add_a_vlm.Llava", "path": directory, "revision": None}
    assert key_of(load(Llava, directory, attn_implementation="sdpa")) != key_of(vlm)
    assert key_of(load(Llava, directory, revision="abc")) != key_of(vlm)
    vlm.model.config.text_config.sliding_window = 20
    assert check_once(vlm)


def test_what_is_wrong_is_found_again(directory):
    for _ in range(2):
        with pytest.raises(FamilyError, match="windows"):
            check_once(load(WithoutWindows, directory))
    assert not record_path().exists()


def test_a_record_that_cannot_be_read_or_written(directory, caplog):
    record_path().parent.mkdir()
    record_path().write_text("{")
    vlm = load(Llava, directory)
    assert check_once(vlm)
    assert not check_once(vlm)
    record_path().unlink()
    record_path().parent.rmdir()
    record_path().parent.write_text("a file")
    assert check_once(vlm)
    assert "what was checked is not noted" in caplog.text


def test_where_the_record_is(monkeypatch, tmp_path):
    monkeypatch.delenv("VISPLAY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert record_path() == tmp_path / "visplay" / "checked.json"


def test_the_first_load_of_a_run(directory):
    vlm = load(WithoutWindows, directory)
    module = SimpleNamespace(roles={"reasoner": SimpleNamespace(vlm=vlm)}, validated=SimpleNamespace(vlm=vlm))

    def trainer(state):
        return SimpleNamespace(
            strategy=SimpleNamespace(root_device=torch.device("cpu")), state=SimpleNamespace(fn=state)
        )

    callback = ModelCheck()
    for hook, state in (("fit", "FITTING"), ("validation", "VALIDATING"), ("test", "TESTING")):
        with pytest.raises(FamilyError, match="windows"):
            getattr(callback, f"on_{hook}_start")(trainer(TrainerFn[state]), module)
    callback.on_validation_start(trainer(TrainerFn.FITTING), module)
    module.roles["reasoner"].vlm = load(Qwen2_5_VL, str(BASE))
    callback.on_fit_start(trainer(TrainerFn.FITTING), module)
    assert not record_path().exists()


def test_the_command(directory, capsys):
    main(["check", "--model.vlm=examples.add_a_vlm.Llava", f"--model.vlm.path={directory}"])
    out = capsys.readouterr().out
    assert "ids: 24 prompts with images of 5 sizes have the processor's tokens" in out
    assert f"Llava with {directory}: all as the checkpoint says" in out
    assert not check_once(load(Llava, directory))


def test_the_command_with_a_configuration(directory):
    given = ["--config=configs/tiny.yaml", "--model.vlm=checking.test_check_record.WithoutWindows"]
    with pytest.raises(SystemExit, match=r"error: WithoutWindows with '.*' is not what the checkpoint says: windows: "):
        main(["check", *given, f"--model.vlm.path={directory}"])


def test_a_command_without_a_model(directory, capsys):
    with pytest.raises(SystemExit):
        main(["check"])
    assert "model.vlm" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check", "--device=foo"])
    assert "argument --device: 'foo' is no device; give cpu, cuda or cuda:1" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"error: path: no processor could be loaded from '/nowhere'"):
        main(["check", "--model.vlm=examples.add_a_vlm.Llava", "--model.vlm.path=/nowhere"])


def test_a_run_of_a_wrong_family_ends_before_it_begins(directory, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["visplay"])
    given = ["--config=configs/tiny.yaml", f"--trainer.default_root_dir={tmp_path}", f"--model.vlm.path={directory}"]
    try:
        with pytest.raises(SystemExit) as ended:
            main(["fit", *given, "--model.vlm=checking.test_check_record.WithoutWindows"])
    finally:
        torch.use_deterministic_algorithms(False)
    assert ended.value.code == 2
    assert "error: WithoutWindows with " in capsys.readouterr().err.splitlines()[-1]


def test_of_a_sharded_policy_the_checkpoint_is_checked(monkeypatch, tmp_path):
    """Its own weights are parts, of which no forward pass can be made outside of a step."""
    vlm = load(Qwen2_5_VL, str(shutil.copytree(BASE, tmp_path / "base")))
    seen = []
    monkeypatch.setattr(model_check, "check_once", seen.append)
    monkeypatch.setattr(Qwen2_5_VL, "sharded", property(lambda self: self is vlm))
    ModelCheck().on_fit_start(SimpleNamespace(), SimpleNamespace(roles={"reasoner": SimpleNamespace(vlm=vlm)}))
    (checked,) = seen
    assert checked is not vlm
    assert not checked.sharded
    assert checked.fingerprint() == vlm.fingerprint()
