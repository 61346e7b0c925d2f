"""Controls: what is left of self-play's gain when one part of it is replaced by something that cannot help, or must.

Each is named in a configuration or on the command line, with the repository in ``PYTHONPATH``:

    visplay fit --config configs/tiny.yaml --data=examples.study.controls.ShuffledLabels
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from examples.study.relabelling import Relabelling, draw_vote
from visplay.tiny.data import TinyWorld
from visplay.tiny.self_play_images import silver_truth
from visplay.types import Example, derive_seed


class ShuffledLabels(Relabelling, TinyWorld):
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


class RandomAnswer(Relabelling, TinyWorld):
    """The silver answer is one of the votes, drawn, in place of the winner: what the vote adds to a single answer."""

    def answers(self, examples: Sequence[Example]) -> dict[int, str]:
        """A class of answers, as likely as it has votes."""
        return {index: draw_vote(example) for index, example in enumerate(examples)}


class TrueLabels(Relabelling, TinyWorld):
    """The questions that self-play asks and keeps, with true answers; those that have none are left out."""

    def answers(self, examples: Sequence[Example]) -> dict[int, str]:
        """The truth, by the scene behind each image."""
        scenes = silver_truth(self.n_images, self.image_seed, self.world)
        solved = [self.world.solve(scenes[PurePath(each.image_id).name], each.problem) for each in examples]
        return {index: answer for index, answer in enumerate(solved) if answer is not None}
