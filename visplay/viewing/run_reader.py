"""A run as its directory tells it: phases, scores, questions, samples and answers."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from visplay.evaluation import AnswerStore
from visplay.functional.diagnosis import fold_question
from visplay.grading.equivalence import canonical_form, equivalent
from visplay.viewing.run_files import (
    PHASES_FILE,
    RUN_FILE,
    SAMPLES,
    STEPS_FILE,
    SUMMARY_FILE,
    THUMBNAILS_FILE,
)
from visplay.viewing.thumbnails import Thumbnails

_STAGE = re.compile(r"iteration-(\d+)(?:-repeat-(\d+))?")


class RunReader:
    """Reads what a run has written; a run that is under way may be read.

    Args:
        directory: The run's, or one that holds its versions, of which the last is meant.

    Attributes:
        directory: The run's.
        thumbnails: Of its images; there may be none.

    Raises:
        FileNotFoundError: There is no run.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = find_run(Path(directory))
        self.thumbnails = Thumbnails(self.directory / SAMPLES / THUMBNAILS_FILE)

    @property
    def name(self) -> str:
        """Such as ``tiny/version_0``."""
        path = self.directory.resolve()
        return f"{path.parent.name}/{path.name}"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """``run.json``."""
        return json.loads((self.directory / RUN_FILE).read_bytes())

    @cached_property
    def phases(self) -> list[dict[str, Any]]:
        """The phases that are over, in their order."""
        return list(_lines(self.directory / PHASES_FILE))

    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        """A row of scores for every iteration that was validated, the base first."""
        path = self.directory / SUMMARY_FILE
        return json.loads(path.read_bytes()) if path.is_file() else []

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """The statistics of every step."""
        return list(_lines(self.directory / SAMPLES / STEPS_FILE))

    @cached_property
    def curations(self) -> dict[int, dict[str, Any]]:
        """What is on record of the data set of each iteration; of one made again, the last."""
        path, found = self.directory / "manifest.json", dict[int, tuple[int, dict[str, Any]]]()
        stages = json.loads(path.read_bytes()) if path.is_file() else {}
        for stage, record in stages.items():
            if match := _STAGE.fullmatch(stage):
                iteration, attempt = int(match[1]), int(match[2] or 0)
                if attempt >= found.get(iteration, (0, {}))[0]:
                    found[iteration] = attempt, record | {"stage": stage}
        return {iteration: found[iteration][1] for iteration in sorted(found)}

    def asked(self, iterations: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
        """Every question of the data sets, in the order asked.

        Args:
            iterations: Of which; None is all.

        Yields:
            iteration, key, image, question, kind, own (the Questioner's answer), silver, confidence, votes (class and
            count), view (the same of the second vote; null without one), views_agree, accuracy (estimated), blind, and
            rejected: why it is not kept, null where it is.
        """
        wanted = self.curations.keys() if iterations is None else self.curations.keys() & set(iterations)
        for iteration in sorted(wanted):
            directory = self.directory / "generated" / self.curations[iteration]["stage"]
            reasons = _lines(directory / "admission.jsonl")
            shards = (row for path in sorted(directory.glob("[0-9]*.jsonl")) for row in _lines(path))
            for row, admitted in zip(shards, reasons, strict=False):
                question, vote = row["question"] or {}, row["vote"] or {}
                yield {
                    "iteration": iteration,
                    "key": admitted["key"],
                    "image": row["image"],
                    "question": question.get("text"),
                    "kind": question.get("kind", ""),
                    "own": question.get("answer"),
                    "silver": admitted["answer"],
                    "confidence": admitted["confidence"],
                    "votes": vote.get("counts", []),
                    "view": None if row["view"] is None else row["view"]["counts"],
                    "views_agree": admitted.get("views_agree"),
                    "accuracy": admitted.get("accuracy"),
                    "blind": row["blind"],
                    "rejected": admitted["rejected"],
                }

    def groups(self) -> Iterator[dict[str, Any]]:
        """The recorded groups of training, phase by phase: see ``RolloutSink``."""
        for path in sorted((self.directory / SAMPLES).glob("iteration-*.jsonl"), key=_order):
            yield from _lines(path)

    def answers(self, iteration: int) -> dict[str, list[Any]]:
        """The answered items of the validation of an iteration, 0 for the base, by benchmark."""
        directory = self.directory / "evaluation" / f"iteration-{iteration}"
        names = sorted({path.name.rpartition("-rank")[0] for path in directory.glob("*-rank*.jsonl")})
        store = AnswerStore(directory)
        return {name: list(store.items(name)) for name in names}


def find_run(directory: Path) -> Path:
    """The directory of a run: the one given, or the last version in it.

    Raises:
        FileNotFoundError: There is none.
    """
    if (directory / RUN_FILE).is_file():
        return directory
    versions = [path.parent for path in directory.glob(f"version_*/{RUN_FILE}")]
    if not versions:
        raise FileNotFoundError(
            f"run: {str(directory)!r} is not the directory of a run, which has a {RUN_FILE}, nor one that holds some"
        )
    return max(versions, key=lambda path: int(re.sub(r"\D", "", path.name) or 0))


def mark_changed(rows: list[dict[str, Any]]) -> None:
    """Set ``changed`` on questions that were asked about one image in several iterations, with different verdicts.

    A verdict is the silver answer and whether the question was kept.
    """
    verdicts, asked = defaultdict(set), [(row["image"], fold_question(row["question"] or "")) for row in rows]
    iterations = defaultdict(set)
    for row, about in zip(rows, asked, strict=True):
        verdicts[about].add((row["silver"], row["rejected"] is None))
        iterations[about].add(row["iteration"])
    for row, about in zip(rows, asked, strict=True):
        several = len(iterations[about]) > 1 and len(verdicts[about]) > 1
        row["changed"] = row["question"] is not None and several


def mark_disagreeing(rows: list[dict[str, Any]]) -> None:
    """Set ``disagrees`` on questions whose silver answer is written otherwise than the Questioner's own answer."""
    form = canonical_form(equivalent)
    for row in rows:
        own, silver = row["own"], row["silver"]
        row["disagrees"] = own is not None and silver is not None and form(own) != form(silver)


def _order(path: Path) -> list[int]:
    numbers = [int(number) for number in re.findall(r"\d+", path.stem)]
    return [numbers[0], "questioner" not in path.stem, *numbers[1:]]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; the last one of a run that is under way may be half written."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
