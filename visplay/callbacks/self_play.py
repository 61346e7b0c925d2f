"""The meta-loop: one epoch is one phase; roles swap, and the generated data set is refreshed in between."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, Trainer
from torch.utils.data import DataLoader, Dataset

from visplay.callbacks.logging import log_histogram, log_scalars
from visplay.data.generated import GeneratedDataset, Ledger, write_examples
from visplay.data.images import ImageFolder
from visplay.functional.curation import confidence_histogram, keep_in_band
from visplay.functional.phases import FIRST_PHASE, Phase, next_phase, permuted_indices
from visplay.modules.visplay import VisPlay
from visplay.types import Example, Proposal, Vote, derive_seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curation:
    """How the data set of an iteration is generated.

    Args:
        images: Pictures asked about in each iteration, from a seeded permutation that advances.
        questions_per_image: Questions asked about each.
        low: Least confidence of a question that is kept (Eq. 9).
        high: Highest confidence of a question that is kept.
        images_per_batch: Pictures asked about side by side.
    """

    images: int = 1000
    questions_per_image: int = 8
    low: float = 0.25
    high: float = 0.75
    images_per_batch: int = 64

    def __post_init__(self) -> None:
        """Refuse an empty band or an empty collection."""
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low, high: need 0 <= low <= high <= 1, got low={self.low}, high={self.high}")
        if min(self.images, self.questions_per_image, self.images_per_batch) < 1:
            raise ValueError(
                f"curation: images, questions_per_image and images_per_batch must be at least 1, got {self}"
            )


class NoQuestionKeptError(RuntimeError):
    """Curation left nothing to train on."""


class SelfPlay(Callback):
    """Runs Questioner and Reasoner phases in turn.

    A Reasoner phase begins by asking, voting and curating; the data set is written under the run's folder and recorded
    in a ledger, so that a stage that is finished is not done again by the same policies with the same settings.

    Args:
        iterations: Questioner and Reasoner phases, each this many.
        curation: How the data set of an iteration is generated.
    """

    def __init__(self, iterations: int = 3, curation: Curation = Curation()) -> None:  # noqa: B008 (frozen)
        if iterations < 1:
            raise ValueError(f"iterations: {iterations} must be at least 1")
        self.iterations = iterations
        self.curation = curation
        self.phase: Phase = FIRST_PHASE
        self.position = 0
        self.dataset: str | None = None
        self.statistics: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: VisPlay, stage: str) -> None:
        """Tell the data module to read what the phase asks for."""
        if stage == "fit":
            trainer.datamodule.phase_batches = lambda: self._batches(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: VisPlay) -> None:
        """Begin a phase: a frozen reference and a fresh optimiser."""
        pl_module.role.learner.begin_phase(pl_module.role.vlm, pl_module.active_optimizer())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: VisPlay) -> None:
        """End a phase and move on to the next."""
        pl_module.role.learner.end_phase(pl_module.active_optimizer())
        self.position += self._images_in_phase(pl_module)
        self.phase = next_phase(self.phase)

    def state_dict(self) -> dict[str, Any]:
        """Phase, place in the permutation of the images, and the data set in use."""
        return asdict(self.phase) | {
            "position": self.position,
            "dataset": self.dataset,
            "statistics": self.statistics,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``."""
        self.phase = Phase(state_dict["iteration"], state_dict["role"])
        self.position = state_dict["position"]
        self.dataset = state_dict["dataset"]
        self.statistics = state_dict["statistics"]

    def _images_in_phase(self, module: VisPlay) -> int:
        config = module.questioner.config
        return config.steps * config.prompts_per_step if self.phase.role == "questioner" else self.curation.images

    def _batches(self, trainer: Trainer, module: VisPlay) -> Iterable:
        """What the phase learns from: images, or the examples generated from them."""
        module.phase, module.phase_step = self.phase, 0
        config, seed = module.role.config, derive_seed(module.seed, "images")
        images = self._next_images(trainer.datamodule.images, seed, self._images_in_phase(module))
        if self.phase.role == "questioner":
            return DataLoader(images, batch_size=config.prompts_per_step, collate_fn=list)
        examples = self._generate(trainer, module, images)
        order = permuted_indices(0, config.steps * config.prompts_per_step, len(examples), module.stage_seed("order"))
        return DataLoader(Chosen(examples, order), batch_size=config.prompts_per_step, collate_fn=list)

    def _next_images(self, images: ImageFolder, seed: int, count: int) -> Chosen:
        return Chosen(images, permuted_indices(self.position, count, len(images), seed))

    def _generate(self, trainer: Trainer, module: VisPlay, images: Chosen) -> GeneratedDataset:
        """The iteration's data set, generated unless it is there already."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        ledger, stage = Ledger(folder / "ledger.json"), f"iteration-{self.phase.iteration}"
        path = folder / "generated" / f"{stage}.parquet"
        made_by = self._made_by(module)
        record = ledger.get(stage)
        if record is None or record["made_by"] != made_by:
            examples = self._curate(trainer, module, images)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_examples(path, examples)
            record = ledger.record(stage, path, made_by=made_by, statistics=self.statistics)
        self.dataset, self.statistics = str(path), record["statistics"]
        return GeneratedDataset(path)

    def _made_by(self, module: VisPlay) -> dict[str, Any]:
        """What the data set follows from, as plain values; one that was made by anything else is not taken."""
        return {
            "seed": module.stage_seed("curation"),
            "position": self.position,
            "curation": asdict(self.curation),
            "votes": module.reasoner.votes,
            "policies": [module.questioner.vlm.fingerprint(), module.reasoner.vlm.fingerprint()],
        }

    def _curate(self, trainer: Trainer, module: VisPlay, images: Chosen) -> list[Example]:
        """Ask, vote, and keep what lies in the band."""
        proposals: list[Proposal] = []
        for start in range(0, len(images), self.curation.images_per_batch):
            module.clock.note = f"{start}/{len(images)} images"
            chunk = [images[index] for index in range(start, min(start + self.curation.images_per_batch, len(images)))]
            seed = module.stage_seed("curation", start)
            proposals += module.propose(chunk, self.curation.questions_per_image, seed)
        module.clock.note = ""
        votes = [p.vote if module.questioner.is_valid(p.vote) else None for p in proposals]
        kept = keep_in_band(votes, self.curation.low, self.curation.high, module.questioner.min_parsed_share)
        self._describe(trainer, module, votes, len(kept))
        return [as_example(f"{self.phase.iteration}/{index}", proposals[index], self.phase.iteration) for index in kept]

    def _describe(self, trainer: Trainer, module: VisPlay, votes: Sequence[Vote | None], kept: int) -> None:
        """Log what curation found.

        Raises:
            NoQuestionKeptError: Nothing is left to train on.
        """
        confidences = [vote.confidence for vote in votes if vote is not None]
        self.statistics = {
            "asked": len(votes),
            "valid_share": len(confidences) / len(votes),
            "mean_confidence": float(np.mean(confidences)) if confidences else 0.0,
            "kept": kept,
            "kept_share": kept / len(votes),
        }
        timed = {f"{stage}_seconds": seconds for stage, seconds in module.clock.drain().items()}
        log_scalars(trainer, "curation", self.statistics | timed, self.phase.iteration)
        log_histogram(trainer, "curation/confidence", confidences, self.phase.iteration)
        logger.info("iteration %d: kept %d of %d questions", self.phase.iteration, kept, len(votes))
        if kept == 0:
            raise NoQuestionKeptError(self._why_none(votes))

    def _why_none(self, votes: Sequence[Vote | None]) -> str:
        held = [vote for vote in votes if vote is not None]
        if not held:
            return (
                f"none of the {len(votes)} questions is valid: they do not parse (see `kinds` and the prompt), are too "
                "long for the context, or too few of their answers parse (see `min_parsed_share`)"
            )
        tenths = confidence_histogram(held).tolist()
        return (
            f"none of the {len(held)} valid questions has a confidence between low={self.curation.low} and "
            f"high={self.curation.high}; confidences by tenths from 0 to 1: {tenths}; widen the band, or "
            "ask about more images"
        )


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


class Chosen(Dataset):
    """Some items of a collection, in the order given; an item may come again."""

    def __init__(self, items: ImageFolder | GeneratedDataset, indices: Sequence[int]) -> None:
        self.items = items
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.items[self.indices[index]]
