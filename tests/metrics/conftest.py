"""Property tests without a time limit of their own; metrics as if on several ranks."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import settings

from visplay.metrics import ItemMetric

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def spread():
    """Computes on each of the ranks that were given the parts, and returns what each says."""

    def compute(make: Callable[[], ItemMetric], parts: Sequence[Sequence], update: Callable) -> list:
        ranks = [make() for _ in parts]
        for metric, part in zip(ranks, parts, strict=True):
            for batch in part:
                update(metric, batch)
        empty = torch.tensor([], dtype=ranks[0].dtype)
        states = [torch.cat([empty, *metric.items]) for metric in ranks]
        for metric in ranks:
            metric.distributed_available_fn = lambda: True
            metric.dist_sync_fn = lambda state, group=None: list(states)
            metric._update_count = max(metric._update_count, 1)  # a rank without items is no reason to warn here
        return [metric.compute() for metric in ranks]

    return compute
