"""Packages that others import whole for a name or two are loaded when something else of them is used.

Lightning imports torchmetrics with all it has for images, texts and audio, and ``torch._dynamo`` for an ``isinstance``;
torchvision its models; transformers scikit-learn for one function: more than a run needs takes longer to load than all
that it does. ``defer_imports`` has ``import`` make such a package without running its code. That runs, once and in
full, as soon as anything is asked of it that ``LATE`` does not name, or anyone asks who is not named there. Of those
who are it is known that they take a name to call it, or for the class of instances, and ``LateName`` is both.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

Make = Callable[[str], Any]


class Late(NamedTuple):
    """What there is of a package before its code has run.

    Args:
        askers: The packages that take names of it at their own import.
        names: Those names; each is made by a function of it.
        apart: Names of submodules that need nothing of the package's own code; None says that of all.
    """

    askers: tuple[str, ...] = ()
    names: Mapping[str, Make] = {}
    apart: tuple[str, ...] | None = ()


def _from(module: str, *before: str) -> Make:
    """What a submodule has, imported after others of the package."""

    def make(name: str) -> Any:
        for each in (*before, module):
            importlib.import_module(each)
        return getattr(sys.modules[module], name)

    return make


class LateName:
    """A function or class that is looked up in its package once it is called, derived from, or asked for an attribute.

    Nothing is an instance of a class whose package has not run.
    """

    def __init__(self, package: str, name: str) -> None:
        self._package, self._name = package, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, or make an instance."""
        return _whole(self._package, self._name)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # as typing looks for
            raise AttributeError(f"{self._name} has no attribute {name!r} before {self._package} has run")
        return getattr(_whole(self._package, self._name), name)

    def __mro_entries__(self, bases: tuple) -> tuple[Any]:
        return (_whole(self._package, self._name),)

    def __instancecheck__(self, instance: Any) -> bool:
        return is_whole(self._package) and isinstance(instance, _whole(self._package, self._name))

    def __subclasscheck__(self, subclass: type) -> bool:
        return is_whole(self._package) and issubclass(subclass, _whole(self._package, self._name))


def _late(package: str, *names: str) -> dict[str, Make]:
    """Functions and classes of a package."""
    return dict.fromkeys(names, lambda name: LateName(package, name))


def _disable(name: str) -> Any:
    """What keeps a function from being compiled: nothing is before ``torch._dynamo`` has run."""

    def disable(fn: Callable | None = None, recursive: bool = True, **options: Any) -> Any:
        if fn is None:
            return partial(disable, recursive=recursive, **options)
        if is_whole("torch._dynamo") or not isinstance(fn, FunctionType):
            return _whole("torch._dynamo", name)(fn, recursive, **options)
        disabled: Callable | None = None

        @wraps(fn)
        def late(*args: Any, **kwargs: Any) -> Any:
            nonlocal disabled
            if disabled is None and is_whole("torch._dynamo"):
                disabled = _whole("torch._dynamo", name)(fn, recursive, **options)
            return (disabled or fn)(*args, **kwargs)

        return late

    return disable


def _mark(name: str) -> Any:
    """What marks a function for the compiler, and returns it: it is marked once ``torch._dynamo`` has run."""

    def mark(fn: Callable) -> Callable:
        if is_whole("torch._dynamo"):
            return _whole("torch._dynamo", name)(fn)
        loader = sys.modules["torch._dynamo"].__spec__.loader_state  # type: ignore[union-attr]
        loader.afterwards.append(lambda: _whole("torch._dynamo", name)(fn))
        return fn

    return mark


def _tensors(name: str, *names: str, apart: tuple[str, ...] = ()) -> dict[str, Late]:
    """A package of sharded tensors, which no run on one rank has any of."""
    return {name: Late(("transformers", "visplay"), _late(name, *names), apart)}


LATE: Mapping[str, Late] = {
    "torchmetrics": Late(
        ("lightning", "lightning_utilities", "torchmetrics", "visplay"),
        {
            "__version__": _from("torchmetrics.__about__"),
            "Metric": _from("torchmetrics.metric", "torchmetrics.utilities"),
            "MetricCollection": _from("torchmetrics.collections", "torchmetrics.utilities"),
            "_logger": lambda name: logging.getLogger("torchmetrics"),
        },
    ),
    "torchmetrics.utilities.plot": Late(
        ("torchmetrics",),
        {  # the types, of annotations, are those of an environment without matplotlib
            "_AX_TYPE": lambda name: object,
            "_PLOT_OUT_TYPE": lambda name: tuple[object, object],
            **_late("torchmetrics.utilities.plot", "plot_single_or_multi_val"),
        },
    ),
    "torch._dynamo": Late(
        ("lightning", "torch", "transformers"),
        _late("torch._dynamo", "OptimizedModule")
        | {"disable": _disable, "assume_constant_result": _mark, "allow_in_graph": _mark},
        apart=("torch._dynamo._trace_wrapped_higher_order_op",),
    ),
    "torch._inductor": Late(apart=("torch._inductor.config", "torch._inductor.custom_graph_pass")),
    **_tensors("torch.distributed._composable.fsdp", "fully_shard"),
    **_tensors(
        "torch.distributed.fsdp",
        *("CPUOffloadPolicy", "FSDPModule", "FullyShardedDataParallel", "MixedPrecisionPolicy"),
        *("fully_shard", "register_fsdp_forward_method"),
    ),
    **_tensors(
        "torch.distributed.tensor",
        *("DTensor", "Partial", "Replicate", "Shard", "distribute_tensor"),
        apart=("torch.distributed.tensor._utils", "torch.distributed.tensor.placement_types"),
    ),
    **_tensors("torch.distributed.tensor._utils", "compute_local_shape_and_global_offset"),
    **_tensors("torch.distributed.tensor.placement_types", "Shard", "_StridedShard"),
    **_tensors("transformers.distributed.sharding_utils", "DtensorShardOperation", "_dtensor_from_local_like"),
    **_tensors(
        "transformers.distributed.tensor_parallel",
        *("_get_parameter_plan", "_validate_parallel_plan_styles", "apply_expert_parallelism"),
        *("apply_tensor_parallelism", "gather_state_dict_for_save", "replace_layer_number_by_wildcard"),
        *("resolve_parallel_plans", "verify_tp_plan"),
    ),
    "torch.utils.flop_counter": Late(("lightning",), _late("torch.utils.flop_counter", "FlopCounterMode")),
    "torchvision.datasets": Late(),
    "torchvision.models": Late(),
    "torchvision.ops": Late(
        apart=("torchvision.ops.boxes", "torchvision.ops._box_convert", "torchvision.ops._utils"),
    ),
    "transformers.models": Late(apart=None),
    "transformers.tokenization_mistral_common": Late(
        ("transformers",), _late("transformers.tokenization_mistral_common", "MistralCommonBackend")
    ),
    "scipy.optimize": Late(("transformers",), _late("scipy.optimize", "linear_sum_assignment")),
    "sklearn": Late(apart=("sklearn.metrics",)),
    "sklearn.metrics": Late(("transformers",), _late("sklearn.metrics", "roc_curve")),
}
"""The packages, by their names."""

