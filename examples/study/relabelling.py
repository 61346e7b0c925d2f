"""Other answers in place of the silver ones, between curation and learning; the files stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from visplay.data.draws import Drawable, Draws
from visplay.data.module import SelfPlayData
from visplay.types import Example, derive_seed


class Relabelled(Sequence[Example]):
    """Examples with other answers.

    Args:
        examples: The examples as they are.
        answers: The new answer of each example that is left, by its index.
    """

    def __init__(self, examples: Sequence[Example], answers: Mapping[int, str]) -> None:
        self.examples = examples
        self.answers = list(answers.items())

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        source, answer = self.answers[index]
        return replace(self.examples[source], answer=answer)


class Relabelling(SelfPlayData):
    """A data module whose silver answers are replaced; to be put before another one among the bases.

    The summary's ``silver_accuracy`` is that of the answers that are learned from.
    """

    def answers(self, examples: Sequence[Example]) -> Mapping[int, str]:
        """The new answer of each example that is left, by its index."""
        raise NotImplementedError

    def mix(self, silver: Drawable | None = None, labelled: Drawable | None = None) -> Drawable:
        """Draw from the examples with the new answers; a ValueError if earlier ones are replayed among them."""
        if silver is not None:
            if not isinstance(silver, Draws):
                raise ValueError("replay: examples of earlier iterations have the answers of then; leave it null")
            silver.items = self._relabel(silver.items)
        return super().mix(silver, labelled)

    def silver_accuracy(self, examples: Iterable[Example]) -> float | None:
        """Fraction of the new answers that are true."""
        return super().silver_accuracy(self._relabel(examples))

    def _relabel(self, examples: Iterable[Example]) -> Relabelled:
        found = list(examples)
        return Relabelled(found, self.answers(found))


def draw_vote(example: Example) -> str:
    """One of an example's votes, a class of answers as likely as it has votes; the same one every time."""
    names, counts = zip(*example.votes, strict=True)
    generator = np.random.default_rng(derive_seed("random answer", example.key, example.problem))
    return names[generator.choice(len(names), p=np.array(counts) / sum(counts))]
