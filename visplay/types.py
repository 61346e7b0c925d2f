"""The values that travel between modules, engines and callbacks.

Letters: N prompts, G completions per prompt, K votes per question, B = N·G, P prompt tokens, T completion tokens.
Identity travels with every value (``key``), so that nothing is ever matched by its position in a list alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor


@dataclass(frozen=True)
class UnlabeledImage:
    """One image and nothing else: all that self-play is given.

    Args:
        key: Stable identity, for example the path relative to the collection's root.
        image: The image, RGB; None where the Questioner asks without one.
    """

    key: str
    image: Image | None


@dataclass(frozen=True)
class Prompt:
    """What a policy is asked.

    Args:
        key: Identity within one call of ``generate``; it also enters the seed of every sample.
        token_ids: P token ids with ONE placeholder per image.
        images: The images, in the order of their placeholders.
        opened: The mark of a thought that the chat template has put at the end: the completion goes on with it.
    """

    key: str
    token_ids: tuple[int, ...]
    images: tuple[Image, ...]
    opened: str = ""


@dataclass(frozen=True)
class Completion:
    """One sampled continuation.

    Args:
        token_ids: T token ids, the stop token included when there is one.
        logps: T log-probabilities under the sampling policy, in nats, before any truncation.
        text: The decoded text without control tokens.
        finished: Whether the policy stopped by itself; False when it was truncated at the token limit.
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    finished: bool


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Args:
        n: Completions per prompt.
        max_new_tokens: Token limit of a completion.
        temperature: Softmax temperature; 0 is greedy.
        top_p: Keep the smallest set of tokens with this total probability; 1 keeps all.
        top_k: Keep this many most probable tokens; 0 keeps all.
        seed: Root of every sample's own seed, see ``derive_seed``.
        first: Number of the first sample. A sample's seed follows from its number: n samples from 4 on are those that
            come behind the first 4 of a larger n.
    """

    n: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    first: int = 0

    def override(self, **settings: float | None) -> Sampling:
        """The same with these settings; one that is None stays as it is.

        Example:
            >>> Sampling(1, max_new_tokens=64, top_k=5).override(max_new_tokens=9, top_k=None)
            Sampling(n=1, max_new_tokens=9, temperature=1.0, top_p=1.0, top_k=5, seed=0, first=0)
        """
        chosen: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        return replace(self, **chosen)


@dataclass(frozen=True)
class Rollout:
    """N prompts with G completions each; row i of ``completions`` answers ``prompts[i]``."""

    prompts: tuple[Prompt, ...]
    completions: tuple[tuple[Completion, ...], ...]

    def __post_init__(self) -> None:
        """Reject ragged groups: grouping is an axis."""
        sizes = {len(group) for group in self.completions}
        if len(self.prompts) != len(self.completions) or len(sizes) > 1:
            raise ValueError(
                f"Rollout: {len(self.prompts)} prompts need as many groups of one size, got "
                f"{len(self.completions)} groups of sizes {sorted(sizes)}"
            )

    @property
    def completion_tokens(self) -> int:
        """Tokens of all completions."""
        return sum(len(completion.token_ids) for group in self.completions for completion in group)

    def take(self, rows: Sequence[int]) -> Rollout:
        """The given groups."""
        return Rollout(tuple(self.prompts[row] for row in rows), tuple(self.completions[row] for row in rows))

    def join(self, further: Rollout) -> Rollout:
        """These groups and then the others."""
        return Rollout(self.prompts + further.prompts, self.completions + further.completions)


@dataclass(frozen=True)
class Question:
    """A question that parsed.

    Args:
        text: The question, stripped.
        kind: One of the allowed types, lower case.
        answer: The answer the Questioner believes in, or None; a diagnosis, never a label.
    """

    text: str
    kind: str
    answer: str | None = None


@dataclass(frozen=True)
class Vote:
    """The majority among K sampled answers (Eq. 4).

    Args:
        answer: The silver answer, or None when no answer parsed.
        confidence: Fraction of answers that agree with it among the parsed ones (or among all K), in [0, 1].
        counts: Answer classes as (name, count), the silver answer's first; each parsed answer counts once.
        parsed: How many of the K answers parsed.
        total: K.
        tied: Whether as many answers agree with an answer that contradicts the silver one, which is drawn then.
    """

    answer: str | None
    confidence: float
    counts: tuple[tuple[str, int], ...]
    parsed: int
    total: int
    tied: bool = False

    @property
    def parsed_fraction(self) -> float:
        """Fraction of the K answers that parsed, in [0, 1]."""
        return self.parsed / self.total if self.total else 0.0

    @property
    def margin(self) -> float:
        """Lead of the winner over the runner-up as a fraction of the parsed answers, in [0, 1]; 0 for a tie."""
        leaders = [count for _, count in self.counts[:2]] + [0, 0]
        return 0.0 if self.tied or not self.parsed else max(leaders[0] - leaders[1], 0) / self.parsed


@dataclass(frozen=True)
class Proposal:
    """A question that curation may keep.

    Args:
        image: The image it was asked about.
        question: The question; None if it did not parse.
        vote: The vote on it; None if there is no question, or one too long for the context.
        view: The vote on another view of it; None where none was taken.
        blind: What the Reasoner answers without the image; None where it was not asked, or its answer did not parse.
    """

    image: UnlabeledImage
    question: Question | None
    vote: Vote | None
    view: Vote | None = None
    blind: str | None = None


@dataclass(frozen=True)
class Example:
    """A question with an answer to agree with: silver (generated) or gold (a benchmark row).

    Args:
        key: Identity of the row.
        image: The image, RGB; the first one where there are several, None where there is none.
        problem: The question.
        answer: Silver or gold answer.
        problem_type: The question's type, empty if unknown.
        score: Confidence of the vote; 1 for gold.
        votes: Answer classes as (name, count).
        image_id: Key of the image.
        iteration: Iteration that generated the row; 0 for gold.
        further_images: The other images of a benchmark row, in their order.
        metadata: What else the row of a benchmark says as text, by column: discipline, ids, options.
        label_accuracy: Estimate of how likely the answer is right, in [0, 1]; 1 for gold, and where there is none.
    """

    key: str
    image: Image | None = field(repr=False)
    problem: str
    answer: str
    problem_type: str = ""
    score: float = 1.0
    votes: tuple[tuple[str, int], ...] = ()
    image_id: str = ""
    iteration: int = 0
    further_images: tuple[Image, ...] = field(default=(), repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    label_accuracy: float = 1.0

    @property
    def images(self) -> tuple[Image, ...]:
        """All images, in their order."""
        return () if self.image is None else (self.image, *self.further_images)


@dataclass(frozen=True)
class Record:
    """One completion as a person reads it.

    Args:
        image: The image; None where there is none.
        problem: The question; None if the completion should have been one and did not parse.
        text: The completion.
        reward: Its reward.
        vote: The votes on the question, or those that gave the silver answer; None if none were taken.
        gold: The answer to agree with where it is a label; None where it is a silver answer, or there is none.
        answer: What was parsed of the completion as the answer: the Questioner's own, or the Reasoner's; None if
            nothing was.
        kind: The type of the question; empty if unknown.
        image_key: Identity of the image; empty where there is none.
        parts: What the reward is made of, by name, before it is combined.
    """

    image: Image | None
    problem: str | None
    text: str
    reward: float
    vote: Vote | None
    gold: str | None = None
    answer: str | None = None
    kind: str = ""
    image_key: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What a role's rewards are and how they came about.

    Args:
        rewards: (N, G).
        statistics: Means to log.
        records: N·G, group by group.
        weights: (N,) in [0, 1], by which the advantages of each prompt are multiplied; None leaves them as they are.

    Raises:
        ValueError: There is not one weight in [0, 1] for each prompt.
    """

    rewards: Tensor
    statistics: dict[str, float]
    records: tuple[Record, ...]
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        """Reject weights that are none."""
        if self.weights is None:
            return
        if self.weights.shape != self.rewards.shape[:1]:
            shapes = f"{tuple(self.weights.shape)} for rewards of {tuple(self.rewards.shape)}"
            raise ValueError(f"weights: need one for each of the N prompts, got {shapes}")
        outside = ~((self.weights >= 0) & (self.weights <= 1))
        if bool(outside.any()):
            raise ValueError(f"weights: must be in [0, 1], got {self.weights[outside].tolist()}")

    def join(self, further: Judgement) -> Judgement:
        """These groups and then the others; statistics are weighed by the number of groups."""
        own = len(self.rewards) / (len(self.rewards) + len(further.rewards))
        both = {n: own * v + (1 - own) * further.statistics.get(n, v) for n, v in self.statistics.items()}
        statistics, parts = further.statistics | both, [self, further]
        weights = None
        if any(part.weights is not None for part in parts):
            weights = torch.cat([torch.ones(len(p.rewards)) if p.weights is None else p.weights for p in parts])
        rewards = torch.cat([part.rewards for part in parts])
        return Judgement(rewards, statistics, self.records + further.records, weights)


