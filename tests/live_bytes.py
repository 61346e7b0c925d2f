"""How many bytes of tensors are alive while a piece of code runs, or takes a stream of them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operators make, from when they are made until the last tensor lets them go.

    Args:
        known: Tensors that were there before.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._kept = [tensor.untyped_storage() for tensor in known]
        for storage in self._kept:
            storage.counted = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _count(self, storage: Any) -> None:
        if not hasattr(storage, "counted"):
            storage.counted = True
            self.now += storage.nbytes()
            weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self.now -= size


class Stream:
    """Named tensors one after another, and how many bytes of those that it gave were alive at most.

    Args:
        tensors: Each made when it is asked for.
    """

    def __init__(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._tensors = tensors
        self.total = self.largest = self.peak = 0

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Give each of them."""
        alive: list[tuple[StorageWeakRef, int]] = []
        for name, tensor in self._tensors:
            alive = [each for each in alive if not each[0].expired()]
            alive.append((StorageWeakRef(tensor.untyped_storage()), tensor.nbytes))
            self.total += tensor.nbytes
            self.largest = max(self.largest, tensor.nbytes)
            self.peak = max(self.peak, sum(size for _, size in alive))
            yield name, tensor
