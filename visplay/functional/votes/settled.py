"""When the answers that a vote has yet to sample can change nothing that is decided by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

from visplay.functional.votes.admission import why_outside
from visplay.grading.equivalence import canonical_form, equivalent


def is_settled(
    answers: Sequence[str | None],
    total: int,
    low: float,
    high: float,
    equivalence: Callable[[str, str], bool] = equivalent,
    *,
    count_unparsed: bool = False,
    min_parsed_fraction: float = 0.8,
) -> bool:
    """Whether the first n of K answers decide what all K do: the silver answer, its validity and its side of the band.

    Of the r = K - n answers to come each may be in any class, seen or not, or not parse. With s answers in the leading
    class, t in the next one and p parsed, nothing they say changes

    - the winner, if s > t + r: no other class comes up to it, and there is no tie;
    - its text, if the most frequent spelling leads the next one in its class by more than r;
    - the validity, if p / K reaches ``min_parsed_fraction``, or (p + r) / K does not;
    - the side of the band, if s / (p + r) and (s + r) / (p + r) are on one side; with ``count_unparsed`` s / K and
      (s + r) / K.

    Equivalence must be transitive among all K answers. Where it is not among those seen, nothing is settled early; that
    an answer to come says less, and so agrees with two that differ ("5" with "5 m" and "5 cm"), is not foreseen.

    Args:
        answers: The first n answers; None or blank did not parse.
        total: K.
        low: Lower end of the band, included.
        high: Upper end of the band, included.
        equivalence: A reflexive and symmetric relation between normalised answers.
        count_unparsed: Whether the confidence is the fraction among all K answers, or among those that parsed.
        min_parsed_fraction: Least fraction of the K answers that must parse.

    Raises:
        ValueError: There are more answers than K.

    Example:
        >>> [is_settled(["2"] * n, 10, 0.25, 0.75) for n in (7, 8)]
        [False, True]
    """
    left = total - len(answers)
    if left < 0:
        raise ValueError(f"total: {total} must be at least the number of answers, got {len(answers)}")
    if left == 0:
        return True
    normalise = canonical_form(equivalence)
    forms = Counter(normalise(answer) for answer in answers if answer is not None and answer.strip())
    classes = _classes(forms, equivalence)
    if not classes:
        return False
    winner, runner_up = [*sorted((sum(spellings) for spellings in classes), reverse=True), 0][:2]
    spelled, otherwise = [*sorted(max(classes, key=sum), reverse=True), 0][:2]
    if winner <= runner_up + left or spelled <= otherwise + left:
        return False
    parsed = forms.total()
    if (parsed + left) / total < min_parsed_fraction:
        return True
    if parsed / total < min_parsed_fraction:
        return False
    of = total if count_unparsed else parsed + left
    return why_outside(winner / of, low, high) == why_outside((winner + left) / of, low, high)


def _classes(forms: Counter[str], equivalence: Callable[[str, str], bool]) -> list[list[int]]:
    """How often each spelling of each class occurs; no classes where equivalence is not transitive."""
    agreeing = {form: {form} for form in forms}
    for one, other in combinations(sorted(forms), 2):
        if equivalence(one, other):
            agreeing[one].add(other)
            agreeing[other].add(one)
    if any(agreeing[other] != members for members in agreeing.values() for other in members):
        return []
    return [[forms[form] for form in members] for members in {frozenset(each) for each in agreeing.values()}]
