"""How the Reasoner answers benchmarks: greedily, and by K samples whose majority counts."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any, Protocol

from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn

from visplay.benchmark_answers import Answer, AnsweredItem, BatchAnswers, BenchmarkBatch
from visplay.clock import Clock
from visplay.functional.votes.majority_vote import vote
from visplay.grading.worker import Grader
from visplay.metrics import BenchmarkScores, Report, SuiteScores
from visplay.modules.policy.vlm import VLM
from visplay.prompts import Template
from visplay.ranks import in_turn
from visplay.types import Completion, Engine, Example, PhaseState, Prompt, Sampling, derive_seed


class Answerer(Protocol):
    """What answering benchmarks needs of a Reasoner."""

    vlm: VLM
    template: Template
    grader: Grader

    @property
    def engine(self) -> Engine:
        """The rollout engine."""

    def prompts(self, items: Sequence[Example], template: Template | None = None) -> list[Prompt]:
        """One prompt per example."""

    def parse(self, completion: Completion) -> str | None:
        """The answer, or None."""

    def sampling(self, n: int, seed: int) -> Sampling:
        """How it samples ``n`` completions."""

    def adopt(self, vlm: VLM, clock: Clock) -> None:
        """Take a policy."""


@dataclass(frozen=True)
class Answering:
    """How benchmarks are answered; what is null is as in the Reasoner's own training.

    Args:
        samples: K, answers sampled per question besides the greedy one, 0 for none; null is what each benchmark says.
        template: The prompt; ``{question}`` is filled in.
        max_new_tokens: Most tokens of an answer.
        temperature: Of the samples.
        top_p: Nucleus of the samples.
        top_k: Most probable tokens kept in the samples; 0 keeps all.
    """

    samples: int | None = None
    template: Template | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Reject what nothing could be answered with."""
        if self.samples is not None and self.samples < 0:
            raise ValueError(f"samples: {self.samples} must be at least 0, or null")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature: {self.temperature} must be above 0; one answer is greedy in any case")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens} must be at least 1, or null")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p} must be in (0, 1]; 1 keeps all")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"top_k: {self.top_k} must be at least 0, which keeps all")
        if self.template is not None and "question" not in self.template.fields():
            raise ValueError(f"template: its user message must hold {{question}}, got {self.template.user!r}")

    def sampling(self, reasoner: Answerer, seed: int) -> Sampling:
        """How the Reasoner samples one answer."""
        return reasoner.sampling(1, seed).override(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k
        )


class AnsweringModule(LightningModule, ABC):
    """A module whose Reasoner answers benchmarks when the trainer validates or tests.

    Args:
        seed: Root of every draw of the run.

    Attributes:
        evaluated: What the model under test is called.
        answering: How benchmarks are answered.
        judges: Names of the judges whose verdicts ``benchmark_metrics`` is given.
        benchmark_metrics: The metrics of the evaluation under way.
        reports: What the last evaluation measured, by benchmark.
        scores: The values in it, as they are logged.
    """

    clock: Clock

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.evaluated = "model"
        self.answering = Answering()
        self.judges: tuple[str, ...] = ()
        self.benchmark_metrics = SuiteScores({})
        self.reports: dict[str, Report] = {}
        self.scores: dict[str, float] = {}

    @property
    @abstractmethod
    def phase(self) -> PhaseState:
        """The phase under way."""

    @property
    @abstractmethod
    def validated(self) -> Answerer | None:
        """Who answers; None if nobody here learns to answer."""

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics of every benchmark."""
        self._reset_metrics(self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        """Reset the metrics of every benchmark."""
        self._reset_metrics(self.trainer.test_dataloaders)

    def validation_step(self, batch: BenchmarkBatch, batch_idx: int, dataloader_idx: int = 0) -> BatchAnswers:
        """Answer the batch greedily and, where the benchmark asks for it, by sampling."""
        if self.validated is None:
            raise ValueError(f"validate: a {type(self).__name__} alone does not answer; validate a Reasoner or VisPlay")
        self.clock.note = f"{batch.benchmark}, batch {batch_idx + 1}"
        samples = self.benchmark_metrics.benchmarks[batch.benchmark].samples
        seed = derive_seed(self.seed, "validation")
        answers = answer_batch(self.validated, replace(batch, samples=samples), self.answering, seed)
        self.benchmark_metrics.update(answers)
        return answers

    def test_step(self, batch: BenchmarkBatch, batch_idx: int, dataloader_idx: int = 0) -> BatchAnswers:
        """Do as in validation."""
        return self.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/benchmark/metric`` on the axis of iterations, where the base is iteration 0."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/model/benchmark/metric``."""
        self._log_metrics(f"test/{self.evaluated}")

    def samples_of(self, benchmark: Any) -> int:
        """K, sampled answers per question of a benchmark."""
        return benchmark.votes if self.answering.samples is None else self.answering.samples

    def load_policy(self, policy: VLM, shares_with: VLM | None = None) -> None:
        """Load a policy, and shard it where the strategy has a mesh: the host then holds one whole model at a time."""
        if self.device_mesh is None:
            policy.load(shares_with)
            return
        mesh = self.device_mesh["data_parallel"]

        def load() -> None:
            policy.load(shares_with)
            policy.shard(mesh)

        in_turn(load)

    def _reset_metrics(self, loaders: Sequence | None) -> None:
        benchmarks = [loader.benchmark for loader in loaders or []]
        scores = {b.name: BenchmarkScores(self.samples_of(b), b.scoring, self.judges) for b in benchmarks}
        self.benchmark_metrics = SuiteScores(scores, self.judges)

    def _log_metrics(self, stage: str) -> None:
        self.clock.note = ""
        self.reports = self.benchmark_metrics.compute()
        self.scores = {
            f"{stage}/{benchmark}/{metric}": estimate.value
            for benchmark, report in self.reports.items()
            for metric, estimate in report.metrics.items()
            if estimate is not None
        }
        self.log_dict(self.scores, logger=False, sync_dist=True)  # the same on every rank
        fitting = self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking
        for logger in self.loggers:
            logger.log_metrics(self.scores, step=self.phase.iteration if fitting else 0)


