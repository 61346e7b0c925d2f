"""Controls: what is left of self-play's gain when one part of it is replaced by something that cannot help, or must.

Each is named in a configuration or on the command line, with the repository in ``PYTHONPATH``:

    visplay fit --config configs/tiny.yaml --data=examples.study.controls.ShuffledLabels
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np

from visplay.data.draws import Drawable, Draws
from visplay.tiny.data import TinyWorld
from visplay.tiny.self_play_images import silver_truth
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


class RelabelledWorld(TinyWorld):
    """The small world, whose silver answers are replaced between curation and learning; the files stay as they are.

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


class ShuffledLabels(RelabelledWorld):
    """Each question has the silver answer of another one of the same type: right answers are right by chance."""

    def answers(self, examples: Sequence[Example]) -> dict[int, str]:
        """A permutation within each type, which follows from the iteration."""
        by_type: dict[str, list[int]] = {}
        for index, example in enumerate(examples):
            by_type.setdefault(example.problem_type, []).append(index)
        answers: dict[int, str] = {}
        for name, indices in by_type.items():
            order = np.random.default_rng(derive_seed("shuffled", name, examples[0].iteration)).permutation(indices)
            answers |= {index: examples[other].answer for index, other in zip(indices, order, strict=True)}
        return dict(sorted(answers.items()))


class RandomAnswer(RelabelledWorld):
    """The silver answer is one of the votes, drawn, in place of the winner: what the vote adds to a single answer."""

    def answers(self, examples: Sequence[Example]) -> dict[int, str]:
        """A class of answers, as likely as it has votes."""
        drawn = {}
        for index, example in enumerate(examples):
            names, counts = zip(*example.votes, strict=True)
            generator = np.random.default_rng(derive_seed("random answer", example.key, example.problem))
            drawn[index] = names[generator.choice(len(names), p=np.array(counts) / sum(counts))]
        return drawn


class TrueLabels(RelabelledWorld):
    """The questions that self-play asks and keeps, with true answers; those that have none are left out."""

    def answers(self, examples: Sequence[Example]) -> dict[int, str]:
        """The truth, by the scene behind each image."""
        scenes = silver_truth(self.n_images, self.image_seed, self.world)
        solved = [self.world.solve(scenes[PurePath(each.image_id).name], each.problem) for each in examples]
        return {index: answer for index, answer in enumerate(solved) if answer is not None}
