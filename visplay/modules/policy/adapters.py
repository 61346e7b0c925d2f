"""LoRA adapters of several policies on one frozen model, through peft; one of them at most is active."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from typing import Any

import torch
from torch import nn

from visplay.modules.policy.tuning import LoRA
from visplay.types import derive_seed

_PARTS = (".lora_A.", ".lora_B.")


class Adapters:
    """The adapters on a model; their names contain no dot.

    Args:
        model: It is frozen, and its target layers are replaced by peft's.
        lora: What an adapter is like.
        targets: Names of the layers to adapt, see ``target_names``.

    Raises:
        ImportError: peft is not installed.
    """

    def __init__(self, model: nn.Module, lora: LoRA, targets: Sequence[str]) -> None:
        self.model = model.requires_grad_(False)
        self.lora = lora
        self.targets = list(targets)
        self._layers: list[Any] = []
        self._active: str | None = None
        self._frozen: set[str] = set()
        self._numbers = count()

    def config(self, dropout: float | None = None) -> Any:
        """What peft makes an adapter from."""
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise ImportError("lora: adapters need peft: install visplay[lora], or give lora: null") from error
        dropout = self.lora.dropout if dropout is None else dropout
        settings = {"r": self.lora.rank, "lora_alpha": self.lora.alpha, "lora_dropout": dropout}
        return LoraConfig(target_modules=self.targets, **settings)

    def add(self, name: str) -> None:
        """Add an adapter whose first product is zero; its values follow from the seed and its name."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.lora.seed, name))
            self._inject(name, self.config())

    def snapshot(self, name: str) -> str:
        """Copy an adapter as it is now into a frozen one; returns the copy's name."""
        copy = f"{name}-{next(self._numbers)}"
        self._frozen.add(copy)
        with torch.random.fork_rng(devices=[]):
            self._inject(copy, self.config(dropout=0.0))
        weights = self.weights(copy)
        with torch.no_grad():
            for key, weight in self.weights(name).items():
                weights[key].copy_(weight)
        return copy

    def remove(self, name: str) -> None:
        """Take an adapter away."""
        if self._active == name:
            self.activate(None)
        for layer in self._layers:
            layer.delete_adapter(name)
        self.model.peft_config.pop(name)  # type: ignore[union-attr,operator]
        self._frozen.discard(name)

    def activate(self, name: str | None) -> None:
        """Have the model compute with this adapter, or with none.

        peft's own ``set_adapter`` would also freeze the others, and drop the gradients of a graph that is not yet done.
        """
        if name != self._active:
            self._active = name
            for layer in self._layers:
                layer._active_adapter = [] if name is None else [name]

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """The weights of an adapter, by their names without the adapter's."""
        return {
            full.replace(f".{name}.", "."): weight
            for full, weight in self.model.named_parameters()
            if any(f"{part}{name}." in full for part in _PARTS)
        }

    def full_names(self, name: str) -> dict[str, str]:
        """The model's names of the weights of an adapter, by those without the adapter's."""
        full = {id(weight): key for key, weight in self.model.named_parameters()}
        return {key: full[id(weight)] for key, weight in self.weights(name).items()}

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For ``torch.utils.checkpoint``: what is computed again is computed with the adapter of the first time."""
        return nullcontext(), self._held(self._active)

    @contextmanager
    def _held(self, name: str | None) -> Iterator[None]:
        before = self._active
        self.activate(name)
        try:
            yield
        finally:
            self.activate(before)

    def _inject(self, name: str, config: Any) -> None:
        from peft import inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")  # that is the point
            inject_adapter_in_model(config, self.model, adapter_name=name)
        self._layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        for layer in self._layers:
            layer._active_adapter = []
        self._active = None
        for known in self.model.peft_config:  # type: ignore[union-attr]
            for weight in self.weights(known).values():
                weight.requires_grad_(known not in self._frozen)


def target_names(model: Any, parts: Sequence[nn.Module], targets: Sequence[str] | None) -> list[str]:
    """Names of the linear layers in some parts of a model, all but its head or those whose last name is a target.

    Raises:
        ValueError: A target that no layer there has, or no linear layer at all.
    """
    inside = {id(module) for part in parts for module in part.modules()}
    head = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside and module is not head
    ]
    known = {name.rpartition(".")[2] for name in names}
    if not known or set(targets or ()) - known:
        raise ValueError(f"targets: the linear layers of the parts that learn are {sorted(known)}, got {targets}")
    return [name for name in names if targets is None or name.rpartition(".")[2] in targets]