def answer_batch(reasoner: Answerer, batch: BenchmarkBatch, answering: Answering, seed: int) -> BatchAnswers:
    """Answer a batch of benchmark rows and grade the answers by rule.

    Every sample has a seed of its own that follows from its row's key, so that the answers do not depend on how the
    rows are batched. A row whose prompt and longest answer do not fit the context is skipped, and says so.

    Args:
        reasoner: Who answers.
        batch: The rows, and K.
        answering: How.
        seed: Root of all draws.
    """
    sampling, skipped = answering.sampling(reasoner, seed), dict(batch.skipped)
    asked: list[tuple[Example, Prompt]] = []
    for example, prompt in zip(batch.examples, reasoner.prompts(batch.examples, answering.template), strict=True):
        too_long = reasoner.vlm.why_too_long(prompt, sampling.max_new_tokens)
        if too_long is None:
            asked.append((example, prompt))
        else:
            skipped[example.key] = too_long
    prompts = [prompt for _, prompt in asked]
    ways = [replace(sampling, n=1, temperature=0.0, top_p=1.0, top_k=0)]
    if batch.samples:
        ways.append(replace(sampling, n=batch.samples))
    greedy, *further = reasoner.engine.generate_each(reasoner.vlm, prompts, ways)
    (sampled,) = further or ([[]] * len(asked),)
    rows = tuple(
        _grade(reasoner, batch.benchmark, example, first, further, seed)
        for (example, _), (first,), further in zip(asked, greedy, sampled, strict=True)
    )
    return BatchAnswers(batch.benchmark, rows, skipped)


def write_out(example: Example) -> str:
    """The gold answer with both the letter and the text of its option, so that an answer may give either.

    Example:
        >>> from PIL import Image
        >>> write_out(Example("k", Image.new("RGB", (8, 8)), "Which?", "B", metadata={"options": '["red", "blue"]'}))
        'B. blue'
    """
    options = json.loads(example.metadata.get("options", "[]"))
    lettered = dict(zip(ascii_uppercase, options, strict=False))
    letter = example.answer.strip(" ().").upper()
    if letter not in lettered:
        same = [name for name, option in lettered.items() if option == example.answer]
        letter = same[0] if len(same) == 1 else ""
    return f"{letter}. {lettered[letter]}" if letter else example.answer


def _grade(
    reasoner: Answerer, benchmark: str, example: Example, greedy: Completion, sampled: Sequence[Completion], seed: int
) -> AnsweredItem:
    def grade(completion: Completion) -> Answer:
        answer = reasoner.parse(completion)
        return Answer(completion.text, completion.finished, answer, is_right(answer))

    def is_right(answer: str | None) -> bool:
        return answer is not None and reasoner.grader(answer, gold)

    gold = write_out(example)

    samples = tuple(grade(completion) for completion in sampled)
    tie_seed = derive_seed(seed, "tie", example.key)
    with reasoner.grader.bounded():
        majority = vote([sample.answer for sample in samples], reasoner.grader, seed=tie_seed).answer
    return AnsweredItem(
        key=example.key,
        benchmark=benchmark,
        problem=example.problem,
        gold=example.answer,
        metadata=example.metadata,
        greedy=grade(greedy),
        samples=samples,
        majority=majority,
        majority_correct=is_right(majority),
    )
