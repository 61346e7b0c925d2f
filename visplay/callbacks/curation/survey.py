"""A look at a base before it learns: what it asks about some images, and how it votes on that."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from lightning import Callback, Trainer

from visplay.callbacks.curation.candidates import CandidateFinder
from visplay.callbacks.curation.curation import Asked, Curation, ask
from visplay.callbacks.curation.gates import Candidate, ConfidenceBand, admit
from visplay.callbacks.curation.view_gates import NeedsTheImage
from visplay.data.draws import Draws
from visplay.data.manifest import Shards
from visplay.functional.diagnosis import repeated_fraction
from visplay.functional.prospects import Prospects, single_answer_accuracy
from visplay.functional.votes.confidence_band import confidence_histogram
from visplay.functional.votes.views import Estimate, LabelAccuracy, estimate_accuracy
from visplay.modules.second_view import SecondView
from visplay.modules.visplay import VisPlay
from visplay.ranks import from_first
from visplay.types import UnlabeledImage, derive_seed

LABEL_ACCURACY = LabelAccuracy(intercept=-1.5, slope=5.2, certainty=0.0)
"""Of two votes of one policy, where the first says nothing that the second does not."""


@dataclass(frozen=True)
class Findings:
    """What a survey found.

    Args:
        prospects: What the verdict rests on.
        vote_accuracy: Fraction of silver answers that are right, estimated, with its interval; None without any.
        confidences: Number of valid votes by tenths of their confidence, from 0 to 1.
        tied: Fraction of the valid votes that are ties.
        question_tokens: Mean tokens of a question.
        vote_tokens: Mean tokens of all votes on a question.
    """

    prospects: Prospects
    vote_accuracy: Estimate | None
    confidences: Sequence[int]
    tied: float
    question_tokens: float
    vote_tokens: float


class Survey(Callback):
    """Asks about images as the first iteration would, has every question voted on twice, and learns nothing.

    Its trainer has ``max_epochs: 0``.

    Args:
        curation: How the run would generate its first data set; its gates are asked too.
        images: Number of images asked about.

    Attributes:
        findings: What was found, once the fit has begun.
    """

    findings: Findings

    def __init__(self, curation: Curation, images: int) -> None:
        self.gates = (ConfidenceBand(curation.low, curation.high), *curation.gates)
        # nobody has learned yet, so that the Reasoner is the base; the last gate only has it answer without images
        self.curation = replace(
            curation,
            images=images,
            gates=[*curation.gates, NeedsTheImage(name="survey")],
            second_view=SecondView("reasoner", curation.voting, accuracy=LABEL_ACCURACY),
        )

    def setup(self, trainer: Trainer, pl_module: VisPlay, stage: str) -> None:
        """Give the trainer, which wants a loader, one that it never reads."""
        trainer.datamodule.phase_batches = Unread

    def on_fit_start(self, trainer: Trainer, pl_module: VisPlay) -> None:
        """Ask, vote, and look."""

        def why_not(image: UnlabeledImage) -> str | None:
            return pl_module.questioner.why_not_asked(image, self.curation.template)

        images = Draws(trainer.datamodule.images, derive_seed(pl_module.seed, "images"), 0, why_not)
        with tempfile.TemporaryDirectory() as directory:
            asked = ask(self.curation, pl_module, images, Shards(Path(directory), {}))
        self.findings = from_first(lambda: self._look(pl_module, asked))

    def _look(self, module: VisPlay, asked: Asked) -> Findings:
        reasoner = module.reasoner
        find = CandidateFinder(self.curation, reasoner)
        votes = [vote for each in asked.questions if (vote := find.valid_vote(each)) is not None]
        found = find(asked.questions)
        labelled = [each for each in found if isinstance(each, Candidate)]
        kept = [each for each, why in zip(labelled, admit(self.gates, labelled), strict=True) if why is None]
        view = self.curation.second_view
        assert view is not None, "set above"
        single = [
            single_answer_accuracy(str(each.vote.answer), again.view, view.accuracy, reasoner.grader)
            for each, again in zip(found, asked.questions, strict=True)
            if isinstance(each, Candidate)
        ]
        n = len(asked.questions)
        texts = [f"{each.image}\n{each.question.text}" for each in asked.questions if each.question is not None]
        accuracy = estimate_accuracy([each.accuracy for each in labelled if each.accuracy is not None])
        prospects = Prospects(
            valid=len(votes) / n,
            repeated=repeated_fraction(texts),
            kept=len(kept) / n,
            blind=_mean([float(bool(each.blind)) for each in labelled]),
            vote_accuracy=0.0 if accuracy is None else accuracy.value,
            single_accuracy=_mean(single),
            kept_accuracy=_mean([each.accuracy or 0.0 for each in kept]),
        )
        return Findings(
            prospects,
            accuracy,
            confidence_histogram(votes).tolist(),
            _mean([float(vote.tied) for vote in votes]),
            asked.tokens["questions_tokens"] / n,
            asked.tokens["votes_tokens"] / max(len(texts), 1),
        )


class Unread:
    """A loader that nobody reads."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Sequence]:
        return iter([()])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
