import json
import shutil
from contextlib import suppress
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest
import torch

from visplay.modules import Qwen2_5_VL
from visplay.modules.policy.weights.model_source import ModelSource, check_checkpoint, read_policy
from visplay.tiny import BASE


@pytest.fixture
def like():
    """The configured model, which nobody has loaded."""
    return Qwen2_5_VL(str(BASE), max_pixels=25 * 14**2, max_context_tokens=200)


@pytest.fixture
def other(fresh_base):
    """A model of the same architecture with other weights."""
    with torch.no_grad():
        for weight in fresh_base.parameters():
            weight.add_(0.5)
    return fresh_base


def _checkpoint(path, **policies):
    state = {
        f"{prefix}.{name}": weight for prefix, vlm in policies.items() for name, weight in vlm.state_dict().items()
    }
    torch.save({"state_dict": {name.replace("__", "."): weight for name, weight in state.items()}}, path)
    return str(path)


def _is_alone(vlm, like):
    return vlm is not like and like.model is None and like.path == str(BASE) and like.revision is None


def test_the_configured_model_itself(like, base):
    vlm = ModelSource().load(like)
    assert (vlm.fingerprint(), vlm.path) == (base.fingerprint(), str(BASE))
    assert _is_alone(vlm, like)


def test_a_hugging_face_directory(like, base, other, tmp_path):
    other.save(tmp_path / "saved")
    vlm = ModelSource(str(tmp_path / "saved"), revision="v2").load(like)
    assert vlm.fingerprint() == other.fingerprint() != base.fingerprint()
    assert (vlm.path, vlm.revision) == (str(tmp_path / "saved"), "v2")
    assert _is_alone(vlm, like)


def test_limits_are_those_of_the_configured_model(like, other, tmp_path):
    other.save(tmp_path / "saved")
    path = _checkpoint(tmp_path / "run.ckpt", vlm=other)
    for source in (ModelSource(), ModelSource(str(tmp_path / "saved")), ModelSource(path)):
        vlm = source.load(like)
        assert (vlm.most_image_tokens, vlm.context_tokens) == (70, 200)


def test_both_roles_of_a_run(like, base, other, tmp_path):
    path = _checkpoint(tmp_path / "run.ckpt", questioner__vlm=base, reasoner__vlm=other)
    assert ModelSource(path).load(like).fingerprint() == other.fingerprint()
    assert ModelSource(path, role="questioner").load(like).fingerprint() == base.fingerprint()
    assert like.model is None


def test_a_role_that_was_fitted_alone(like, other, tmp_path):
    path = _checkpoint(tmp_path / "run.ckpt", vlm=other)
    for role in ("questioner", "reasoner"):
        vlm = ModelSource(path, role).load(like)
        assert vlm.fingerprint() == other.fingerprint()
        assert _is_alone(vlm, like)


def test_a_model_that_is_loaded_is_left_alone(fresh_base, other, tmp_path):
    like, path = Qwen2_5_VL(str(BASE)), _checkpoint(tmp_path / "run.ckpt", vlm=other)
    like.load()
    weights, before = like.model, like.fingerprint()
    vlm = ModelSource(path).load(like)
    assert vlm.fingerprint() == other.fingerprint()
    assert like.model is weights
    assert like.fingerprint() == before
    assert vlm.processor is not like.processor
    with torch.no_grad():
        vlm.head_weight.zero_()
    assert like.fingerprint() == before


def test_another_architecture_is_refused_by_name(like, base, tmp_path):
    state = {f"vlm.{name}": weight for name, weight in base.state_dict().items()}
    name = "model.model.language_model.norm.weight"
    for changed, words in (
        ({f"vlm.{name}": torch.zeros(3)}, r"1 weights of .*run.ckpt' are not .*norm.weight': \(3,\) and \(\d+,\)"),
        ({"vlm.model.more": torch.zeros(3)}, r"such as 'more': \(3,\) and None"),
    ):
        torch.save({"state_dict": state | changed}, tmp_path / "run.ckpt")
        with pytest.raises(ValueError, match=words):
            ModelSource(str(tmp_path / "run.ckpt")).load(like)
    del state[f"vlm.{name}"]
    torch.save({"state_dict": state}, tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match=r"such as 'model.language_model.norm.weight': None and \(\d+,\)"):
        ModelSource(str(tmp_path / "run.ckpt")).load(like)


