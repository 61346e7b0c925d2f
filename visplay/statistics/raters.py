"""How far two raters of the same answers agree: a judge and the rule, or two judges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True)
class RaterAgreement:
    """How two raters rate the same answers.

    Args:
        both_right: Number of items that both call right.
        both_wrong: Number of items that both call wrong.
        first_only: Keys of the items that only the first calls right.
        second_only: Keys of the items that only the second calls right.
        unrated: Keys of the items that at least one has not rated; they count nowhere else.
        agreement: Fraction of the rated items on which both say the same; NaN without any.
        kappa: Cohen's kappa over the rated items; NaN where it is not defined.
    """

    both_right: int
    both_wrong: int
    first_only: tuple[str, ...]
    second_only: tuple[str, ...]
    unrated: tuple[str, ...]
    agreement: float
    kappa: float

    @property
    def items(self) -> int:
        """Number of items that both have rated."""
        return self.both_right + self.both_wrong + len(self.first_only) + len(self.second_only)

    @property
    def differing(self) -> tuple[str, ...]:
        """Keys of the items they differ on."""
        return self.first_only + self.second_only


def judge_score(correct: bool | None, score: float | None = None) -> float | None:
    """A judge's score in [0, 1] of an answer: the one it gave, else its verdict; None where judging failed."""
    if correct is None:
        return None
    return float(correct) if score is None else score


def final_score(rule: bool, judged: float | None) -> float:
    """What an answer is worth under a judge, in [0, 1]: where judging failed, None, the rule's verdict stands."""
    return float(rule) if judged is None else judged


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Agreement beyond chance: (p_o - p_e) / (1 - p_e) (Cohen, 1960).

    p_o is the fraction of equal labels and p_e the fraction expected from how often each rater uses each label.

    Args:
        first: (n,) labels by one rater.
        second: (n,) labels by the other, of the same items in the same order.

    Returns:
        At most 1; NaN without an item, and where both always give one and the same label.

    Raises:
        ValueError: The lengths differ.

    Example:
        >>> cohen_kappa([True, True, False, False], [True, False, False, False])
        0.5
    """
    if len(first) != len(second):
        raise ValueError(f"first, second: must have one length, got {len(first)} and {len(second)}")
    n = len(first)
    counts, others = Counter(first), Counter(second)
    expected = sum(counts[label] * others[label] for label in counts)  # p_e n², exact
    if expected == n * n:
        return float("nan")
    equal = sum(one == other for one, other in zip(first, second, strict=True))
    return (equal * n - expected) / (n * n - expected)


def compare_raters(first: Mapping[str, bool | None], second: Mapping[str, bool | None]) -> RaterAgreement:
    """Compare two raters item by item: by key, whether the answer is right; None where a rater has no verdict.

    Raises:
        ValueError: They have not rated the same items.
    """
    if first.keys() != second.keys():
        unknown = sorted(first.keys() ^ second.keys())
        raise ValueError(f"first, second: must have the same items; {len(unknown)} differ, such as {unknown[:3]}")
    rated = [key for key in first if first[key] is not None and second[key] is not None]
    pairs = Counter((bool(first[key]), bool(second[key])) for key in rated)
    return RaterAgreement(
        both_right=pairs[True, True],
        both_wrong=pairs[False, False],
        first_only=tuple(key for key in rated if first[key] and not second[key]),
        second_only=tuple(key for key in rated if second[key] and not first[key]),
        unrated=tuple(key for key in first if first[key] is None or second[key] is None),
        agreement=(pairs[True, True] + pairs[False, False]) / len(rated) if rated else float("nan"),
        kappa=cohen_kappa([first[key] for key in rated], [second[key] for key in rated]),
    )


def compare_all_raters(raters: Mapping[str, Mapping[str, bool | None]]) -> dict[tuple[str, str], RaterAgreement]:
    """Compare every two raters, by name, such as the rule and several judges; errors as in ``compare_raters``."""
    return {(one, other): compare_raters(raters[one], raters[other]) for one, other in combinations(raters, 2)}


def agreement_table(reports: Mapping[tuple[str, str], RaterAgreement]) -> str:
    """Write comparisons as a Markdown table, a line per pair of raters."""
    lines: list[tuple[str, ...]] = [
        ("raters", "items", "agreement", "kappa", "right by first only", "right by second only", "not rated by both")
    ]
    for names, report in reports.items():
        agreement = "undefined" if math.isnan(report.agreement) else f"{100 * report.agreement:.1f} %"
        kappa = "undefined" if math.isnan(report.kappa) else f"{report.kappa:.3f}"
        counts = map(str, map(len, (report.first_only, report.second_only, report.unrated)))
        lines.append((", ".join(names), str(report.items), agreement, kappa, *counts))
    table = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([table[0], "|" + "---|" * len(lines[0]), *table[1:]])
