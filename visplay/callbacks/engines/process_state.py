"""The process as a library finds it, and leaves it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed

_SET_THREADS = torch.set_num_threads  # on a CPU, vLLM puts a function in its place that does nothing


@dataclass(frozen=True)
class ProcessState:
    """What of the process vLLM changes while it starts and runs.

    Args:
        environment: Environment variables.
        functions: Functions of torch that are replaced on a CPU.
        threads: Threads of a torch operator.
        affinity: Cores that this process may run on; None where the system does not say.
        default_dtype: Of new tensors.
        random_states: Of Python, NumPy, torch and every CUDA device in use.
        process_group: The default one of torch.distributed, or None.
    """

    environment: dict[str, str]
    functions: tuple[Any, ...]
    threads: int
    affinity: frozenset[int] | None
    default_dtype: torch.dtype
    random_states: tuple[Any, ...]
    process_group: Any

    @classmethod
    def take(cls) -> ProcessState:
        """The state as it is now."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return cls(
            dict(os.environ),
            (torch.set_num_threads, torch.accelerator.synchronize, torch.accelerator.empty_cache),
            torch.get_num_threads(),
            frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            torch.get_default_dtype(),
            (random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda),
            torch.distributed.GroupMember.WORLD,
        )

    def restore(self) -> None:
        """Make the process what it was."""
        for name in set(os.environ) - set(self.environment):
            del os.environ[name]
        os.environ.update(self.environment)
        torch.set_num_threads, torch.accelerator.synchronize, torch.accelerator.empty_cache = self.functions
        if torch.get_num_threads() != self.threads:
            _SET_THREADS(self.threads)
        if self.affinity is not None and frozenset(os.sched_getaffinity(0)) != self.affinity:
            os.sched_setaffinity(0, self.affinity)
        torch.set_default_dtype(self.default_dtype)
        torch.distributed.GroupMember.WORLD = self.process_group
        python, numpy, cpu, cuda = self.random_states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


class StateSwap:
    """Gives a library a state of the process of its own, in force while it runs."""

    def __init__(self) -> None:
        self._own: ProcessState | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Run the library; afterwards the process is as it was before."""
        before = ProcessState.take()
        if self._own is not None:
            self._own.restore()
        try:
            yield
        finally:
            self._own = ProcessState.take()
            before.restore()
