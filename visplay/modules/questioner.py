"""The Questioner: sees an image and asks; rewarded for valid, hard and diverse questions (Eq. 5-8)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from visplay.functional.parsing import DEFAULT_KINDS, parse_question
from visplay.functional.rewards import difficulty, questioner_rewards, redundancy
from visplay.functional.voting import is_valid_vote
from visplay.modules.grpo import GRPOConfig
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import Judgement, Record, Role, distinct_keys
from visplay.prompts import ASK, Template
from visplay.types import Completion, Prompt, Question, Rollout, UnlabeledImage, Vote


class Questioner(Role):
    """Asks about images; judged by the votes of a frozen Reasoner.

    Args:
        grpo: Settings of learning and sampling.
        template: The prompt.
        kinds: Allowed question types; null allows any.
        redundancy_weight: λ of Eq. 6.
        reward: Combines valid, difficulty and redundancy, each (N, G), into rewards (N, G).
        min_parsed_share: A question with a smaller share of parsed answers is invalid.

    Attributes:
        jury: The Reasoner that votes; given by the module that owns the role.
    """

    name = "questioner"

    def __init__(
        self,
        grpo: GRPOConfig = GRPOConfig(),  # noqa: B008 (frozen)
        template: Template = ASK,
        kinds: Collection[str] | None = DEFAULT_KINDS,
        redundancy_weight: float = 1.0,
        reward: Callable[[Tensor, Tensor, Tensor], Tensor] = questioner_rewards,
        min_parsed_share: float = 0.8,
    ) -> None:
        super().__init__(template, grpo)
        self.kinds = None if kinds is None else frozenset(kinds)
        self.redundancy_weight = redundancy_weight
        self.reward = reward
        self.min_parsed_share = min_parsed_share
        self.jury: Reasoner

    def prompts(self, items: Sequence[UnlabeledImage]) -> list[Prompt]:
        """Ask about each image."""
        keyed = zip(distinct_keys(items), items, strict=True)
        return [self.vlm.encode(key, self.template, item.image) for key, item in keyed]

    def parse(self, completion: Completion) -> Question | None:
        """The question, or None if the completion was cut off or does not have the required form."""
        return parse_question(completion.text, self.kinds) if completion.finished else None

    def ask(self, rollout: Rollout) -> list[list[Question | None]]:
        """The questions of a rollout, (N, G)."""
        return [[self.parse(completion) for completion in group] for group in rollout.completions]

    def is_valid(self, vote: Vote | None) -> bool:
        """Whether a question parsed and enough of its answers did."""
        return vote is not None and is_valid_vote(vote, self.min_parsed_share)

    def judge(self, items: Sequence[UnlabeledImage], rollout: Rollout, seed: int) -> Judgement:
        """Reward questions (N, G) by the jury's disagreement and by how common they are in their group."""
        questions = self.ask(rollout)  # (N, G)
        with self.learner.clock("votes"):
            votes = self.jury.vote_on(items, questions, seed)  # (N, G)
        valid = torch.tensor([[self.is_valid(vote) for vote in group] for group in votes])
        hardness = difficulty(torch.tensor([[vote.confidence if vote else 0.0 for vote in g] for g in votes]))
        shares = torch.stack([_cluster_shares(group) for group in questions])
        repetition = self.redundancy_weight * shares
        rewards = self.reward(valid, hardness, repetition)  # (N, G)
        statistics = {
            "valid_share": float(valid.float().mean()),
            "parsed_share": float((shares > 0).float().mean()),
            "difficulty": _mean_where(hardness, valid),
            "redundancy": _mean_where(repetition, valid),
            "clusters": float(sum(1 / (shares[shares > 0] * shares.shape[1])) / len(shares)),
        }
        return Judgement(rewards, statistics, _records(items, rollout, questions, votes, rewards))


def _cluster_shares(questions: Sequence[Question | None]) -> Tensor:
    """Share of the group in each question's cluster, (G,); 0 where there is no question."""
    asked = [index for index, question in enumerate(questions) if question is not None]
    shares = torch.zeros(len(questions))
    if asked:
        among_asked = redundancy([question.text for question in questions if question is not None])
        shares[asked] = among_asked.float() * len(asked) / len(questions)
    return shares


def _mean_where(values: Tensor, where: Tensor) -> float:
    """Mean of the chosen values, 0 if there are none."""
    return float(values[where].mean()) if bool(where.any()) else 0.0


def _records(
    items: Sequence[UnlabeledImage],
    rollout: Rollout,
    questions: Sequence[Sequence[Question | None]],
    votes: Sequence[Sequence[Vote | None]],
    rewards: Tensor,
) -> tuple[Record, ...]:
    return tuple(
        Record(item.image, question.text if question else None, completion.text, reward, vote)
        for item, completions, asked, held, row in zip(
            items, rollout.completions, questions, votes, rewards.tolist(), strict=True
        )
        for completion, question, vote, reward in zip(completions, asked, held, row, strict=True)
    )