_ASKED_OF_ALL = ("__path__", "__warningregistry__", "__wrapped__")
"""What Python looks for in any module."""


class _LateModule(ModuleType):
    """A module whose code has not run yet, or is running."""

    def __getattr__(self, name: str) -> Any:
        assert self.__spec__ is not None
        loader = self.__spec__.loader_state
        if name in loader.late.names and not loader.is_running and _asker() in loader.late.askers:
            return loader.make(name)
        if name not in _ASKED_OF_ALL and loader.complete(self):
            return getattr(self, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _asker() -> str:
    """The package whose code asks a module for a name."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("importlib."):
        frame = frame.f_back
    return "" if frame is None else frame.f_globals.get("__name__", "").partition(".")[0]


class _LateLoader(Loader):
    """Makes a module without running its code.

    Args:
        name: Name of the module.
        loader: What runs it.
    """

    def __init__(self, name: str, loader: Loader) -> None:
        self.late = LATE[name]
        self.loader = loader
        self.lock = RLock()
        self.is_running = False
        self.is_making = False
        self.afterwards: list[Callable[[], object]] = []

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The module as it is always made."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it without what its code would give it."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader
        module.__spec__.loader_state = self
        module.__class__ = _LateModule

    def is_apart(self, name: str) -> bool:
        """Whether a submodule is imported without the package's own code."""
        return self.late.apart is None or name in self.late.apart

    def make(self, name: str) -> Any:
        """Make a name; what it is made of is imported without the rest."""
        with self.lock:
            before, self.is_making = self.is_making, True
            try:
                return self.late.names[name](name)
            finally:
                self.is_making = before

    def complete(self, module: ModuleType) -> bool:
        """Run the code unless that was done; False where it is this code, or what it imports, that asks."""
        above = sys.modules.get(module.__name__.rpartition(".")[0])
        if isinstance(above, _LateModule):
            above.__spec__.loader_state.complete(above)  # type: ignore[union-attr]
        with self.lock:
            if self.is_running:
                return False
            if isinstance(module, _LateModule):
                self.is_running = True
                try:
                    self.loader.exec_module(module)
                    module.__class__ = ModuleType  # type: ignore[assignment]
                    if (other := sys.modules[module.__name__]) is not module:  # which the code has put in its place
                        vars(module)["__getattr__"] = partial(getattr, other)
                finally:
                    self.is_running = False
                for call in self.afterwards:
                    call()
            return True


class _Present(Loader):
    """Gives a module that was imported while it was looked for."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__
        module.__spec__ = None  # else it would be loaded once more by this

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it was."""
        module.__spec__ = self.spec


class _LateFinder(MetaPathFinder):
    """Finds the packages of ``LATE``, and has them run before one of their submodules is imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Where a package is, with a loader that does not run it; None of what is imported as always."""
        above = name
        while above := above.rpartition(".")[0]:
            module = sys.modules.get(above)
            loader = module.__spec__.loader_state if isinstance(module, _LateModule) else None  # type: ignore[union-attr]
            if loader is None or loader.is_making or loader.is_apart(name):
                continue
            if loader.complete(module) and name in sys.modules:
                return ModuleSpec(name, _Present(sys.modules[name]))
        spec = PathFinder.find_spec(name, path, target) if name in LATE else None
        if spec is not None and spec.loader is not None:
            spec.loader = _LateLoader(name, spec.loader)
        return spec


def defer_imports() -> None:
    """Have the packages of ``LATE`` made without running them, but for those that are loaded already."""
    if not any(isinstance(finder, _LateFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LateFinder())


def is_whole(package: str) -> bool:
    """Whether the code of a package has run."""
    return package in sys.modules and not isinstance(sys.modules[package], _LateModule)


def _whole(package: str, name: str) -> Any:
    """What a package has under a name once its code has run."""
    module = importlib.import_module(package)
    if isinstance(module, _LateModule):
        module.__spec__.loader_state.complete(module)  # type: ignore[union-attr]
    return getattr(sys.modules[package], name)


def import_uncollected(name: str) -> ModuleType:
    """Import a module and all that it imports without looking for garbage: it makes none, and is searched many times.

    What is there afterwards is never searched again.
    """
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()
