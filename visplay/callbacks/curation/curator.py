"""Between the phases: questions are asked, voted on and curated, and become a data set on the disk."""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from lightning import Trainer
from PIL.Image import Image

from visplay.callbacks.curation.candidates import CandidateFinder
from visplay.callbacks.curation.curation import Asked, AskedQuestion, Curation, ask, describe_asking
from visplay.callbacks.curation.gates import (
    Candidate,
    ConfidenceBand,
    admit,
    gate_states,
    load_gate_states,
)
from visplay.callbacks.logging import log_histogram, log_scalars, run_directory
from visplay.callbacks.rollout_sink import RolloutSink
from visplay.data.draws import Draws
from visplay.data.files import json_line, replacing
from visplay.data.generated import GeneratedDataset, PngEncoder, write_examples
from visplay.data.manifest import Manifest, Shards
from visplay.functional.diagnosis import describe_votes, fold_question, repeated_fraction
from visplay.functional.votes.confidence_band import confidence_histogram, keep_in_band, relax_band
from visplay.functional.votes.views import estimate_accuracy
from visplay.modules.visplay import VisPlay
from visplay.ranks import from_first, rank, spread
from visplay.types import Example, UnlabeledImage, Vote

logger = logging.getLogger(__name__)


class TooFewQuestionsError(RuntimeError):
    """Curation left nothing, or too little, to train on."""