def test_a_checkpoint_without_the_role(like, base, tmp_path):
    path = _checkpoint(tmp_path / "run.ckpt", questioner__vlm=base)
    with pytest.raises(ValueError, match=r"path: '.*run.ckpt' holds no policy of a reasoner"):
        ModelSource(path).load(like)


def test_what_is_not_there(like, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: there is no checkpoint '.*run.ckpt'"):
        ModelSource(str(tmp_path / "run.ckpt")).load(like)
    with pytest.raises(FileNotFoundError):
        ModelSource(str(tmp_path)).load(like)


def test_a_file_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "run.ckpt"
    torch.save({"state_dict": {"reasoner.vlm.model.a": torch.zeros(9999)}}, path)
    half = path.read_bytes()[:20000]
    torch.save({"weights": 1}, path)
    for content in (b"", b"garbage", half, path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"path: '.*run.ckpt' is no checkpoint of a run"):
            read_policy(str(path), "reasoner")


def test_a_checkpoint_that_unpacks_to_anything(tmp_path):
    """torch stores what it writes; compressed, a thousand times as much may follow from it."""
    torch.save({"state_dict": {"vlm.model.a": torch.zeros(1000)}}, tmp_path / "a.ckpt")
    with ZipFile(tmp_path / "a.ckpt") as sound, ZipFile(tmp_path / "b.ckpt", "w", ZIP_DEFLATED) as bomb:
        for name in sound.namelist():
            bomb.writestr(name, sound.read(name), ZIP_STORED)
        bomb.writestr("a/data/1", bytes(10**6))
    check_checkpoint(str(tmp_path / "a.ckpt"))
    with pytest.raises(ValueError, match=r"b.ckpt' is no checkpoint .*: 'a/data/1' in it is compressed"):
        check_checkpoint(str(tmp_path / "b.ckpt"))


class _Runs:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def test_a_checkpoint_is_no_program(tmp_path):
    torch.save({"state_dict": {}, "x": _Runs()}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt' is no checkpoint of a run, or not a whole one: Weights only"):
        check_checkpoint(str(tmp_path / "a.ckpt"))


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_code_that_a_checkpoint_brings_along_is_neither_run_nor_asked_about(tmp_path, monkeypatch, file):
    shutil.copytree(BASE, tmp_path / "model")
    settings = json.loads((tmp_path / "model" / file).read_text())
    classes = ("AutoConfig", "AutoProcessor", "AutoTokenizer", "AutoModelForImageTextToText")
    settings |= {"model_type": "own", "processor_class": "Own", "tokenizer_class": "Own"}
    settings["auto_map"] = {name: ["own.Own", "own.Own"] if "Tok" in name else "own.Own" for name in classes}
    (tmp_path / "model" / file).write_text(json.dumps(settings))
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    with suppress(Exception):
        Qwen2_5_VL(str(tmp_path / "model")).load()
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_whose_end_is_damaged(tmp_path):
    """What zipfile raises in telling whether a file is an archive."""
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    data = (tmp_path / "a.ckpt").read_bytes()
    end = data.rindex(b"PK\x06\x07") + 16  # of how many disks it is said to be
    (tmp_path / "a.ckpt").write_bytes(data[:end] + b"\x7f" + data[end + 1 :])
    with pytest.raises(ValueError, match="a.ckpt' is no checkpoint of a run, or not a whole one"):
        check_checkpoint(str(tmp_path / "a.ckpt"))
