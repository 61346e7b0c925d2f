"""Packages that others import whole for one name of theirs are loaded when something else of them is used.

Lightning imports torchmetrics with all it has for images, texts and audio, and ``torch._dynamo`` for one ``isinstance``;
torchvision its models; transformers scikit-learn for one function. Each takes longer to load than all that a run needs.
``defer_imports`` has ``import`` make such a package without running its code. That runs, once and in full, as soon as
another name or submodule of it is asked for than those in ``LATE``, whoever asks: nobody is given less of a package.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

Make = Callable[[str], Any]


class Late(NamedTuple):
    """What there is of a package before its code has run.

    Args:
        names: What others take of it at their own import: each is made by a function of its name.
        apart: Names of submodules that need nothing of the package's own code; None where none does.
    """

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
        loader = sys.modules["torch._dynamo"].__spec__.loader_state  # type: ignore[union-attr]
        loader.afterwards.append(lambda: _whole("torch._dynamo", name)(fn))
        return fn

    return mark


LATE: Mapping[str, Late] = {
    "torchmetrics": Late(
        {
            "__version__": _from("torchmetrics.__about__"),
            "Metric": _from("torchmetrics.metric", "torchmetrics.utilities"),
            "MetricCollection": _from("torchmetrics.collections", "torchmetrics.utilities"),
            "_logger": lambda name: logging.getLogger("torchmetrics"),
        }
    ),
    "torchmetrics.utilities.plot": Late(
        {  # the types, of annotations, are those of an environment without matplotlib
            "_AX_TYPE": lambda name: object,
            "_PLOT_OUT_TYPE": lambda name: tuple[object, object],
            **_late("torchmetrics.utilities.plot", "plot_single_or_multi_val"),
        }
    ),
    "torch._dynamo": Late(
        _late("torch._dynamo", "OptimizedModule")
        | {"disable": _disable, "assume_constant_result": _mark, "allow_in_graph": _mark},
        apart=("torch._dynamo._trace_wrapped_higher_order_op",),
    ),
    "torch.distributed._composable.fsdp": Late(_late("torch.distributed._composable.fsdp", "fully_shard")),
    "torch.distributed.fsdp": Late(
        _late(
            "torch.distributed.fsdp",
            *("CPUOffloadPolicy", "FSDPModule", "FullyShardedDataParallel", "MixedPrecisionPolicy"),
            *("fully_shard", "register_fsdp_forward_method"),
        )
    ),
    "torch.distributed.tensor": Late(
        _late("torch.distributed.tensor", "DTensor", "Partial", "Replicate", "Shard", "distribute_tensor"),
        apart=("torch.distributed.tensor._utils", "torch.distributed.tensor.placement_types"),
    ),
    "torch.distributed.tensor._utils": Late(
        _late("torch.distributed.tensor._utils", "compute_local_shape_and_global_offset")
    ),
    "torch.distributed.tensor.placement_types": Late(
        _late("torch.distributed.tensor.placement_types", "Shard", "_StridedShard")
    ),
    "torch._inductor": Late(apart=("torch._inductor.config", "torch._inductor.custom_graph_pass")),
    "torch.utils.flop_counter": Late(_late("torch.utils.flop_counter", "FlopCounterMode")),
    "torchvision.datasets": Late(),
    "torchvision.models": Late(),
    "torchvision.ops": Late(
        apart=("torchvision.ops.boxes", "torchvision.ops._box_convert", "torchvision.ops._utils"),
    ),
    "transformers.models": Late(apart=None),
    "transformers.tokenization_mistral_common": Late(
        _late("transformers.tokenization_mistral_common", "MistralCommonBackend")
    ),
    "transformers.distributed.sharding_utils": Late(
        _late("transformers.distributed.sharding_utils", "DtensorShardOperation", "_dtensor_from_local_like")
    ),
    "transformers.distributed.tensor_parallel": Late(
        _late(
            "transformers.distributed.tensor_parallel",
            *("_get_parameter_plan", "_validate_parallel_plan_styles", "apply_expert_parallelism"),
            *("apply_tensor_parallelism", "gather_state_dict_for_save", "replace_layer_number_by_wildcard"),
            *("resolve_parallel_plans", "verify_tp_plan"),
        )
    ),
    "scipy.optimize": Late(_late("scipy.optimize", "linear_sum_assignment")),
    "sklearn": Late(apart=("sklearn.metrics",)),
    "sklearn.metrics": Late(_late("sklearn.metrics", "roc_curve")),
}
"""The packages, by their names."""


_ASKED_OF_ALL = ("__path__", "__warningregistry__", "__wrapped__")
"""What Python looks for in any module."""


class _LateModule(ModuleType):
    """A module whose code has not run yet, or is running."""

    def __getattr__(self, name: str) -> Any:
        assert self.__spec__ is not None
        loader = self.__spec__.loader_state
        if name in LATE[self.__name__].names and not loader.is_running:
            return loader.make(name)
        if name not in _ASKED_OF_ALL and loader.complete(self):
            return getattr(sys.modules[self.__name__], name)  # it may have put another in its place
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


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
                    module.__class__ = ModuleType
                finally:
                    self.is_running = False
                for call in self.afterwards:
                    call()
            return True


class _Present(Loader):
    """Gives a module that was imported while it was looked for."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it was."""
        module.__spec__ = self.spec


class _LateFinder(MetaPathFinder):
    """Finds the packages of ``LATE``, and has them run before one of their submodules is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a package is, with a loader that does not run it; None of what is imported as always."""
        above = name
        while above := above.rpartition(".")[0]:
            module = sys.modules.get(above)
            if isinstance(module, _LateModule) and not module.__spec__.loader_state.is_apart(name):
                loader = module.__spec__.loader_state  # type: ignore[union-attr]
                if not loader.is_making and loader.complete(module) and name in sys.modules:
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


@contextmanager
def without_collection() -> Iterator[None]:
    """Look for no garbage while modules are imported: what they make stays, and would be looked through many times.

    What is there at the end is never looked through again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