class Curator:
    """Makes the data set of an iteration.

    What was asked and voted is stored batch by batch, as text, in ``generated/<stage>/``, so that a kill costs a batch;
    the file of what is kept, with its images, in the run's directory. Both are on record, so that what is finished is
    not made again by the same policies with the same settings. ``generated/<stage>/admission.jsonl`` says of each
    question why it is not kept. No more images are in memory than a batch has. All ranks ask, vote, judge and encode
    images; rank 0 reads and writes the disk.

    Args:
        config: How.
        trainer: Knows the run's directory and loggers.
        module: Asks and votes.
    """

    def __init__(self, config: Curation, trainer: Trainer, module: VisPlay) -> None:
        self.config = config
        self.trainer = trainer
        self.module = module
        self.directory = run_directory(trainer)
        self.manifest = Manifest(self.directory / "manifest.json")

    def generate(self, images: Draws) -> tuple[GeneratedDataset, dict[str, Any]]:
        """The data set of the present iteration, made unless it is there already, and its record in the manifest.

        Args:
            images: Moves on by the images that the data set was made of.

        Raises:
            TooFewQuestionsError: Nothing, or too little, is left to train on.
        """
        stage, made_by = self._stage(), self._made_by(images)
        record = from_first(lambda: self.manifest.get(stage))
        if record is None or record["made_by"] != made_by or "seconds" not in record:
            record = self._make(images, stage, made_by)
        self._log(record)
        load_gate_states(self.config.gates, record["gates"])
        images.position = record["position"]
        return GeneratedDataset(record["path"]), record

    def _make(self, images: Draws, stage: str, made_by: dict[str, Any]) -> dict[str, Any]:
        """Ask, vote, and store what the gates keep; the record of it."""
        path = self.directory / "generated" / f"{stage}.parquet"
        shards = Shards(path.with_suffix(""), made_by)
        self.module.clock.drain()
        self.module.clock.drain_tokens()
        sink = next((each for each in self.trainer.callbacks if isinstance(each, RolloutSink)), None)
        asked = ask(self.config, self.module, images, shards, sink and sink.keep_proposed)
        find = CandidateFinder(self.config, self.module.reasoner)
        votes = [find.valid_vote(each) for each in asked.questions]
        found = from_first(lambda: find(asked.questions))
        reasons, band = self._judge(found, votes)
        judged = enumerate(zip(found, reasons, strict=True))
        kept = {index: each for index, (each, why) in judged if why is None and isinstance(each, Candidate)}
        self._write(path, asked, kept)

        def record() -> dict[str, Any]:
            self._write_reasons(path.with_suffix("") / "admission.jsonl", asked.questions, found, reasons)
            statistics = self._describe(asked.questions, votes, list(kept))
            statistics |= dict(zip(("low", "high"), band, strict=True)) | asked.tokens
            statistics |= _describe_views([each for each in found if isinstance(each, Candidate)], list(kept.values()))
            statistics |= {f"rejected/{reason}": count for reason, count in sorted(_count(reasons).items())}
            statistics |= _describe_duplicates([asked.questions[index] for index in kept], self._asked_before(stage))
            confidences = Counter(vote.confidence for vote in votes if vote is not None)
            asked.graded.update(self.module.reasoner.grader.drain_outcomes())
            return self.manifest.record(
                stage,
                path,
                made_by=made_by,
                position=images.position,
                statistics=statistics,
                graded={f"graded_{outcome}": n for outcome, n in asked.graded.items()},
                confidences=sorted(confidences.items()),
                seconds=asked.seconds,
                gates=gate_states(self.config.gates),
            )

        return from_first(record)

    def _write(self, path: Path, asked: Asked, kept: Mapping[int, Candidate]) -> None:
        """Write the data set on rank 0; its images are encoded by all ranks, as that takes longest."""
        encode, iteration = PngEncoder(), self.module.phase.iteration
        encoded: dict[int, bytes] = {}  # of a batch

        def encode_together(images: Sequence[Image]) -> list[bytes]:
            pixels = [image.width * image.height for image in images]
            return spread(pixels, lambda own: [encode(images[n]) for n in own])

        def examples() -> Iterator[Example]:
            for batch in asked.proposals(kept):
                asked_about = (each.image.image for each in batch.values())
                images = {id(image): image for image in asked_about if image is not None}
                encoded.clear()
                encoded.update(zip(images, encode_together(list(images.values())), strict=True))
                for index, each in batch.items():
                    yield as_example(f"{iteration}/{index}", each.image, kept[index], iteration)

        if rank() == 0:
            write_examples(path, examples(), lambda image: encoded[id(image)])
        else:
            deque(examples(), maxlen=0)

    def _write_reasons(
        self,
        path: Path,
        questions: Sequence[AskedQuestion],
        found: Sequence[Candidate | str],
        reasons: Sequence[str | None],
    ) -> None:
        """Write why each question is not kept, null where it is, by the key that it has in the data set."""
        with replacing(path) as file:
            for index, (asked, candidate, reason) in enumerate(zip(questions, found, reasons, strict=True)):
                known = candidate if isinstance(candidate, Candidate) else None
                vote = asked.vote if known is None else known.vote
                row = {
                    "key": f"{self.module.phase.iteration}/{index}",
                    "image": asked.image,
                    "question": None if asked.question is None else asked.question.text,
                    "answer": None if vote is None else vote.answer,
                    "confidence": None if vote is None else vote.confidence,
                    "views_agree": None if known is None else known.views_agree,
                    "accuracy": None if known is None else known.accuracy,
                    "rejected": reason,
                }
                file.write(json_line(row))

    def _stage(self) -> str:
        phase = self.module.phase
        name = f"iteration-{phase.iteration}"
        return f"{name}-repeat-{phase.attempt}" if phase.attempt else name

    def _made_by(self, images: Draws) -> dict[str, Any]:
        """What the data set follows from, as plain values; one that was made by anything else is not taken."""
        return {"images": [images.position, len(images.items)]} | describe_asking(self.config, self.module)

    def _judge(
        self, found: Sequence[Candidate | str], votes: Sequence[Vote | None]
    ) -> tuple[list[str | None], tuple[float, float]]:
        """Why each question is not kept, None where it is, and the band that the kept ones are in."""
        c = self.config
        candidates = [each for each in found if isinstance(each, Candidate)]
        band = self._choose_band([each.vote for each in candidates])
        judged = iter(admit((ConfidenceBand(*band), *c.gates), candidates))
        reasons = [next(judged) if isinstance(each, Candidate) else each for each in found]
        kept = reasons.count(None)
        if kept < c.min_kept:
            logger.warning("too few questions: %s", self._why_few(votes, reasons))
        if not kept or (kept < c.min_kept and c.on_too_few == "stop"):
            raise TooFewQuestionsError(self._why_few(votes, reasons))
        return reasons, band

    def _choose_band(self, votes: Sequence[Vote]) -> tuple[float, float]:
        """The band of ``low`` and ``high``, or a wider one where that has too few."""
        c = self.config
        admitted: dict[str, Any] = {"min_parsed_fraction": 0.0, "admit_ties": True}  # all of them are labels
        if c.on_too_few != "relax" or len(keep_in_band(votes, c.low, c.high, **admitted)) >= c.min_kept:
            return c.low, c.high
        return relax_band(votes, c.low, c.high, c.min_kept, **admitted)

    def _why_few(self, votes: Sequence[Vote | None], reasons: Sequence[str | None]) -> str:
        taken = [vote for vote in votes if vote is not None]
        if not taken:
            return (
                f"none of the {len(votes)} questions is valid: they do not parse (see `format` and the prompt), are "
                "too long for the context, or too few of their answers parse (see `min_parsed_fraction`)"
            )
        tenths, tied = confidence_histogram(taken).tolist(), sum(vote.tied for vote in taken)
        rejected = ", ".join(f"{reason} {count}" for reason, count in _count(reasons).most_common())
        return (
            f"{reasons.count(None) or 'none'} of the {len(taken)} valid questions (min_kept={self.config.min_kept}) "
            f"has a label, a confidence between low={self.config.low} and high={self.config.high}, and passes all "
            f"gates; {tied} are ties, which have no label unless voting.ties is draw; rejected: {rejected}; "
            f"confidences by tenths from 0 to 1: {tenths}; widen the band, set on_too_few to relax, or ask about more "
            "images"
        )

    def _describe(
        self, questions: Sequence[AskedQuestion], votes: Sequence[Vote | None], kept: Sequence[int]
    ) -> dict[str, float]:
        confidences = [vote.confidence for vote in votes if vote is not None]
        asked = [questions[index].question for index in kept]
        return {
            "asked": len(votes),
            "valid_fraction": len(confidences) / len(votes),
            "tied_fraction": sum(vote is not None and vote.tied for vote in votes) / len(votes),
            "mean_confidence": float(np.mean(confidences)) if confidences else 0.0,
            "kept": len(kept),
            "kept_fraction": len(kept) / len(votes),
        } | describe_votes(asked, [votes[index] for index in kept], self.module.reasoner.grader)

    def _asked_before(self, stage: str) -> set[str]:
        """Folded questions of earlier data sets; one on record may be later, where a run was killed and goes back."""
        order = {name: [int(number) for number in re.findall(r"\d+", name)] for name in (stage, *self.manifest.files())}
        paths = [path for name, path in self.manifest.files().items() if order[name] < order[stage]]
        tables = [pq.read_table(path, columns=["problem"]) for path in paths]
        return {fold_question(text) for table in tables for text in table["problem"].to_pylist()}

    def _log(self, record: dict[str, Any]) -> None:
        """Log what the data set is like; of one that was there already too, as a log may end before it was made."""
        iteration, statistics = self.module.phase.iteration, record["statistics"]
        timed = {f"{stage}_seconds": seconds for stage, seconds in record["seconds"].items()}
        log_scalars(self.trainer, "curation", statistics | timed | record["graded"], iteration)
        confidences = [value for value, count in record["confidences"] for _ in range(count)]
        log_histogram(self.trainer, "curation/confidence", confidences, iteration)
        logger.info("iteration %d: kept %d of %d questions", iteration, statistics["kept"], statistics["asked"])


