"""Between the phases: questions are asked, voted on and curated, and become a data set on the disk."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from lightning import Trainer

from visplay.callbacks.logging import log_histogram, log_scalars
from visplay.data.draws import Draws
from visplay.data.generated import GeneratedDataset, Manifest, write_examples
from visplay.functional.confidence_band import confidence_histogram, keep_in_band, relax_band
from visplay.functional.diagnosis import describe_votes, fold_question, repeated_fraction
from visplay.modules.visplay import VisPlay
from visplay.modules.voting import Voting
from visplay.prompts import Template
from visplay.types import Example, Proposal, Vote

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curation:
    """How the data set of an iteration is generated.

    Args:
        images: Images asked about in each iteration, from a seeded permutation that advances.
        questions_per_image: Questions asked about each.
        low: Least confidence of a question that is kept (Eq. 9).
        high: Highest confidence of a question that is kept.
        min_kept: Fewer kept questions than this are too few.
        on_too_few: What happens then: "continue" with what there is, "relax" the band until there are enough, or "stop"
            with an error. Without a single question every run stops.
        template: The Questioner's prompt in this stage; null takes its own.
        max_new_tokens: Most tokens of a question in this stage, no more than the context has; null takes the
            Questioner's own, as for the next two.
        top_p: Nucleus of sampling.
        top_k: Most probable tokens kept in sampling; 0 keeps all.
        voting: How the Reasoner votes in this stage; null takes what it does while it judges.
        images_per_batch: Images asked about in one batch.
    """

    images: int = 1000
    questions_per_image: int = 8
    low: float = 0.25
    high: float = 0.75
    min_kept: int = 1
    on_too_few: Literal["continue", "relax", "stop"] = "continue"
    template: Template | None = None
    max_new_tokens: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    voting: Voting | None = None
    images_per_batch: int = 64

    def __post_init__(self) -> None:
        """Reject an empty band or an empty collection."""
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low, high: need 0 <= low <= high <= 1, got low={self.low}, high={self.high}")
        if min(self.images, self.questions_per_image, self.images_per_batch, self.min_kept) < 1:
            raise ValueError(
                "curation: images, questions_per_image, images_per_batch and min_kept must be at least 1, got "
                f"{self.images}, {self.questions_per_image}, {self.images_per_batch} and {self.min_kept}"
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens} must be at least 1, or null")


class TooFewQuestionsError(RuntimeError):
    """Curation left nothing, or too little, to train on."""


class Curator:
    """Makes the data set of an iteration.

    The file is stored in the run's directory and is recorded in a manifest, so that one that is finished is not made
    again by the same policies with the same settings.

    Args:
        config: How.
        trainer: Knows the run's directory and loggers.
        module: Asks and votes.
    """

    def __init__(self, config: Curation, trainer: Trainer, module: VisPlay) -> None:
        self.config = config
        self.trainer = trainer
        self.module = module
        self.directory = Path(trainer.log_dir or trainer.default_root_dir)
        self.manifest = Manifest(self.directory / "manifest.json")

    def generate(self, images: Draws) -> tuple[GeneratedDataset, dict[str, Any]]:
        """The data set of the present iteration, made unless it is there already, and its record in the manifest.

        Args:
            images: Moves on by the images that the data set was made of.

        Raises:
            TooFewQuestionsError: Nothing, or too little, is left to train on.
        """
        stage, made_by = self._stage(), self._made_by(images)
        record = self.manifest.get(stage)
        if record is None or record["made_by"] != made_by or "confidences" not in record:
            path = self.directory / "generated" / f"{stage}.parquet"
            examples, facts = self._curate(images, stage)
            write_examples(path, examples)
            record = self.manifest.record(stage, path, made_by=made_by, position=images.position, **facts)
        self._log(record)
        images.position = record["position"]
        return GeneratedDataset(record["path"]), record

    def _stage(self) -> str:
        phase = self.module.phase
        name = f"iteration-{phase.iteration}"
        return f"{name}-repeat-{phase.attempt}" if phase.attempt else name

    def _made_by(self, images: Draws) -> dict[str, Any]:
        """What the data set follows from, as plain values; one that was made by anything else is not taken."""
        module, roles = self.module, (self.module.questioner, self.module.reasoner)
        facts = {
            "seed": module.stage_seed("curation"),
            "images": [images.position, len(images.items)],
            "curation": asdict(self.config),
            "format": asdict(module.questioner.format),
            "voting": asdict(module.reasoner.voting),
            "templates": [asdict(role.template) for role in roles],
            "sampling": [asdict(role.sampling(1, seed=0)) for role in roles],
            "policies": [role.vlm.fingerprint() for role in roles],
        }
        return json.loads(json.dumps(facts, default=sorted))  # as the manifest gives it back; sets in one order

    def _curate(self, images: Draws, stage: str) -> tuple[list[Example], dict[str, Any]]:
        """Ask, vote, and keep what is in the band; the examples, and what is on record of them."""
        proposals = self._propose(images)
        reasoner = self.module.reasoner
        votes = [p.vote if reasoner.is_valid(p.vote, self.config.voting) else None for p in proposals]
        kept, band = self._choose(votes)
        iteration = self.module.phase.iteration
        examples = [as_example(f"{iteration}/{index}", proposals[index], iteration) for index in kept]
        statistics = self._describe(proposals, votes, kept) | dict(zip(("low", "high"), band, strict=True))
        statistics |= _describe_duplicates(examples, self._asked_before(stage))
        confidences = Counter(vote.confidence for vote in votes if vote is not None)
        graded = {f"graded_{outcome}": n for outcome, n in reasoner.grader.drain_outcomes().items()}
        return examples, {"statistics": statistics, "graded": graded, "confidences": sorted(confidences.items())}

    def _propose(self, images: Draws) -> list[Proposal]:
        proposals: list[Proposal] = []
        c, module = self.config, self.module
        most_tokens = c.max_new_tokens and min(c.max_new_tokens, module.questioner.vlm.context_tokens - 1)
        sampling = {"max_new_tokens": most_tokens, "top_p": c.top_p, "top_k": c.top_k}
        for start in range(0, c.images, c.images_per_batch):
            module.clock.note = f"{start}/{c.images} images"
            chunk = images.draw(min(c.images_per_batch, c.images - start))
            seed = module.stage_seed("curation", start)
            proposals += module.propose(chunk, c.questions_per_image, seed, c.template, c.voting, **sampling)
        module.clock.note = ""
        return proposals

    def _choose(self, votes: Sequence[Vote | None]) -> tuple[list[int], tuple[float, float]]:
        """Indices of the questions to keep, and the band that they are in."""
        c = self.config
        band = (c.low, c.high)
        voting = c.voting or self.module.reasoner.voting
        admitted: dict[str, Any] = {"min_parsed_fraction": 0.0, "admit_ties": voting.ties == "draw"}
        kept = keep_in_band(votes, *band, **admitted)
        if len(kept) < c.min_kept and c.on_too_few == "relax":
            band = relax_band(votes, *band, c.min_kept, **admitted)
            kept = keep_in_band(votes, *band, **admitted)
        if len(kept) < c.min_kept:
            logger.warning("too few questions: %s", self._why_few(votes, len(kept)))
        if not kept or (len(kept) < c.min_kept and c.on_too_few == "stop"):
            raise TooFewQuestionsError(self._why_few(votes, len(kept)))
        return kept, band

    def _why_few(self, votes: Sequence[Vote | None], kept: int) -> str:
        taken = [vote for vote in votes if vote is not None]
        if not taken:
            return (
                f"none of the {len(votes)} questions is valid: they do not parse (see `format` and the prompt), are "
                "too long for the context, or too few of their answers parse (see `min_parsed_fraction`)"
            )
        tenths, tied = confidence_histogram(taken).tolist(), sum(vote.tied for vote in taken)
        return (
            f"{kept or 'none'} of the {len(taken)} valid questions (min_kept={self.config.min_kept}) has a label and a "
            f"confidence between low={self.config.low} and high={self.config.high}; {tied} are ties, which have no "
            f"label unless voting.ties is draw; confidences by tenths from 0 to 1: {tenths}; widen the band, set "
            "on_too_few to relax, or ask about more images"
        )

    def _describe(
        self, proposals: Sequence[Proposal], votes: Sequence[Vote | None], kept: Sequence[int]
    ) -> dict[str, float]:
        confidences = [vote.confidence for vote in votes if vote is not None]
        asked = [proposals[index].question for index in kept]
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
        timed = {f"{stage}_seconds": seconds for stage, seconds in self.module.clock.drain().items()}
        log_scalars(self.trainer, "curation", statistics | timed | record["graded"], iteration)
        confidences = [value for value, count in record["confidences"] for _ in range(count)]
        log_histogram(self.trainer, "curation/confidence", confidences, iteration)
        logger.info("iteration %d: kept %d of %d questions", iteration, statistics["kept"], statistics["asked"])


def as_example(key: str, proposal: Proposal, iteration: int) -> Example:
    """A proposal that was kept: its vote gave an answer."""
    question, vote = proposal.question, proposal.vote
    if question is None or vote is None or vote.answer is None:
        raise ValueError(f"proposal {key}: only a question with a silver answer can become an example, got {proposal}")
    return Example(
        key=key,
        image=proposal.image.image,
        problem=question.text,
        answer=vote.answer,
        problem_type=question.kind,
        score=vote.confidence,
        votes=vote.counts,
        image_id=proposal.image.key,
        iteration=iteration,
    )


def _describe_duplicates(examples: Sequence[Example], asked_before: set[str]) -> dict[str, float]:
    """Questions asked twice about one image, and questions whose words earlier iterations asked already."""
    before = [fold_question(example.problem) in asked_before for example in examples]
    return {
        "duplicate_fraction": repeated_fraction([f"{example.image_id}\n{example.problem}" for example in examples]),
        "seen_before_fraction": sum(before) / len(before),
    }
