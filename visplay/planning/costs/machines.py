"""Machines to plan for: what a GPU and its links do.

The named ones are computed, not measured: a fraction of what the data sheets give, and the fractions are assumptions.
``python -m benchmarks.costs --rates FILE`` measures the rates of a device at hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from visplay.planning.costs.cost_model import Rates

_OF_OPERATIONS = 0.4
"""Assumed fraction of the dense bfloat16 peak, in all stages."""
_OF_MEMORY = 0.7
"""Assumed fraction of the memory's peak."""
_OF_LINKS = 0.8
"""Assumed fraction of a link's peak."""
_SAMPLED_LAYERS = 5e4
"""Assumed layers a second that an engine with CUDA graphs starts: 20 µs each."""
_TRAINED_LAYERS = 2e3
"""Assumed layers a second that eager training starts: about 25 kernels of 20 µs each."""


@dataclass(frozen=True)
class Machine:
    """One GPU and its links; all figures are those that are reached, not peaks.

    Args:
        name: What it is.
        measured: Whether the rates were fitted to measured steps.
        memory_gib: Memory of a GPU.
        sampling: Rates while completions are drawn.
        training: Rates in an update.
        loading: Rates while weights are brought into the engine.
        host_bytes: Bytes a second between CPU memory and GPU.
        node_bytes: Bytes a second that a GPU sends to another of its machine.
        network_bytes: Bytes a second that a GPU sends to another machine.
    """

    name: str
    measured: bool
    memory_gib: float
    sampling: Rates
    training: Rates
    loading: Rates
    host_bytes: float
    node_bytes: float
    network_bytes: float

    def link_bytes(self, nodes: int) -> float:
        """Bytes a second of the slowest link in a ring over all GPUs of so many machines."""
        return self.node_bytes if nodes == 1 else min(self.node_bytes, self.network_bytes)


def _data_sheet(
    name: str, gib: float, tflops: float, memory: float, host: float, node: float, network: float
) -> Machine:
    """Peaks in TFLOP/s and GB/s, those of links in one direction."""
    operations, moved = _OF_OPERATIONS * tflops * 1e12, _OF_MEMORY * memory * 1e9
    return Machine(
        name,
        False,
        gib,
        sampling=Rates(operations, moved, _SAMPLED_LAYERS),
        training=Rates(operations, moved, _TRAINED_LAYERS),
        loading=Rates(operations, moved, _TRAINED_LAYERS),
        host_bytes=_OF_LINKS * host * 1e9,
        node_bytes=_OF_LINKS * node * 1e9,
        network_bytes=_OF_LINKS * network * 1e9,
    )


MACHINES = {
    "a100": _data_sheet("A100 SXM 80 GB", 79, 312, 2039, host=32, node=300, network=25),
    "h100": _data_sheet("H100 SXM 80 GB", 79, 989, 3350, host=64, node=450, network=50),
    "h200": _data_sheet("H200 SXM 141 GB", 139, 989, 4800, host=64, node=450, network=50),
}
"""By NVIDIA's data sheets; InfiniBand of 200 and 400 Gbit/s for each GPU."""


def with_rates(machine: Machine, path: Path) -> Machine:
    """The machine with rates that ``benchmarks.costs`` has measured on one GPU of it.

    Raises:
        ValueError: The file has not the rates of every stage.
    """
    try:
        read = json.loads(path.read_text())
        sampling, training, loading = (Rates(**read[stage]) for stage in ("sampling", "training", "loading"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"rates: {str(path)!r} must have those of sampling, training and loading: {error}") from error
    return replace(machine, measured=True, sampling=sampling, training=training, loading=loading)
