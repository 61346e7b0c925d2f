"""How far two raters of the same answers agree: a judge and the rule, or two judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

_HEADINGS = ("raters", "rows", "agreement", "kappa", "right by first only", "right by second only", "not rated by both")


@dataclass(frozen=True)
class RaterAgreement:
    """How two raters rate the same answers.

    Args:
        both_right: Number of rows that both call right.
        both_wrong: Number of rows that both call wrong.
        first_only: Keys of the rows that only the first calls right.
        second_only: Keys of the rows that only the second calls right.
        unrated: Keys of the rows that at least one has not rated; they count nowhere else.
        agreement: Fraction of the rated rows on which both say the same; NaN without any.
        kappa: Cohen's kappa over the rated rows; NaN where it is not defined.
    """

    both_right: int
    both_wrong: int
    first_only: tuple[str, ...]
    second_only: tuple[str, ...]
    unrated: tuple[str, ...]
    agreement: float
    kappa: float

    @property
    def rows(self) -> int:
        """Number of rows that both have rated."""
        return self.both_right + self.both_wrong + len(self.first_only) + len(self.second_only)

    @property
    def differing(self) -> tuple[str, ...]:
        """Keys of the rows they differ on."""
        return self.first_only + self.second_only


def judge_score(correct: bool | None, score: float | None = None) -> float | None:
    """A judge's score of an answer: the one it gave, else its verdict; None where judging failed.

    Args:
        correct: Its verdict; None where judging failed.
        score: In [0, 1]; None where none was wanted.

    Example:
        >>> judge_score(True), judge_score(True, 0.7), judge_score(None)
        (1.0, 0.7, None)
    """
    if correct is None:
        return None
    return float(correct) if score is None else score


def final_score(rule: bool, judged: float | None) -> float:
    """What an answer is worth under a judge: where judging failed the rule's verdict stands.

    Args:
        rule: Whether the answer is right by rule.
        judged: The judge's score, in [0, 1]; None where judging failed.

    Example:
        >>> final_score(True, 0.7), final_score(True, None)
        (0.7, 1.0)
    """
    return float(rule) if judged is None else judged


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Agreement beyond chance: (p_o - p_e) / (1 - p_e) (Cohen, 1960).

    p_o is the fraction of equal labels and p_e the fraction expected from how often each rater uses each label.

    Args:
        first: (n,) labels by one rater.
        second: (n,) labels by the other, of the same rows in the same order.

    Returns:
        At most 1; NaN without a row, and where both always give one and the same label.

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
    """Compare two raters row by row.

    Args:
        first: By row key, whether the answer is right; None where the rater has no verdict.
        second: The same of the other rater.

    Raises:
        ValueError: They have not rated the same rows.

    Example:
        >>> report = compare_raters({"a": True, "b": False, "c": True}, {"c": False, "b": False, "a": True})
        >>> report.first_only, round(report.agreement, 3), report.kappa
        (('c',), 0.667, 0.4)
    """
    if first.keys() != second.keys():
        strangers = sorted(first.keys() ^ second.keys())
        raise ValueError(f"first, second: must have the same rows; {len(strangers)} differ, such as {strangers[:3]}")
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
    """Compare every two raters, by name, such as the rule and several judges.

    Raises:
        ValueError: Two have not rated the same rows.
    """
    return {(one, other): compare_raters(raters[one], raters[other]) for one, other in combinations(raters, 2)}


def agreement_table(reports: Mapping[tuple[str, str], RaterAgreement]) -> str:
    """Write comparisons as a Markdown table, a line per pair of raters.

    Example:
        >>> print(agreement_table({("rule", "judge"): compare_raters({"a": True, "b": False}, {"a": True, "b": None})}))
        | raters | rows | agreement | kappa | right by first only | right by second only | not rated by both |
        |---|---|---|---|---|---|---|
        | rule, judge | 1 | 100.0 % | undefined | 0 | 0 | 1 |
    """
    lines = [_HEADINGS, *(_cells(names, report) for names, report in reports.items())]
    table = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([table[0], "|" + "---|" * len(_HEADINGS), *table[1:]])


def _cells(names: tuple[str, str], report: RaterAgreement) -> tuple[str, ...]:
    share = "undefined" if report.agreement != report.agreement else f"{100 * report.agreement:.1f} %"
    kappa = "undefined" if report.kappa != report.kappa else f"{report.kappa:.3f}"
    counts = (len(report.first_only), len(report.second_only), len(report.unrated))
    return ", ".join(names), str(report.rows), share, kappa, *map(str, counts)
