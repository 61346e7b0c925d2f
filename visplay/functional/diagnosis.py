"""What questions and their votes look like: figures for a person to watch, never a reward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from visplay.grading.equivalence import canonical_form, equivalent
from visplay.types import Question, Vote


def fold_question(text: str) -> str:
    """The form in which two questions count as the same: lower case, white space collapsed.

    Example:
        >>> fold_question(" How  many Dots?")
        'how many dots?'
    """
    return " ".join(text.lower().split())


def repeated_fraction(texts: Sequence[str], before: Collection[str] = ()) -> float:
    """Fraction of questions that were asked already, earlier in the sequence or in ``before``.

    Args:
        texts: Questions in the order they were asked.
        before: Folded texts of questions asked at other times, see ``fold_question``.

    Returns:
        The fraction in [0, 1]; 0 without questions.

    Example:
        >>> repeated_fraction(["How many?", "how  many?", "Which one?", "Where?"], before={"where?"})
        0.5
    """
    seen, repeated = set(before), 0
    for text in map(fold_question, texts):
        repeated += text in seen
        seen.add(text)
    return repeated / len(texts) if texts else 0.0


def mean_margin(votes: Sequence[Vote | None]) -> float:
    """Mean lead of the majority over the runner-up, as a fraction of the parsed answers; 0 without votes.

    Args:
        votes: None where there was no vote.

    Example:
        >>> mean_margin([Vote("a", 0.75, (("a", 3), ("b", 1)), 4, 4), None])
        0.5
    """
    margins = [vote.margin for vote in votes if vote is not None and vote.answer is not None]
    return sum(margins) / len(margins) if margins else 0.0


def own_answer_agreement(
    questions: Sequence[Question | None],
    votes: Sequence[Vote | None],
    equivalence: Callable[[str, str], bool] = equivalent,
) -> float | None:
    """Fraction of questions whose silver answer is the one that the Questioner believes in; a tie is none.

    Args:
        questions: With or without an answer of their own; None did not parse.
        votes: One per question; None where there was none.
        equivalence: A symmetric relation between normalised answers.

    Returns:
        The fraction among the questions that have both answers; None if there are none.
    """
    both = [
        equivalence(canonical_form(equivalence)(question.answer), vote.answer)
        for question, vote in zip(questions, votes, strict=True)
        if question and question.answer is not None and vote and vote.answer is not None and not vote.tied
    ]
    return sum(both) / len(both) if both else None


def describe_votes(
    questions: Sequence[Question | None],
    votes: Sequence[Vote | None],
    equivalence: Callable[[str, str], bool] = equivalent,
) -> dict[str, float]:
    """Figures about votes, by name: ``vote_margin``, and ``own_answer_agreement`` where there is any.

    Args:
        questions: None did not parse.
        votes: One per question; None where there was none.
        equivalence: A symmetric relation between normalised answers.
    """
    own = own_answer_agreement(questions, votes, equivalence)
    return {"vote_margin": mean_margin(votes)} | ({} if own is None else {"own_answer_agreement": own})
