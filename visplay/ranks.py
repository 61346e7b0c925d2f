"""The processes that learn together: each does a part of the work, and all have the whole of its results.

Every rank draws the same items in the same order, so a split of the work follows from the items alone and nobody has to
be told of it. The ranks are those of the default group of torch.distributed; without one there is a single rank, and
nothing here communicates.
"""

from __future__ import annotations

import heapq
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

T = TypeVar("T")

_BUCKET_BYTES = 2**26


def world_size() -> int:
    """Number of ranks."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of the ranks this process is, counted from 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def deal(costs: Sequence[int], ranks: int) -> list[list[int]]:
    """Deal items to ranks, the most expensive one first, each to the rank with the least work so far (Graham, 1969).

    The most that a rank gets is at most 4/3 of what is possible.

    Args:
        costs: Of each item, at least 0.
        ranks: Number of ranks.

    Returns:
        The indices of each rank's items, in ascending order; a rank may have none.

    Example:
        >>> deal([3, 9, 4, 2], ranks=2)
        [[1], [0, 2, 3]]
    """
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, number) for number in range(ranks)]
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        load, number = loads[0]
        heapq.heapreplace(loads, (load + costs[index], number))
        dealt[number].append(index)
    return [sorted(indices) for indices in dealt]


def spread(costs: Sequence[int], work: Callable[[Sequence[int]], Sequence[T]]) -> list[T]:
    """Have every rank do the work on the items that it is dealt.

    Args:
        costs: Of each item, the same on all ranks.
        work: Indices of items to their results, which travel between ranks pickled; it is called on every rank, with no
            indices where there is nothing to do.

    Returns:
        The results of all items in their order, on all ranks.
    """
    return begin_spread(costs, lambda own: partial(work, own))()


def begin_spread(
    costs: Sequence[int], begin: Callable[[Sequence[int]], Callable[[], Sequence[T]]]
) -> Callable[[], list[T]]:
    """Have every rank begin the work on the items that it is dealt, as ``spread`` does.

    Args:
        costs: Of each item, the same on all ranks.
        begin: Indices of items to a function that waits for their results.

    Returns:
        A function that gives the results of all items in their order; every rank calls it, in its main thread.
    """
    dealt = deal(costs, world_size())
    wait = begin(dealt[rank()])

    def finish() -> list[T]:
        done = gather(list(wait()))
        results = {i: each for own, part in zip(dealt, done, strict=True) for i, each in zip(own, part, strict=True)}
        return [results[index] for index in range(len(costs))]

    return finish


def gather(value: T) -> list[T]:
    """The values of all ranks, in the order of the ranks."""
    values: list[Any] = [value]
    if world_size() > 1:
        values = [None] * world_size()
        distributed.all_gather_object(values, value)
    return values


def from_first(compute: Callable[[], T]) -> T:
    """What rank 0 computes, on all ranks: where a time limit, a draw or rounding could decide differently elsewhere."""
    values: list[Any] = [compute() if rank() == 0 else None]
    if world_size() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def in_turn(work: Callable[[], T]) -> T:
    """Do something on the ranks of a machine one after another, so that what it takes of the host is taken once."""
    hosts, done = gather(socket.gethostname()), None
    turn = hosts[: rank()].count(hosts[rank()])
    for each in range(max(map(hosts.count, hosts))):
        if each == turn:
            done = [work()]
        gather(None)
    assert done is not None, "every rank has a turn"
    return done[0]


@contextmanager
def failing_together() -> Iterator[None]:
    """Raise on all ranks what one of them raises within the block, so that none waits for one that has failed.

    All ranks enter it together, and none waits for another within it.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    first = next((each for each in gather(failure) if each is not None), None)
    if first is not None:
        raise failure or first


def check_alike(
    name: str, value: object, rule: str = "all ranks must draw the same items, from the same files"
) -> None:
    """See that all ranks have the same, from which each goes on by itself.

    Args:
        name: Of the value.
        value: What this rank has.
        rule: What the error ends with.

    Raises:
        RuntimeError: They have not.
    """
    first, *others = gather(value)
    for number, other in enumerate(others, start=1):
        if other != first:
            raise RuntimeError(f"{name}: rank {number} has {other} and rank 0 {first}; {rule}")


def total(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by name, summed over the ranks."""
    return dict(sum(map(Counter, gather(counts)), Counter()))


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor over the ranks, in place."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def sum_gradients(weights: Iterable[Tensor]) -> None:
    """Sum the gradients of weights over the ranks, in place; a rank without one adds 0.

    Those of sharded weights are left as they are: the backward pass has summed them.

    A weight that has a gradient on no rank keeps none, so that an optimizer passes it over.
    """
    weights = [weight for weight in weights if not isinstance(weight, DTensor)]
    if world_size() == 1 or not weights:
        return
    device = weights[0].device
    present = sum_over_ranks(
        torch.tensor([weight.grad is not None for weight in weights], dtype=torch.int, device=device)
    )
    bucket: list[Tensor] = []
    for weight, ranks_with_gradient in zip(weights, present.tolist(), strict=True):
        if not ranks_with_gradient:
            continue
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        bucket.append(weight.grad)
        if sum(gradient.nbytes for gradient in bucket) >= _BUCKET_BYTES:
            _sum_together(bucket)
            bucket = []
    _sum_together(bucket)


def _sum_together(tensors: Sequence[Tensor]) -> None:
    """Sum tensors over the ranks, in place, all in one message."""
    if len(tensors) == 1 and tensors[0].is_contiguous():
        sum_over_ranks(tensors[0])
    elif tensors:
        flat = sum_over_ranks(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Copy the tensors of rank 0 to all ranks, in place."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), 0)
