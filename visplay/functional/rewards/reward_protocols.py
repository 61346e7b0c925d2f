"""What a reward may be told beyond confidence and agreement: the votes on questions, the answers of a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from visplay.types import Question, Vote


class QuestionJudge(Protocol):
    """Pays for questions by their votes, in place of a function of the confidence alone."""

    def __call__(
        self,
        questions: Sequence[Sequence[Question | None]],
        votes: Sequence[Sequence[Vote | None]],
        equivalence: Callable[[str, str], bool],
    ) -> Any:
        """Judge the questions of N images.

        Args:
            questions: (N, G); None did not parse.
            votes: (N, G); None where there was none.
            equivalence: A symmetric relation between normalised answers, as of ``Question.answer`` and ``Vote.answer``.

        Returns:
            (N, G) r_unc, float32; what it is without a valid vote does not matter.
        """


class GroupReward(Protocol):
    """Pays for answers by what the others of their group say, without a label."""

    def __call__(self, texts: Sequence[Sequence[str]], shares: Tensor) -> Any:
        """Reward the answers to N questions.

        Args:
            texts: (N, G) completions.
            shares: (N, G) fractions of the group that agree with each answer, see ``answer_classes``; 0 did not parse.

        Returns:
            (N, G) rewards, float32.
        """
