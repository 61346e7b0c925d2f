"""The majority among sampled answers: the silver label and its confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations

from visplay.grading.equivalence import canonical_form, equivalent
from visplay.types import Vote, derive_seed


def vote(
    answers: Sequence[str | None],
    equivalence: Callable[[str, str], bool] = equivalent,
    *,
    count_unparsed: bool = False,
    seed: int = 0,
) -> Vote:
    """Find the majority among K sampled answers (Eq. 4).

    p(y) = (1/K) sum_j 1[y_j ≡ y], for each distinct normalised answer y; the silver answer is the argmax, and c its p:
    the fraction that Eq. 10 pays for it, by default among the PARSED answers. Equivalence is not transitive, so an
    answer that says less ("5") can agree with two that contradict each other ("5 m", "5 cm"). It votes for both and
    names neither: an answer is no candidate if two that agree with it and say more, by their length, differ.

    Of candidates that agree, with equal p, the most frequent is taken, then the shortest, then the first in
    alphabetical order. Between candidates that differ an equal p is a tie; which of them is named is drawn. Classes are
    the silver answer with all that agree with it, and so on among the answers left. Nothing depends on the order of the
    answers.

    Args:
        answers: K answers; None or blank did not parse and never votes.
        equivalence: A reflexive and symmetric relation between normalised answers; asked once for each pair of them.
        count_unparsed: Whether c is the fraction among all K answers, as Eq. 4 has it.
        seed: Root of the draw between candidates that tie.

    Returns:
        The vote; answer None and confidence 0 when nothing parsed.

    Example:
        >>> vote(["1/2", "0.5", "3", None]).counts
        (('0.5', 2), ('3', 1))
        >>> vote(["B. red", "B", "red", "C"]).counts, vote(["5 m", "5", "5 cm"]).tied
        ((('b. red', 3), ('c', 1)), True)
    """
    normalise = canonical_form(equivalence)
    forms = Counter(normalise(answer) for answer in answers if answer is not None and answer.strip())
    agreeing = {form: {form} for form in forms}
    for one, other in combinations(sorted(forms), 2):
        if equivalence(one, other):
            agreeing[one].add(other)
            agreeing[other].add(one)
    counts: list[tuple[str, int]] = []
    tied, left = False, set(forms)
    while left:
        leaders = _find_leaders({form: agreeing[form] & left for form in left}, forms)
        name = min(leaders, key=lambda leader: derive_seed(seed, leader))
        tied = tied or (not counts and len(leaders) > 1)
        counts.append((name, sum(forms[form] for form in agreeing[name] & left)))
        left -= agreeing[name]
    parsed = forms.total()
    if not counts:
        return Vote(answer=None, confidence=0.0, counts=(), parsed=0, total=len(answers))
    answer, votes = counts[0]
    confidence = votes / (len(answers) if count_unparsed else parsed)
    return Vote(answer, confidence, tuple(counts), parsed, len(answers), tied)


def is_valid_vote(vote: Vote, min_parsed_fraction: float = 0.8) -> bool:
    """Whether enough of the K answers parsed for the confidence to mean anything.

    Half-broken answers would look like maximal difficulty, so such a question is invalid. A tie is a valid vote, of a
    confidence that means something, without a label.

    Args:
        vote: The vote on one question.
        min_parsed_fraction: Least fraction of the K answers that must parse, in [0, 1].
    """
    return vote.answer is not None and vote.parsed_fraction >= min_parsed_fraction


def _find_leaders(agreeing: Mapping[str, Collection[str]], forms: Counter[str]) -> list[str]:
    """The candidates with the most answers that agree with them, one of each meaning."""
    support = {
        form: sum(forms[other] for other in others)
        for form, others in agreeing.items()
        if not any(
            two not in agreeing[one]
            for one, two in combinations([other for other in others if len(other) > len(form)], 2)
        )
    }
    most = max(support.values())
    leaders: list[str] = []
    for form in sorted(support, key=lambda form: (-forms[form], len(form), form)):
        if support[form] == most and not any(form in agreeing[leader] for leader in leaders):
            leaders.append(form)
    return leaders
