"""Items of a collection in a seeded order that goes on where it stopped, and the batches of a phase made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from visplay.data.images.image_folder import UnusableItemError
from visplay.functional.phases import permuted_indices

_SHOWN_REASONS = 5


class Collection(Protocol):
    """A collection of known size."""

    def __len__(self) -> int:
        """Number of items."""

    def __getitem__(self, index: int) -> Any:
        """One item, or ``UnusableItemError``."""


@runtime_checkable
class Stream(Collection, Protocol):
    """A collection that is quick in an order of its own only."""

    def schedule(self, start: int, count: int, seed: int) -> list[int]:
        """Indices of the items at ``count`` positions of the seeded order, which are about to be asked for."""


class Drawable(Protocol):
    """Anything that gives the next items."""

    def draw(self, count: int) -> list:
        """The next ``count`` items."""


class NothingUsableError(ValueError):
    """Every item of a collection is unusable."""


class Draws:
    """Draws items in a seeded order, a permutation or a ``Stream``'s own; every item comes once before any repeats.

    An item that turns out unusable is counted, and the next one takes its place.

    Args:
        items: A collection.
        seed: Of the order.
        position: Index in the order at which the next draw begins.
        why_not: Gives the reason why an item that was read cannot be used all the same, or None.

    Attributes:
        skipped: Unusable items met so far, reason by key.

    Raises:
        ValueError: The collection is empty.

    Example:
        >>> draws = Draws(["a", "b", "c"], seed=0)
        >>> sorted(draws.draw(2) + draws.draw(1)), draws.position
        (['a', 'b', 'c'], 3)
    """

    def __init__(
        self,
        items: Collection,
        seed: int,
        position: int = 0,
        why_not: Callable[[Any], str | None] = lambda item: None,
    ) -> None:
        if len(items) == 0:
            raise ValueError("items: must not be empty")
        self.items = items
        self.seed = seed
        self.position = position
        self.why_not = why_not
        self.skipped: dict[str, str] = {}

    def draw(self, count: int) -> list:
        """The next ``count`` items; a ``NothingUsableError`` if every item of the collection is unusable."""
        drawn: list = []
        missed = 0
        while len(drawn) < count:
            missing = count - len(drawn)
            for index in self._next_indices(missing):
                try:
                    drawn.append(self._usable(index))
                    missed = 0
                except UnusableItemError as error:
                    error.count_in(self.skipped)
                    missed += 1
            self.position += missing
            if missed >= len(self.items):
                some = "; ".join(f"{key}: {reason}" for key, reason in list(self.skipped.items())[:_SHOWN_REASONS])
                raise NothingUsableError(f"items: none of the {len(self.items)} can be used, for example {some}")
        return drawn

    def _usable(self, index: int) -> Any:
        """One item; an ``UnusableItemError`` if it cannot be used."""
        item = self.items[index]
        if (reason := self.why_not(item)) is not None:
            raise UnusableItemError(item.key, reason)
        return item

    def _next_indices(self, count: int) -> list[int]:
        if isinstance(self.items, Stream):
            return self.items.schedule(self.position, count, self.seed)
        return permuted_indices(self.position, count, len(self.items), self.seed)


class DrawsOnce(Draws):
    """Draws every item once, in the order of the collection or of a ``Stream``; an unusable one is left out.

    Example:
        >>> draws = DrawsOnce(["a", "b", "c"], seed=0)
        >>> draws.draw(2), draws.draw(2)
        (['a', 'b'], ['c'])
    """

    def draw(self, count: int) -> list:
        """The usable ones among the next ``count`` items; fewer at the end."""
        drawn: list = []
        count = min(count, len(self.items) - self.position)
        indices = list(range(self.position, self.position + count))
        if isinstance(self.items, Stream):
            indices = self.items.schedule(self.position, count, self.seed)
        for index in indices:
            try:
                drawn.append(self._usable(index))
            except UnusableItemError as error:
                error.count_in(self.skipped)
        self.position += count
        return drawn


@dataclass
class MixedDraws:
    """Draws from two sources in a fixed proportion, spread evenly over any run of items.

    Args:
        first: Source of ``share`` of the items.
        second: Source of the others.
        share: In [0, 1].
        position: Items drawn so far.

    Example:
        >>> mixed = MixedDraws(Draws(["a"], seed=0), Draws(["b"], seed=0), share=0.25)
        >>> "".join(mixed.draw(8))
        'bbbabbba'
    """

    first: Drawable
    second: Drawable
    share: float
    position: int = 0

    def __post_init__(self) -> None:
        """Reject what is no fraction."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: must lie in [0, 1], got {self.share}")

    def draw(self, count: int) -> list:
        """The next ``count`` items."""
        indices = range(self.position, self.position + count)
        from_first = [math.floor((index + 1) * self.share) > math.floor(index * self.share) for index in indices]
        self.position += count
        first, second = iter(self.first.draw(sum(from_first))), iter(self.second.draw(count - sum(from_first)))
        return [next(first if taken else second) for taken in from_first]