def as_example(key: str, image: UnlabeledImage, kept: Candidate, iteration: int) -> Example:
    """A question that was kept: its vote gave an answer."""
    if kept.vote.answer is None:
        raise ValueError(f"{key}: only a question with a silver answer can become an example, got {kept}")
    return Example(
        key=key,
        image=image.image,
        problem=kept.question.text,
        answer=kept.vote.answer,
        problem_type=kept.question.kind,
        score=kept.vote.confidence,
        votes=kept.vote.counts,
        image_id=image.key,
        iteration=iteration,
        label_accuracy=1.0 if kept.accuracy is None else kept.accuracy,
    )


def _count(reasons: Sequence[str | None]) -> Counter[str]:
    return Counter(reason for reason in reasons if reason is not None)


def _describe_views(candidates: Sequence[Candidate], kept: Sequence[Candidate]) -> dict[str, float]:
    """How often both views of a question have the same winner, and an estimate of how many labels are right."""
    agree = [each.views_agree for each in candidates if each.views_agree is not None]
    figures = {"views_agree_fraction": float(np.mean(agree))} if agree else {}
    for name, chosen in (("estimated_accuracy_of_asked", candidates), ("estimated_silver_accuracy", kept)):
        estimate = estimate_accuracy([each.accuracy for each in chosen if each.accuracy is not None])
        if estimate is not None:
            figures |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return figures


def _describe_duplicates(kept: Sequence[AskedQuestion], asked_before: set[str]) -> dict[str, float]:
    """Questions asked twice about one image, and questions whose words earlier iterations asked already."""
    asked = [(found.image, found.question.text) for found in kept if found.question is not None]
    return {
        "duplicate_fraction": repeated_fraction([f"{image}\n{text}" for image, text in asked]),
        "seen_before_fraction": sum(fold_question(text) in asked_before for _, text in asked) / len(asked),
    }
