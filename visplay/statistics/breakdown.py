"""Scores by what items have in common: question pairs, figures, disciplines, capabilities.

A breakdown needs the id of every item; where one is missing it is None, which is said as "unavailable".
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from visplay.statistics.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate, estimate_mean

NO_FIGURE = ""
"""Figure id of a question that is asked without a figure."""

_MMMU_DISCIPLINES = {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine": (
        "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health"
    ),
    "Humanities and Social Science": "History Literature Psychology Sociology",
    "Tech and Engineering": (
        "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power Materials "
        "Mechanical_Engineering"
    ),
}
_DISCIPLINE_OF = {subject: name for name, subjects in _MMMU_DISCIPLINES.items() for subject in subjects.split()}


def mmmu_discipline(row_id: str) -> str | None:
    """Read the discipline off an id of MMMU, for example validation_Art_Theory_12; None if it does not say."""
    match = re.fullmatch(r"(?:dev|validation|test)_(\w+)_\d+", row_id)
    return _DISCIPLINE_OF.get(match[1]) if match else None


def link_rows(*columns: Sequence[str | None]) -> list[int]:
    """Number the clusters of items that are connected by shared ids.

    Items are linked where they agree in any column, and so are items linked to the same item: the connected components.

    Args:
        columns: n ids each; None and the empty text link nothing.

    Returns:
        n numbers of clusters.

    Raises:
        ValueError: The lengths differ, or there is no column.

    Example:
        >>> link_rows(["p", "p", "q", "r"], ["f", "g", "g", None])
        [0, 0, 0, 1]
    """
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise ValueError(f"columns: must have one length, got {[len(column) for column in columns]}")
    items = lengths.pop()
    nodes: dict[tuple[int, str], int] = {}
    edges = [
        (item, nodes.setdefault((number, name), items + len(nodes)))
        for number, column in enumerate(columns)
        for item, name in enumerate(column)
        if name
    ]
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    shape = (items + len(nodes),) * 2
    _, labels = connected_components(coo_array((np.ones(len(edges)), (ends[0], ends[1])), shape=shape), directed=False)
    return labels[:items].tolist()


def all_right_fraction(
    verdicts: Sequence[float],
    units: Sequence[str | None],
    clusters: Sequence[Hashable] | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Estimate | None:
    """Fraction of units, such as pairs or figures, all of whose items are right: (1/U) sum_u prod_{i in u} v_i.

    Args:
        verdicts: n verdicts, 0 or 1.
        units: n ids of units; None is not known, and items of the empty one are left out.
        clusters: n names of what is resampled together, the same for all items of a unit; None: every unit by itself.
        bootstrap: How the interval is found.

    Returns:
        The fraction; None, unavailable, if an item's unit is not known or there is none.

    Raises:
        ValueError: The lengths differ.
    """
    if None in units:
        return None
    right: dict[str, float] = {}
    cluster: dict[str, Hashable] = {}
    for verdict, unit, name in zip(verdicts, units, units if clusters is None else clusters, strict=True):
        if unit:
            right[unit] = min(verdict, right.get(unit, 1.0))
            cluster[unit] = name
    return estimate_mean(list(right.values()), list(cluster.values()), bootstrap) if right else None


def hallusion_accuracies(
    verdicts: Sequence[float],
    pairs: Sequence[str | None],
    figures: Sequence[str | None],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> dict[str, Estimate | None]:
    """Accuracy per question (aAcc), per question pair (qAcc) and per figure (fAcc) of HallusionBench.

    A pair is one question asked of several figures, a figure is asked several questions; either is right if all its
    items here are (Guan et al., 2024, arXiv 2310.14566). Pairs and figures of a set overlap, so whole sets are
    resampled: the clusters of ``link_rows``.

    Args:
        verdicts: n verdicts, 0 or 1.
        pairs: n ids of question pairs, unique in the benchmark (category, subcategory, set, question); None if not
            known.
        figures: n ids of figures (category, subcategory, set, figure); ``NO_FIGURE`` where none is shown, which fAcc
            leaves out; None if not known.
        bootstrap: How the intervals are found.

    Returns:
        The three; None, unavailable, where an id is not known or there is no pair or figure.

    Raises:
        ValueError: A verdict is neither 0 nor 1, or the lengths differ.
    """
    graded = [verdict for verdict in verdicts if verdict not in (0, 1)]
    if graded:
        raise ValueError(f"verdicts: must be 0 or 1, got {graded[0]}")
    clusters = link_rows(pairs, figures)
    return {
        "aAcc": estimate_mean(verdicts, clusters, bootstrap),
        "qAcc": all_right_fraction(verdicts, pairs, clusters, bootstrap),
        "fAcc": all_right_fraction(verdicts, figures, clusters, bootstrap),
    }


def mean_by_group(
    scores: Sequence[float],
    groups: Sequence[Sequence[str] | None],
    clusters: Sequence[Hashable] | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> dict[str, Estimate] | None:
    """Mean score of the items of each group; one may belong to several, as a question of MM-Vet to its capabilities.

    Args:
        scores: n scores.
        groups: n collections of group names; None or empty is not known.
        clusters: n names of what is resampled together; None: every item by itself.
        bootstrap: How the intervals are found.

    Returns:
        Groups in alphabetical order; None, unavailable, if an item's groups are not known or there is no item.

    Raises:
        ValueError: The lengths differ.
    """
    if not all(groups) or not len(groups):
        return None
    items: dict[str, list[tuple[float, Hashable]]] = {}
    names = range(len(scores)) if clusters is None else clusters
    for score, members, cluster in zip(scores, groups, names, strict=True):
        for group in sorted(set(members or ())):
            items.setdefault(group, []).append((score, cluster))
    return {
        group: estimate_mean([score for score, _ in items[group]], [cluster for _, cluster in items[group]], bootstrap)
        for group in sorted(items)
    }