@dataclass
class PhaseState:
    """Where a run is: what the loop, the iterator of a phase's items and a checkpoint share.

    Args:
        role: Name of the role that learns; all others are frozen.
        iteration: Counts from 1; in an iteration every role has one phase.
        attempt: How often this phase has been repeated.
        step: Steps taken in this phase.
        steps_before: Steps that each role took in earlier phases, by its name.
        positions: Items drawn so far from each source's seeded order, by the source's name.
        drawn: Items drawn in this phase from what begins anew with each: the data set made for it, and the mixture.

    Raises:
        ValueError: ``iteration`` is below 1.
    """

    role: str
    iteration: int = 1
    attempt: int = 0
    step: int = 0
    steps_before: dict[str, int] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    drawn: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject what is no phase."""
        if self.iteration < 1:
            raise ValueError(f"iteration: counts from 1, got {self.iteration}")

    @property
    def role_step(self) -> int:
        """Steps that the role has taken in the whole run."""
        return self.steps_before.get(self.role, 0) + self.step

    def following(self, turns: Sequence[str]) -> PhaseState:
        """The phase after this one, which is over: the next role of an iteration, or the first of the next iteration.

        Args:
            turns: The roles that learn in an iteration, in their order.

        Example:
            >>> first = PhaseState("questioner", step=20)
            >>> second = first.following(["questioner", "reasoner"])
            >>> second.iteration, second.role, second.steps_before
            (1, 'reasoner', {'questioner': 20})
            >>> second.following(["questioner", "reasoner"]).iteration
            2
        """
        turn = (turns.index(self.role) + 1) % len(turns)
        return replace(self.repeated(), role=turns[turn], iteration=self.iteration + (turn == 0), attempt=0)

    def repeated(self) -> PhaseState:
        """The same phase once more, with further items."""
        steps = self.steps_before | {self.role: self.role_step}
        return replace(
            self, attempt=self.attempt + 1, step=0, steps_before=steps, positions=dict(self.positions), drawn={}
        )


class Policy(Protocol):
    """What identifies a policy to an engine: the weights it has now."""

    name: str
    version: int


class Engine(Protocol):
    """What modules know of a rollout engine: it samples from a policy as that policy is now."""

    def generate(self, policy: Policy, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample ``sampling.n`` completions per prompt, in the order of the prompts."""

    def generate_each(
        self, policy: Policy, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[list[list[Completion]]]:
        """Do as ``generate`` in each of several ways; an engine may read the prompts once for all of them."""
        return [self.generate(policy, prompts, sampling) for sampling in samplings]

    def begin(
        self, policy: Policy, prompts: Sequence[Prompt], sampling: Sampling
    ) -> Callable[[], list[list[Completion]]]:
        """Begin to sample from the policy as it is now; the function returned waits for what ``generate`` would give.

        Meanwhile the policy may be updated, so only an engine with weights and a device of its own can do it.

        Raises:
            NotImplementedError: This one has none.
        """
        name = type(self).__name__
        raise NotImplementedError(f"{name} samples where the trainer computes")

    def load(self, policy: Policy) -> None:
        """Load this policy at its present version; free of charge if it is loaded already."""

    def sleep(self) -> None:
        """Give memory back while a policy is being updated."""

    def wake(self) -> None:
        """Undo ``sleep``."""

    def close(self) -> None:
        """End the engine."""


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from what identifies a draw, the same on every machine.

    Example:
        >>> derive_seed(0, "vote", 3) == derive_seed(0, "vote", 3)
        True
        >>> derive_seed(0, "vote", 3) == derive_seed(0, "vote", 4)
        False
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1
