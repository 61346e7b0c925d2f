"""Which weights are evaluated: a Hugging Face directory, a Hub name, or a role in a checkpoint of a run."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from visplay.functional.phases import RoleName

if TYPE_CHECKING:
    from visplay.modules.vlm import VLM


@dataclass(frozen=True)
class ModelSource:
    """Where the weights of a model to evaluate are.

    Args:
        path: A Hugging Face directory, a Hub name, or a checkpoint that a run wrote (``.ckpt``); null is the
            configuration's own model.
        role: Whose policy to take from a checkpoint of a run.
        revision: Hub revision.

    Raises:
        ValueError: An unknown role.
    """

    path: str | None = None
    role: RoleName = "reasoner"
    revision: str | None = None

    def __post_init__(self) -> None:
        """Refuse a role that there is none of."""
        if self.role not in get_args(RoleName):
            raise ValueError(f"role: must be one of {get_args(RoleName)}, got {self.role!r}")

    @property
    def is_of_a_run(self) -> bool:
        """Whether this is a checkpoint that a run wrote."""
        return self.path is not None and self.path.endswith(".ckpt")

    def check(self) -> None:
        """See early, before another model is evaluated, that there is something to load.

        Raises:
            FileNotFoundError: There is no such checkpoint, or what looks like a path is no folder with a model.
            ValueError: It is no checkpoint of a run, or holds no policy of the role.
        """
        if self.path is None:
            return
        if self.is_of_a_run:
            read_policy(self.path, self.role)
            return
        path = Path(self.path)
        is_local = path.is_absolute() or self.path.startswith(".") or path.is_dir() or len(path.parts) > 2
        if is_local and not (path / "config.json").is_file():
            raise FileNotFoundError(f"path: {self.path!r} is neither a Hub name nor a folder with a config.json")

    def load(self, like: VLM) -> VLM:
        """Load the weights.

        Args:
            like: The configured model: family, limits of pictures and of the context are its own. It is left alone.

        Raises:
            FileNotFoundError: There is no such checkpoint or model.
            ValueError: The checkpoint holds no policy of the role, or one of another architecture.
        """
        vlm = copy.deepcopy(like, {id(like.model): None})  # everything but the weights
        if self.path is not None and not self.is_of_a_run:
            vlm.path, vlm.revision = self.path, self.revision
        vlm.load()
        if self.path is not None and self.is_of_a_run:
            _restore(vlm, self.path, self.role)
        return vlm


def _restore(vlm: VLM, path: str, role: RoleName) -> None:
    weights = read_policy(path, role)
    expected = vlm.model.state_dict()
    if differing := sorted(n for n in expected.keys() | weights.keys() if _shape(expected, n) != _shape(weights, n)):
        name = differing[0]
        raise ValueError(
            f"path: {len(differing)} weights of {path!r} are not those of {vlm.path!r}, such as {name!r}: "
            f"{_shape(weights, name)} and {_shape(expected, name)}"
        )
    vlm.model.load_state_dict(weights)


def read_policy(path: str, role: RoleName) -> dict[str, Tensor]:
    """Weights of a role's policy in a checkpoint of a run; of a role that was fitted alone, whatever its name.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is no checkpoint of a run, or holds no policy of the role.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no checkpoint {path!r}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except (EOFError, KeyError, OSError, RuntimeError, TypeError, UnpicklingError) as error:
        raise ValueError(f"path: {path!r} is no checkpoint of a run, or not a whole one: {error!r}") from error
    for prefix in (f"{role}.vlm.model.", "vlm.model."):
        if weights := {name.removeprefix(prefix): w for name, w in state.items() if name.startswith(prefix)}:
            return weights
    raise ValueError(f"path: {path!r} holds no policy of a {role}")


def _shape(weights: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
