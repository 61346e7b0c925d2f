"""A policy that is a whole model, or an adapter on a model that other policies share."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import nn

from visplay.modules.policy.adapters import Adapters, target_names
from visplay.modules.policy.family import Family
from visplay.modules.policy.tuning import Tuning

Self = TypeVar("Self", bound="Adaptable")


class Adaptable(Family):
    """The weights of a policy; of one that is an adapter, they alone are what it trains and what its state is.

    Attributes:
        tuning: What learns.
        adapters: The adapters on the model; None where the model itself is the policy.
        adapter: The name of this policy's; None for the base without one.
    """

    tuning: Tuning
    adapters: Adapters | None = None
    adapter: str | None = None

    @property
    def model(self) -> Any:
        """The Hugging Face model, computing as this policy: its adapter is the active one."""
        if self.adapters is not None:
            self.adapters.activate(self.adapter)
        return self._modules.get("model")

    @model.setter
    def model(self, model: Any) -> None:
        self._modules["model"] = model

    def set_up_tuning(self, name: str, beside: Adaptable | None = None) -> None:
        """Freeze what does not learn, and add this policy's adapter.

        Args:
            name: Of the adapter.
            beside: A policy on the same model, with adapters already.

        Raises:
            ValueError: A target that no layer has.
        """
        frozen = [module for part in self.tuning.freeze for module in self.parts()[part]]
        lora = self.tuning.lora
        if lora is None:
            for module in frozen:
                module.requires_grad_(False)
            return
        if beside is None:
            self.adapters = Adapters(self.model, lora, self.adapted_layers(self.tuning))
        else:
            self.adapters = beside.adapters
        assert self.adapters is not None, "a policy beside this one is an adapter too"
        self.adapters.add(name)
        self.adapter = name

    def adapted_layers(self, tuning: Tuning) -> list[str]:
        """Names of the linear layers that get an adapter; none where the weights themselves learn.

        Raises:
            ValueError: A target that no layer has.
        """
        if tuning.lora is None:
            return []
        learn = [m for part, modules in self.parts().items() if part not in tuning.freeze for m in modules]
        targets = None if tuning.lora.targets is None else sorted(tuning.lora.targets)
        return target_names(self.model, learn, targets)

    def unloaded(self: Self) -> Self:
        """A copy of everything but the weights."""
        model, adapters = self._modules.get("model"), self.adapters
        fresh = copy.deepcopy(self, {id(model): None, id(adapters): None})
        fresh.adapter = None
        return fresh

    def view(self: Self, adapter: str | None) -> Self:
        """A frozen policy on the same model: one of its adapters, or the base; the weights are not copied."""
        shared = (self._modules["model"], self.adapters, self.processor)
        view = copy.deepcopy(self, {id(each): each for each in shared})
        view.adapter, view.training = adapter, False
        return view

    def snapshot(self: Self) -> Self:
        """A frozen policy with a copy of the adapter as it is now, which goes when the policy does."""
        assert self.adapters is not None, "a whole model is copied whole"
        if self.adapter is None:
            return self.view(None)
        name = self.adapters.snapshot(self.adapter)
        view = self.view(name)
        weakref.finalize(view, self.adapters.remove, name).atexit = False
        return view

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's weights, and those of this policy's adapter under names without the adapter's."""
        if self.adapters is None:
            yield from self.model.named_parameters()
            return
        for name, weight in self.model.named_parameters():
            if ".lora_" not in name:
                yield name.replace(".base_layer.", "."), weight
        yield from self._own().items()

    def trained_weights(self) -> list[nn.Parameter]:
        """The weights that an optimizer is given."""
        weights = self.model.parameters() if self.adapters is None else self._own().values()
        return [weight for weight in weights if weight.requires_grad]

    def _own(self) -> dict[str, nn.Parameter]:
        return {} if self.adapters is None or self.adapter is None else self.adapters.weights(self.adapter)

    def state_dict(self, *args: Any, prefix: str = "", keep_vars: bool = False, **options: Any) -> Any:
        """The state; of an adapter's policy, its own weights and not the model's, which stay those of ``path``."""
        state = super().state_dict(*args, prefix=prefix, keep_vars=keep_vars, **options)
        if self.adapters is None:
            return state
        for name in [name for name in state if name.startswith(f"{prefix}model.")]:
            del state[name]
        own = self._own().items()
        state.update({f"{prefix}model.{name}": weight if keep_vars else weight.detach() for name, weight in own})
        return state

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
