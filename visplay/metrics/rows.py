"""What every metric over rows shares: rows under their keys, gathered exactly and each counted once."""

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

Row = dict[str, Any]


class Report(NamedTuple):
    """What a metric says.

    Args:
        measures: Means with their intervals; None where the ids that a measure needs are not there: unavailable.
        counts: ``rows``, distinct rows; ``conflicts``, rows that came again with another result; and what else a metric
            counts.
    """

    measures: dict[str, Estimate | None]
    counts: dict[str, int]


class Table(NamedTuple):
    """Distinct rows in the order of their keys.

    Args:
        rows: Each with its ``key``, ``score`` and further columns.
        conflicts: How many keys came with more than one result.
    """

    rows: list[Row]
    conflicts: int

    @property
    def scores(self) -> list[float]:
        """The scores of all rows."""
        return self.column("score")

    @property
    def clusters(self) -> list[Hashable] | None:
        """What each row is resampled with, itself where it has no cluster; None if no row has one."""
        names = self.column("cluster")
        if all(name is None for name in names):
            return None
        return [("row", place) if name is None else name for place, name in enumerate(names)]

    def column(self, name: str) -> list[Any]:
        """One column."""
        return [row[name] for row in self.rows]

    def counts(self, **further: int) -> dict[str, int]:
        """What a report counts."""
        return {"rows": len(self.rows), "conflicts": self.conflicts} | further


class RowMetric(Metric):
    """Keeps rows until ``compute``, so that what it says depends neither on their order nor on the number of ranks.

    Rows travel between ranks as JSON lines, byte by byte. A row that comes again, as when a sampler pads the last
    batch, counts once; where its results differ the lowest score counts, and the row is counted as a conflict.

    Args:
        bootstrap: How intervals are found.
    """

    full_state_update = False
    is_differentiable = False
    identity: tuple[str, ...] = ("key",)
    rows: list[Tensor]

    def __init__(self, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> None:
        super().__init__(dist_sync_fn=_gather)
        self.bootstrap = bootstrap
        self.add_state("rows", [], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """Of the state, also of a rank without rows: gathering needs one type on all ranks."""
        return torch.uint8

    def _add(self, keys: Sequence[str | None], scores: Sequence[float], **columns: Sequence) -> None:
        """Add rows with their columns; rows whose key is None are never taken for the same row."""
        _check_lengths(keys=keys, scores=scores, **columns)
        for key, score in zip(keys, scores, strict=True):
            if not 0.0 <= score <= 1.0:
                raise ValueError(f"scores: must lie in [0, 1], got {score} for row {key!r}")
        rows = [
            {"key": key, "score": float(score)} | dict(zip(columns, values, strict=True))
            for key, score, *values in zip(keys, scores, *columns.values(), strict=True)
        ]
        lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
        if lines:
            self.rows.append(torch.frombuffer(bytearray(lines.encode()), dtype=torch.uint8).to(self.device))

    def _table(self) -> Table:
        """All rows so far, each once."""
        gathered = dim_zero_cat(self.rows).cpu().numpy().tobytes() if len(self.rows) else b""
        found: dict[tuple, set[str]] = {}
        for place, line in enumerate(sorted(gathered.decode().splitlines())):
            row = json.loads(line)
            identity = tuple(row[name] for name in self.identity)
            found.setdefault(identity if row["key"] is not None else (*identity, place), set()).add(line)
        rows = [min(map(json.loads, sorted(lines)), key=self._preference) for lines in found.values()]
        ordered = sorted(rows, key=lambda row: [str(row[name]) for name in self.identity])
        return Table(ordered, conflicts=sum(len(lines) > 1 for lines in found.values()))

    def _preference(self, row: Row) -> tuple:
        """Of the results of a row that came again, the one where this is least counts."""
        return (row["score"],)


def optional_column(values: Sequence | None, length: int) -> Sequence:
    """The values, or as many None."""
    return [None] * length if values is None else values


def _check_lengths(**columns: Sequence) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{', '.join(lengths)}: must have one length, got {lengths}")


def _gather(state: Tensor, group: Any = None) -> list[Tensor]:
    """The states of all ranks; NCCL speaks of tensors on its device only, rows may lie on the host."""
    device = torch.device("cuda") if torch.distributed.get_backend(group) == "nccl" else state.device
    return [gathered.to(state.device) for gathered in gather_all_tensors(state.to(device), group)]
