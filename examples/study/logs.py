"""What a run logged, iteration by iteration, as numbers under names; nothing is measured here."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from visplay.evaluation import AnswerStore

SAMPLED = "heldout_sampled"
"""Accuracy of single sampled answers to held-out questions: the study's main metric."""
ACCURACY, KEPT = "accuracy/", "kept/"
"""What the names of a family's metrics begin with."""

DESCRIPTIONS = "descriptions.json"
"""What ``examples.vision_sr1.descriptions`` writes: further metrics of each iteration."""

Row = dict[str, float]


def read_rows(version: Path, family_of: Callable[[str], str]) -> list[Row]:
    """Read the iterations of a run, the base first.

    A row has what ``summary.json`` has, where it is a number, and

    - ``estimated_silver_accuracy``, if the run logged one;
    - ``accuracy/<family>``: of the sampled answers to held-out questions, from the stored answers;
    - ``kept/<family>``: fraction of the kept questions, and ``families``, exp of the entropy of these fractions: how
      many families there are in effect;
    - what ``DESCRIPTIONS`` has, if it was written;
    - ``sampled_tokens`` and ``learned_tokens``, of completions, and ``seconds``, validation apart, from the beginning.

    Args:
        version: The run's directory.
        family_of: The family of a question's text.

    Raises:
        FileNotFoundError: A file of the run is missing.
    """
    phases = [json.loads(line) for line in (version / "phases.jsonl").read_text().splitlines()]
    described = version / DESCRIPTIONS
    descriptions = json.loads(described.read_text()) if described.is_file() else {}
    rows = []
    for summary in json.loads((version / "summary.json").read_text()):
        iteration = summary.pop("iteration")
        row: Row = {name: float(value) for name, value in summary.items() if value is not None}
        row |= _accuracies(version / "evaluation" / f"iteration-{iteration}", family_of)
        row |= descriptions.get(str(iteration), {})
        row |= _costs(phase for phase in phases if phase["iteration"] <= iteration)
        datasets = [phase["dataset"] for phase in phases if phase["iteration"] == iteration and phase["dataset"]]
        if datasets:  # the last one, where a phase was repeated
            row |= _data_set(version, Path(datasets[-1]["path"]).stem, family_of)
        rows.append(row)
    return rows


def _accuracies(directory: Path, family_of: Callable[[str], str]) -> Row:
    scores = defaultdict[str, list[float]](list)
    for item in AnswerStore(directory).items("heldout"):
        scores[family_of(item.problem)] += [float(sample.correct) for sample in item.samples]
    return {f"{ACCURACY}{name}": sum(of_name) / len(of_name) for name, of_name in sorted(scores.items()) if of_name}


def _costs(phases: Iterable[Mapping[str, Any]]) -> Row:
    tokens, seconds = Counter[str](), 0.0
    for phase in phases:
        tokens.update(phase["tokens"])
        seconds += sum(value for stage, value in phase["seconds"].items() if stage != "validation")
    learned = tokens.pop("update", 0)
    return {"sampled_tokens": float(tokens.total()), "learned_tokens": float(learned), "seconds": seconds}


def _data_set(version: Path, stage: str, family_of: Callable[[str], str]) -> Row:
    statistics = json.loads((version / "manifest.json").read_text())[stage]["statistics"]
    row: Row = {name: statistics[name] for name in ("estimated_silver_accuracy",) if name in statistics}
    asked = (version / "generated" / stage / "admission.jsonl").read_text().splitlines()
    kept = [each["question"] for each in map(json.loads, asked) if each["rejected"] is None]
    counts = Counter(map(family_of, kept))
    fractions = {name: count / len(kept) for name, count in sorted(counts.items())}
    row["families"] = math.exp(-sum(fraction * math.log(fraction) for fraction in fractions.values()))
    return row | {f"{KEPT}{name}": fraction for name, fraction in fractions.items()}
