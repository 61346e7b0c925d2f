"""Which micro-batches of a batch a rank computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from visplay.modules.learner.group_batch import GroupBatch, MicroBatchIndex
from visplay.ranks import deal, rank, world_size


def dealt_micro_batches(
    batch: GroupBatch, tokens: int, in_step: bool = False
) -> Iterator[tuple[MicroBatchIndex | None, GroupBatch]]:
    """The micro-batches of the groups that this rank is dealt by their packed tokens.

    Args:
        batch: The same on all ranks.
        tokens: Most packed tokens of a micro-batch.
        in_step: Whether ranks compute in step, as they must where layers are gathered from all of them: each has as
            many micro-batches as the others, and those of one turn have images on all ranks or on none, as the vision
            tower is gathered too. One that is missing is made up for by a completion whose weight is 0.

    Returns:
        Of each its index, None where it makes up for a missing one, and the micro-batch.
    """
    costs = batch.packed_tokens
    if not in_step:
        yield from batch.micro_batches(tokens, deal(costs, world_size())[rank()])
        return
    for has_images in (True, False):
        groups = [n for n, prompt in enumerate(batch.prompts) if bool(prompt.images) == has_images]
        dealt = deal([costs[n] for n in groups], world_size())
        turns = [list(batch.cut(tokens, [groups[i] for i in of_rank])) for of_rank in dealt]
        for index in (own := turns[rank()]):
            yield index, batch.take(*index)
        for _ in range(max(map(len, turns)) - len(own)):
            least = batch.take([min(groups, key=costs.__getitem__)], slice(1))
            yield None, replace(least, weights=least.weights * 0)
