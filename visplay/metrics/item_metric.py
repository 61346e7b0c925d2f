"""What every metric over benchmark items shares: items under their keys, gathered exactly and each counted once."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from visplay.statistics.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate


class Report(NamedTuple):
    """What a metric says.

    Args:
        metrics: Means with their intervals; None where the ids that a metric needs are not there: unavailable.
        counts: ``items``, distinct items; ``conflicts``, items that came again with another result; and what else a
            metric counts.
    """

    metrics: dict[str, Estimate | None]
    counts: dict[str, int]


class Table(NamedTuple):
    """Distinct items in the order of their keys.

    Args:
        items: Each with its ``key``, ``score`` and further columns.
        conflicts: How many keys came with more than one result.
    """

    items: list[dict[str, Any]]
    conflicts: int

    @property
    def scores(self) -> list[float]:
        """The scores of all items."""
        return self.column("score")

    @property
    def clusters(self) -> list[Hashable] | None:
        """What each item is resampled with, itself where it has no cluster; None if no item has one."""
        names = self.column("cluster")
        if all(name is None for name in names):
            return None
        return [("item", index) if name is None else name for index, name in enumerate(names)]

    def column(self, name: str) -> list[Any]:
        """One column."""
        return [item[name] for item in self.items]

    def counts(self, **further: int) -> dict[str, int]:
        """What a report counts."""
        return {"items": len(self.items), "conflicts": self.conflicts} | further


class ItemMetric(Metric):
    """Keeps items until ``compute``, so that what it says depends neither on their order nor on the number of ranks.

    Items travel between ranks as JSON lines, byte by byte. An item that comes again, as when a sampler pads the last
    batch, counts once; where its results differ the lowest score counts, and the item is counted as a conflict.

    What ``update`` takes has one entry per item: ``keys`` are their identities, ``clusters`` what each shares with
    other items, such as its figure; None, for one or for all, is nothing.

    Args:
        bootstrap: How intervals are found.
    """

    full_state_update = False
    is_differentiable = False
    identity: tuple[str, ...] = ("key",)
    items: list[Tensor]

    def __init__(self, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> None:
        super().__init__(dist_sync_fn=_gather)
        self.bootstrap = bootstrap
        self.add_state("items", [], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """Of the state, also of a rank without items: gathering needs one type on all ranks."""
        return torch.uint8

    def _add(self, keys: Sequence[str | None], scores: Sequence[float], **columns: Sequence | None) -> None:
        """Add items with their columns, None for a column of None; items whose key is None are never the same item."""
        filled = {name: [None] * len(keys) if values is None else values for name, values in columns.items()}
        lengths = {name: len(column) for name, column in {"keys": keys, "scores": scores, **filled}.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{', '.join(lengths)}: must have one length, got {lengths}")
        lines = ""
        for key, score, *values in zip(keys, scores, *filled.values(), strict=True):
            if not 0.0 <= score <= 1.0:
                raise ValueError(f"scores: must lie in [0, 1], got {score} for item {key!r}")
            item = {"key": key, "score": float(score)} | dict(zip(filled, values, strict=True))
            lines += json.dumps(item, sort_keys=True) + "\n"
        if lines:
            self.items.append(torch.frombuffer(bytearray(lines.encode()), dtype=torch.uint8).to(self.device))

    def _table(self) -> Table:
        """All items so far, each once."""
        gathered = dim_zero_cat(self.items).cpu().numpy().tobytes() if len(self.items) else b""
        found: dict[tuple, set[str]] = {}
        for index, line in enumerate(sorted(gathered.decode().splitlines())):
            item = json.loads(line)
            identity = tuple(item[name] for name in self.identity)
            found.setdefault(identity if item["key"] is not None else (*identity, index), set()).add(line)
        items = [min(map(json.loads, sorted(lines)), key=self._preference) for lines in found.values()]
        ordered = sorted(items, key=lambda item: [str(item[name]) for name in self.identity])
        return Table(ordered, conflicts=sum(len(lines) > 1 for lines in found.values()))

    def _preference(self, item: dict[str, Any]) -> tuple:
        """Of the results of an item that came again, the one where this is least counts."""
        return (item["score"],)


def _gather(state: Tensor, group: Any = None) -> list[Tensor]:
    """The states of all ranks; NCCL takes tensors on its device only, items may be on the CPU."""
    device = torch.device("cuda") if torch.distributed.get_backend(group) == "nccl" else state.device
    return [gathered.to(state.device) for gathered in gather_all_tensors(state.to(device), group)]
