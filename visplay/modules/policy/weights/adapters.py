"""The weights of a policy: a whole model, or LoRA adapters of several policies on one frozen model, through peft."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from visplay.modules.policy.family import Family
from visplay.modules.policy.weights import sharding
from visplay.modules.policy.weights.tuning import LoRA, Tuning
from visplay.types import derive_seed

T = TypeVar("T")

_PARTS = (".lora_A.", ".lora_B.")


class Adapters:
    """The adapters on a model, of which one at most is active; their names contain no dot.

    Args:
        model: It is frozen, and its target layers are replaced by peft's.
        lora: What an adapter is like.
        targets: Names of the layers to adapt, see ``Adaptable.adapted_layers``.

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

    def reset(self, name: str) -> None:
        """Give an adapter the values that it was added with."""
        fresh = f"{name}-{next(self._numbers)}"
        self._frozen.add(fresh)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.lora.seed, name))
            self._inject(fresh, self.config())
        self._copy(fresh, name)
        self.remove(fresh)

    def snapshot(self, name: str) -> str:
        """Copy an adapter as it is now into a frozen one; returns the copy's name."""
        copy = f"{name}-{next(self._numbers)}"
        self._frozen.add(copy)
        with torch.random.fork_rng(devices=[]):
            self._inject(copy, self.config(dropout=0.0))
        self._copy(name, copy)
        return copy

    @torch.no_grad()
    def _copy(self, source: str, target: str) -> None:
        weights = self.weights(target)
        for key, weight in self.weights(source).items():
            weights[key].copy_(weight)

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

    def full_names(self, name: str) -> dict[str, str]:
        """The model's names of the weights of an adapter, by those without the adapter's."""
        parts = [f"{part}{name}." for part in _PARTS]
        names = (full for full, _ in self.model.named_parameters() if any(part in full for part in parts))
        return {full.replace(f".{name}.", "."): full for full in names}

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """The weights of an adapter, by their names without the adapter's."""
        return {key: self.model.get_parameter(full) for key, full in self.full_names(name).items()}

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For ``torch.utils.checkpoint``: what is computed again is computed with the adapter of the first time."""
        return nullcontext(), self._activated(self._active)

    @contextmanager
    def _activated(self, name: str | None) -> Iterator[None]:
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


@torch.no_grad()
def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight under the checkpoint's name; nothing is kept, and the model stays as it is.

    A sharded weight (FSDP2) is gathered, in which every rank has to take part. A layer with LoRA adapters of peft gives
    the sum of its weight and of the active adapters' products; the adapters are left out. A tied weight comes once.
    """
    sharding.release(model)  # so that all ranks gather the same weights, whatever each has gathered
    modules = dict(model.named_modules())
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            continue
        adapted, _, rest = name.partition(".base_layer.")
        whole = sharding.whole(weight.detach())
        if rest == "weight":
            layer: Any = modules[adapted]
            off = layer.merged or layer.disable_adapters
            for active in [] if off else [name for name in layer.active_adapters if name in layer.scaling]:
                whole = whole + layer.get_delta_weight(active).to(whole.device)
        yield _checkpoint_name(name), whole


