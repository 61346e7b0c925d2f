"""Which weights are evaluated: a Hugging Face directory, a Hub name, or a role in a checkpoint of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor

from visplay.data.files import checksum_file, sha256
from visplay.data.hub_names import check_reachable
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.loading import ADAPTER_CONFIG
from visplay.modules.policy.weights.saving import merge_adapter
from visplay.modules.policy.weights.tuning import Tuning


@dataclass(frozen=True)
class ModelSource:
    """Where the weights of a model to evaluate are.

    Args:
        path: A Hugging Face directory, a Hub name, a checkpoint that a run wrote (``.ckpt``), or the directory of an
            exported adapter, which is merged into its base; null is the configuration's own model.
        role: Whose policy to take from a checkpoint of a run.
        revision: Hub revision.
    """

    path: str | None = None
    role: str = "reasoner"
    revision: str | None = None

    @property
    def is_of_a_run(self) -> bool:
        """Whether this is a checkpoint that a run wrote."""
        return self.path is not None and self.path.endswith(".ckpt")

    def check(self) -> None:
        """See early, before another model is evaluated, that there is something to load.

        Raises:
            ConnectionError: It may be on the Hub, which does not answer.
            FileNotFoundError: There is no such checkpoint, or what looks like a path is no directory with a model.
            ValueError: It is no checkpoint of a run, damaged, or holds no policy of the role.
        """
        if self.path is None:
            return
        if self.is_of_a_run:
            check_checkpoint(self.path)
            read_policy(self.path, self.role)
            return
        path = Path(self.path)
        is_local = path.is_absolute() or self.path.startswith(".") or path.is_dir() or len(path.parts) > 2
        if is_local and not any((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
            raise FileNotFoundError(
                f"path: {self.path!r} is neither a Hub name nor a directory with a config.json or an {ADAPTER_CONFIG}"
            )
        check_reachable(self.path, "model")

    def load(self, like: VLM) -> VLM:
        """Load the weights.

        Args:
            like: The configured model: family, limits of images and of the context are its own. It is left alone.

        Raises:
            FileNotFoundError: There is no such checkpoint or model.
            ValueError: The checkpoint holds no policy of the role, or one of another architecture.
        """
        vlm = like.unloaded()
        if self.path is None:
            vlm.load()
        elif self.is_of_a_run:
            vlm.load()
            _restore(vlm, self.path, self.role)
        elif (Path(self.path) / ADAPTER_CONFIG).is_file():
            _load_merged(vlm, Path(self.path))
        else:
            vlm.path, vlm.revision, vlm.tuning = self.path, self.revision, Tuning()
            vlm.load()
        return vlm


def _load_merged(vlm: VLM, directory: Path) -> None:
    config = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    vlm.path, vlm.revision = config.get("base_model_name_or_path") or vlm.path, config.get("revision")
    vlm.tuning = Tuning()
    is_whole = (directory / "processor_config.json").is_file()  # as written here; peft itself writes no processor
    vlm.load(processor_path=str(directory) if is_whole else None)
    merge_adapter(vlm.model, directory)


def _restore(vlm: VLM, path: str, role: str) -> None:
    weights = read_policy(path, role)
    expected = {name.removeprefix("model."): weight for name, weight in vlm.state_dict().items()}
    if (vlm.adapters is not None) != any(".lora_" in name for name in weights):
        kinds = ("whole weights", "adapters") if vlm.adapters is not None else ("adapters", "whole weights")
        raise ValueError(f"path: {path!r} holds {kinds[0]}, and tuning.lora of the configuration is for {kinds[1]}")
    if differing := sorted(n for n in expected.keys() | weights.keys() if _shape(expected, n) != _shape(weights, n)):
        name = differing[0]
        raise ValueError(
            f"path: {len(differing)} weights of {path!r} are not those of {vlm.path!r}, such as {name!r}: "
            f"{_shape(weights, name)} and {_shape(expected, name)}"
        )
    vlm.load_state_dict({f"model.{name}": weight for name, weight in weights.items()})


def read_checkpoint(path: str, argument: str = "path") -> dict[str, Any]:
    """What a run wrote into a checkpoint, as tensors and plain values; tensors stay on the disk until they are used.

    Args:
        path: The file.
        argument: What errors call it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint of a run, or not a whole one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{argument}: there is no checkpoint {path!r}; give a file *.ckpt that a run wrote")
    if not _is_archive(path):
        size = Path(path).stat().st_size
        raise ValueError(
            f"{argument}: {path!r} is no checkpoint of a run, or not a whole one: {size} bytes, and no archive"
        )
    try:
        with ZipFile(path) as archive:
            if packed := [info.filename for info in archive.infolist() if info.compress_type != ZIP_STORED]:
                raise BadZipFile(f"{packed[0]!r} in it is compressed, which no run writes")  # and may be of any size
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what torch makes of bytes that are no archive of its own is no list of errors
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{argument}: {path!r} is no checkpoint of a run, or not a whole one: {reason}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise ValueError(f"{argument}: {path!r} is no checkpoint of a run: it has no state_dict")
    return checkpoint


def _is_archive(path: str) -> bool:
    try:
        return is_zipfile(path)
    except BadZipFile:  # a damaged end of one
        return False


def check_checkpoint(path: str, argument: str = "path") -> None:
    """See that a checkpoint is as it was written, by the hash beside it or the checksums in it; torch does not look.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint of a run, not a whole one, or damaged.
    """
    read_checkpoint(path, argument)
    beside = checksum_file(Path(path))
    if beside.is_file():
        expected, found = beside.read_text().partition(" ")[0], sha256(Path(path))
        if found != expected:
            raise ValueError(f"{argument}: {path!r} is damaged: its SHA-256 is {found}, and {expected} when written")
        return
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
    except (BadZipFile, OSError) as error:
        raise ValueError(f"{argument}: {path!r} is damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{argument}: {path!r} is damaged: the checksum of {damaged!r} in it is another")


def read_policy(path: str, role: str) -> dict[str, Tensor]:
    """Weights of a role's policy in a checkpoint of a run; of a role that was fitted alone, whatever its name.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is no checkpoint of a run, or holds no policy of the role.
    """
    state = read_checkpoint(path)["state_dict"]
    for prefix in (f"{role}.vlm.model.", "vlm.model."):
        if weights := {name.removeprefix(prefix): w for name, w in state.items() if name.startswith(prefix)}:
            return weights
    raise ValueError(f"path: {path!r} holds no policy of a {role}")


def _shape(weights: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
