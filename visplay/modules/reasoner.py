"""The Reasoner: answers questions about an image; votes (Eq. 4) and learns to agree with silver answers (Eq. 10)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from visplay.functional.parsing import parse_boxed
from visplay.functional.rewards import agreement
from visplay.functional.voting import vote
from visplay.modules.grpo import GRPOConfig
from visplay.modules.role import Judgement, Record, Role, distinct_keys
from visplay.prompts import ANSWER, Template
from visplay.types import Completion, Example, Prompt, Question, Rollout, UnlabeledImage, Vote


class Reasoner(Role):
    """Answers questions; K of its answers are a vote.

    Args:
        grpo: Settings of learning and sampling.
        template: The prompt; ``{question}`` is filled in.
        votes: K, answers sampled per question.
    """

    name = "reasoner"

    def __init__(
        self,
        grpo: GRPOConfig = GRPOConfig(),  # noqa: B008 (frozen)
        template: Template = ANSWER,
        votes: int = 10,
    ) -> None:
        super().__init__(template, grpo)
        if votes < 2:
            raise ValueError(f"votes: {votes} must be at least 2, or every vote is unanimous")
        self.votes = votes

    def prompts(self, items: Sequence[Example]) -> list[Prompt]:
        """Ask each example's question."""
        keyed = zip(distinct_keys(items), items, strict=True)
        return [self.vlm.encode(key, self.template, item.image, question=item.problem) for key, item in keyed]

    def parse(self, completion: Completion) -> str | None:
        """The boxed answer, or None if there is none or the completion was cut off."""
        return parse_boxed(completion.text) if completion.finished else None

    def answers(self, rollout: Rollout) -> list[list[str | None]]:
        """The answers of a rollout, (N, G)."""
        return [[self.parse(completion) for completion in group] for group in rollout.completions]

    def answer(
        self, items: Sequence[Example], n: int, seed: int, temperature: float | None = None
    ) -> list[list[str | None]]:
        """Answer each example's question ``n`` times; None where an answer does not parse."""
        return self.answers(self.rollout(items, n, seed, temperature))

    def judge(self, items: Sequence[Example], rollout: Rollout, seed: int) -> Judgement:
        """Reward answers (N, G) that agree with the example's answer."""
        answers = self.answers(rollout)  # (N, G)
        rewards = torch.stack([agreement(a, item.answer) for a, item in zip(answers, items, strict=True)])
        parsed = [answer is not None for group in answers for answer in group]
        statistics = {
            "parsed_share": sum(parsed) / len(parsed),
            "agreement": float(rewards.mean()),
            "confidence": sum(item.score for item in items) / len(items),
        }
        return Judgement(rewards, statistics, _records(items, rollout, rewards.tolist()))

    def vote_on(
        self, images: Sequence[UnlabeledImage], questions: Sequence[Sequence[Question | None]], seed: int
    ) -> list[list[Vote | None]]:
        """Hold a vote of K answers on every question.

        Args:
            images: N pictures.
            questions: (N, G); None is not voted on.
            seed: Root of all draws.

        Returns:
            (N, G) votes; None where there is no question, or one too long for the context.
        """
        prompts: dict[tuple[int, int], Prompt] = {}
        for n, (key, item, group) in enumerate(zip(distinct_keys(images), images, questions, strict=True)):
            for g, question in enumerate(group):
                if question is not None:
                    prompts[n, g] = self.vlm.encode(f"{key}#{g}", self.template, item.image, question=question.text)
        prompts = {place: p for place, p in prompts.items() if self.vlm.fits(p, self.config.max_new_tokens)}
        sampled = self.engine.generate(self.vlm, list(prompts.values()), self.sampling(self.votes, seed))
        held = {place: vote([self.parse(c) for c in group]) for place, group in zip(prompts, sampled, strict=True)}
        return [[held.get((n, g)) for g in range(len(group))] for n, group in enumerate(questions)]


def _records(items: Sequence[Example], rollout: Rollout, rewards: Sequence[Sequence[float]]) -> tuple[Record, ...]:
    return tuple(
        Record(item.image, item.problem, completion.text, reward, _silver_vote(item))
        for item, completions, row in zip(items, rollout.completions, rewards, strict=True)
        for completion, reward in zip(completions, row, strict=True)
    )


def _silver_vote(item: Example) -> Vote:
    """The vote that the example's answer came from."""
    total = sum(count for _, count in item.votes)
    return Vote(item.answer, item.score, item.votes, total, total)