def _checkpoint_name(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


class Adaptable(Family):
    """The weights of a policy; of one that is an adapter, they alone are what it trains and what its state is.

    Attributes:
        tuning: What learns.
        adapters: The adapters on the model; None where the model itself is the policy.
        adapter: The name of this policy's; None for the base without one.
        shards: Of a frozen copy of a sharded policy, its own; they are in the model's place while it computes.
    """

    tuning: Tuning
    adapters: Adapters | None = None
    adapter: str | None = None
    shards: dict[str, Tensor] | None = None

    @property
    def model(self) -> Any:
        """The Hugging Face model, computing as this policy: its adapter is the active one."""
        if self.adapters is not None:
            self.adapters.activate(self.adapter)
        return self._modules.get("model")

    @model.setter
    def model(self, model: Any) -> None:
        self._modules["model"] = model

    @property
    def sharded(self) -> bool:
        """Whether the weights are sharded over ranks, who all take part wherever they are gathered."""
        return sharding.is_sharded(self._modules.get("model"))

    def shard(self, mesh: DeviceMesh) -> None:
        """Shard the model over the ranks of a mesh, unless another policy has; adapters stay whole on each rank.

        Raises:
            ValueError: Groups of this model are not packed into one row: its layers would be gathered a number of
                times that differs between ranks.
        """
        if self.sharded:
            return
        if reason := self.why_not_packed():
            raise ValueError(f"strategy: weights are sharded where groups are packed into one row, and {reason}")
        adapters = [weight for name, weight in self.model.named_parameters() if ".lora_" in name]
        sharding.shard(self.model, mesh, apart=adapters)

    def compute(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what computes with this policy's weights, such as ``logps``; sharded ones are gathered by layer."""
        if not self.sharded:
            return function(*args, **kwargs)
        try:
            with self._in_place():
                return sharding.compute(self.model, function, *args, **kwargs)
        finally:
            if not torch.is_grad_enabled():  # else a backward pass follows, and needs them
                sharding.release(self.model)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within it a frozen copy of a sharded policy can be sampled from, all its layers gathered."""
        with self._in_place():
            sharding.gather(self.model)
            yield

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Within it the model has the shards of a frozen copy in place of its own."""
        with nullcontext() if self.shards is None else sharding.exchanged(self.model, self.shards):
            yield

    def adapted_layers(self, tuning: Tuning) -> list[str]:
        """Names of the linear layers that get an adapter, never the head; none where the weights themselves learn.

        Raises:
            ValueError: A target that no layer of the parts that learn has, or no linear layer there at all.
        """
        if tuning.lora is None:
            return []
        learn = [m for part, modules in self.parts().items() if part not in tuning.freeze for m in modules]
        inside = {id(module) for part in learn for module in part.modules()} - {id(self.model.get_output_embeddings())}
        modules = self.model.named_modules()
        names = [name for name, module in modules if isinstance(module, nn.Linear) and id(module) in inside]
        known = {name.rpartition(".")[2] for name in names}
        targets = None if tuning.lora.targets is None else sorted(tuning.lora.targets)
        if not known or set(targets or ()) - known:
            raise ValueError(f"targets: the linear layers of the parts that learn are {sorted(known)}, got {targets}")
        return [name for name in names if targets is None or name.rpartition(".")[2] in targets]

    def unloaded(self) -> Self:
        """A copy of everything but the weights."""
        model, adapters = self._modules.get("model"), self.adapters
        fresh = copy.deepcopy(self, {id(model): None, id(adapters): None})
        fresh.adapter = None
        return fresh

    def view(self, adapter: str | None) -> Self:
        """A frozen policy on the same model: one of its adapters, or the base; the weights are not copied."""
        shared = (self._modules["model"], self.adapters, self.processor)
        view = copy.deepcopy(self, {id(each): each for each in shared})
        view.adapter, view.training = adapter, False
        return view

    def frozen_copy(self) -> Self:
        """A frozen copy of the policy as it is now; of an adapter, on the same model, and gone when the policy is."""
        if self.sharded and self.adapters is None:
            return self._with_shards(self.model)
        if self.adapters is None:
            return copy.deepcopy(self).requires_grad_(False).eval()
        if self.adapter is None:
            return self.view(None)
        name = self.adapters.snapshot(self.adapter)
        view = self.view(name)
        weakref.finalize(view, self.adapters.remove, name).atexit = False
        return view

    def _with_shards(self, model: nn.Module) -> Self:
        """A frozen policy on the same model, with the shards that a model of its weights would have."""
        view, own = self.view(None), sharding.shards(self.model)
        weights = dict(model.named_parameters())
        view.shards = {name: sharding.like(weights[name], shard).detach().clone() for name, shard in own.items()}
        return view

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's weights, and those of this policy's adapter under names without the adapter's.

        Of sharded weights this rank's parts.
        """
        sharding.release(self.model)
        if self.adapters is None:
            with self._in_place():
                yield from self.model.named_parameters()
            return
        for name, weight in self.model.named_parameters():
            if ".lora_" not in name:
                yield name.replace(".base_layer.", "."), weight
        yield from self._own().items()

    def weights(self, device: torch.device | None = None) -> Iterator[tuple[str, Tensor]]:
        """Every weight, whole and detached, under the name that engines take; see ``whole_weights``.

        Args:
            device: Where each is given; None leaves it where it is.
        """
        with self._in_place():
            for name, weight in whole_weights(self.model):
                yield self.released_name(name), weight.to(device=device)

    def weight_shapes(self) -> dict[str, torch.Size]:
        """The shapes of ``weights``, in their order, by their names; nothing is gathered."""
        named = ((name, weight) for name, weight in self.model.named_parameters() if ".lora_" not in name)
        return {self.released_name(_checkpoint_name(name)): weight.shape for name, weight in named}

    def trained_weights(self) -> list[nn.Parameter]:
        """The weights that an optimizer is given; of sharded ones this rank's parts."""
        sharding.release(self.model)
        weights = self.model.parameters() if self.adapters is None else self._own().values()
        return [weight for weight in weights if weight.requires_grad]

    def _own(self) -> dict[str, nn.Parameter]:
        return {} if self.adapters is None or self.adapter is None else self.adapters.weights(self.adapter)

    def state_dict(self, *args: Any, prefix: str = "", keep_vars: bool = False, **options: Any) -> Any:
        """The state; of an adapter's policy, its own weights and not the model's, which stay those of ``path``."""
        state = super().state_dict(*args, prefix=prefix, keep_vars=keep_vars, **options)
        if self.shards is not None:
            names = sharding.first_names(self.model).items()
            state.update({f"{prefix}model.{name}": self.shards[first] for name, first in names})
        if self.adapters is None:
            return state
        for name in [name for name in state if name.startswith(f"{prefix}model.")]:
            del state[name]
        own = self._own().items()
        state.update({f"{prefix}model.{name}": weight if keep_vars else weight.detach() for name, weight in own})
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Undo ``state_dict``; a frozen copy that has shards takes its parts of whole weights."""
        if self.shards is not None:
            for name, shard in self.shards.items():
                shard.copy_(sharding.like(state_dict[f"model.{name}"], shard))
            return None
        return super().load_state_dict(state_dict, *args, **options)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Undo ``state_dict``: what it left out stays as it is."""
        if self.adapters is not None and self.adapter is not None:
            unexpected = rest[3]
            here = f"{prefix}model."
            given = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(here)}
            own = {f"{here}{name}": f"{here}{full}" for name, full in self.adapters.full_names(self.adapter).items()}
            unexpected += [name for name in given if name not in own]
            kept = {f"{here}{name}": weight for name, weight in self.model.state_dict().items()}
            state_dict |= {name: weight for name, weight in kept.items() if name not in own.values()}
            state_dict |= {own[name]: weight for name, weight in given.items() if name in own}
        super()._load_from_state_dict(state_dict, prefix, *rest)
