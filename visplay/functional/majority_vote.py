"""The majority among sampled answers: the silver label and its confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

from visplay.grading.equivalence import equivalent, normalise_answer
from visplay.types import Vote


def vote(
    answers: Sequence[str | None],
    equivalence: Callable[[str, str], bool] = equivalent,
    *,
    count_unparsed: bool = False,
) -> Vote:
    """Find the majority among K sampled answers (Eq. 4).

    p(y) = (1/K) sum_j 1[y_j ≡ y]; the silver answer is the argmax and c its fraction, by default among the PARSED
    answers. Equivalence is not transitive, so the classes are the connected components over distinct normalised
    answers. A class is named by its most frequent form, then the shortest, then the first in alphabetical order; ties
    between classes likewise. The result does not depend on the order of the answers.

    Args:
        answers: K answers; None or blank did not parse and never votes.
        equivalence: A symmetric relation between normalised answers.
        count_unparsed: Whether c is the fraction among all K answers, as Eq. 4 has it.

    Returns:
        The vote; answer None and confidence 0 when nothing parsed.

    Example:
        >>> vote(["1/2", "0.5", "3", None]).counts
        (('0.5', 2), ('3', 1))
    """
    forms = Counter(normalise_answer(answer) for answer in answers if answer is not None and answer.strip())
    classes = [_name_class(members, forms) for members in _connect(sorted(forms), equivalence)]
    counts = tuple(sorted(classes, key=_by_rank))
    parsed = forms.total()
    if not counts:
        return Vote(answer=None, confidence=0.0, counts=(), parsed=0, total=len(answers))
    answer, votes = counts[0]
    confidence = votes / (len(answers) if count_unparsed else parsed)
    return Vote(answer=answer, confidence=confidence, counts=counts, parsed=parsed, total=len(answers))


def is_valid_vote(vote: Vote, min_parsed_fraction: float = 0.8) -> bool:
    """Whether enough of the K answers parsed for the confidence to mean anything.

    Half-broken answers would look like maximal difficulty, so such a question is invalid.

    Args:
        vote: The vote on one question.
        min_parsed_fraction: Least fraction of the K answers that must parse, in [0, 1].
    """
    return vote.answer is not None and vote.parsed_fraction >= min_parsed_fraction


def _connect(forms: Sequence[str], equivalence: Callable[[str, str], bool]) -> list[list[str]]:
    """Connected components under ``equivalence``; a pair that is connected already is not compared again."""
    component = {form: [form] for form in forms}
    for one, other in combinations(forms, 2):
        if component[one] is not component[other] and equivalence(one, other):
            merged = component[one] + component[other]
            component.update(dict.fromkeys(merged, merged))
    return list({id(members): members for members in component.values()}.values())


def _name_class(members: Sequence[str], forms: Counter[str]) -> tuple[str, int]:
    """The name of a class and how many answers it has."""
    name, _ = min(((form, forms[form]) for form in members), key=_by_rank)
    return name, sum(forms[form] for form in members)


def _by_rank(counted: tuple[str, int]) -> tuple[int, int, str]:
    """Sort key: the most frequent, then the shortest, then the first in alphabetical order."""
    form, count = counted
    return -count, len(form), form
