"""The Questioner: sees an image and asks; rewarded for valid, hard and diverse questions (Eq. 5-8)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visplay.functional.diagnosis import describe_votes, repeated_fraction
from visplay.functional.parsing import DEFAULT_KINDS, parse_question
from visplay.functional.rewards import difficulty, group_redundancy, questioner_rewards
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.policy.vlm import VLM
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import Judgement, Record, Role, distinct_keys
from visplay.prompts import ASK, Template
from visplay.types import Completion, Engine, Prompt, Question, Rollout, UnlabeledImage, Vote


@dataclass(frozen=True)
class QuestionFormat:
    """What must parse for a question to be valid, see ``visplay.functional.parse_question``.

    Args:
        kinds: Allowed question types; null allows any.
        require: Parts that must be there, of "type", "question" and "answer"; the paper asks for "question" alone.
        text_around: Whether other text may stand around the parts.
    """

    kinds: Collection[str] | None = DEFAULT_KINDS
    require: Collection[str] = ("type", "question")
    text_around: bool = False

    def __post_init__(self) -> None:
        """Reject an unknown part."""
        self.parse("")

    def parse(self, text: str) -> Question | None:
        """The question, or None if it does not have the required form."""
        return parse_question(text, self.kinds, self.require, text_around=self.text_around)


@dataclass(frozen=True)
class QuestionReward:
    """How a question is paid; a function is named by its import path.

    Args:
        difficulty: Confidences to r_unc: ``difficulty`` (Eq. 5) or ``minority_difficulty`` (released code).
        redundancy: Questions (N, G) to shares (N, G): ``group_redundancy`` (Eq. 6) or ``batch_redundancy``.
        redundancy_weight: λ of Eq. 6.
        combine: Valid, r_unc and r_div, each (N, G), to rewards (N, G): ``questioner_rewards`` (Eq. 8) or
            ``signed_questioner_rewards`` (released code).
    """

    difficulty: Callable[[Tensor], Any] = difficulty
    redundancy: Callable[[Sequence[Sequence[str | None]]], Any] = group_redundancy
    redundancy_weight: float = 1.0
    combine: Callable[[Tensor, Tensor, Tensor], Any] = questioner_rewards


class Questioner(Role):
    """Asks about images; judged by the votes of a frozen Reasoner.

    Args:
        grpo: Settings of learning and sampling.
        template: The prompt.
        format: What must parse.
        reward: How a question is paid.
        jury: The Reasoner that votes, with a model of its own, for a Questioner that is fitted alone.
        vlm: The policy of a Questioner that is fitted alone.
        seed: Root of every draw of a Questioner that is fitted alone.
    """

    name = "questioner"
    jury: Reasoner

    def __init__(
        self,
        grpo: GRPOConfig = GRPOConfig(),  # noqa: B008 (frozen)
        template: Template = ASK,
        format: QuestionFormat = QuestionFormat(),  # noqa: B008 (frozen)
        reward: QuestionReward = QuestionReward(),  # noqa: B008 (frozen)
        jury: Reasoner | None = None,
        vlm: VLM | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(template, grpo, vlm, seed)
        self.format = format
        self.reward = reward
        if jury is not None:
            self.jury = jury
            self.grader = jury.grader

    def judged_by(self, jury: Reasoner) -> None:
        """Take a Reasoner as the jury, without making it a part of this module: it has an owner."""
        self.__dict__["jury"] = jury
        self.grader = jury.grader

    @property
    def validated(self) -> None:
        """A Questioner does not answer."""
        return

    def configure_model(self) -> None:
        """Load the policy and freeze the jury.

        Raises:
            ValueError: There is no jury.
        """
        super().configure_model()
        if not hasattr(self, "jury"):
            raise ValueError("jury: a Questioner that is fitted alone needs a Reasoner to judge it, got null")
        self.jury.configure_model()
        self.jury.vlm.requires_grad_(False)

    @property
    def idle(self) -> tuple[VLM, ...]:
        """The policy of a jury of its own."""
        return (self.jury.vlm,) if "jury" in self._modules else ()

    def attach_engine(self, engine: Engine) -> None:
        """Keep a handle on the engine, for the jury too."""
        super().attach_engine(engine)
        if "jury" in self._modules:
            self.jury.attach_engine(engine)

    def prompts(self, items: Sequence[UnlabeledImage], template: Template | None = None) -> list[Prompt]:
        """Ask about each image."""
        keyed = zip(distinct_keys(items), items, strict=True)
        return [self.vlm.encode(key, template or self.template, item.image) for key, item in keyed]

    def parse(self, completion: Completion) -> Question | None:
        """The question, or None if the completion was truncated or does not have the required form."""
        return self.format.parse(completion.text) if completion.finished else None

    def ask(self, rollout: Rollout) -> list[list[Question | None]]:
        """The questions of a rollout, (N, G)."""
        return [[self.parse(completion) for completion in group] for group in rollout.completions]

    def judge(self, items: Sequence[UnlabeledImage], rollout: Rollout, seed: int) -> Judgement:
        """Reward questions (N, G) by the jury's disagreement and by how common they are."""
        questions, jury = self.ask(rollout), self.jury  # (N, G)
        with self.clock("votes"):
            votes = jury.vote_on(items, questions, seed)  # (N, G)
        valid = torch.tensor([[jury.is_valid(vote) for vote in group] for group in votes])
        shares = self.reward.redundancy([[q.text if q else None for q in group] for group in questions])
        repetition = self.reward.redundancy_weight * shares
        hardness = self.reward.difficulty(torch.tensor([[v.confidence if v else 0.0 for v in g] for g in votes]))
        rewards = self.reward.combine(valid, hardness, repetition)  # (N, G)
        statistics = {
            "valid_fraction": float(valid.float().mean()),
            "difficulty": _mean_where(hardness, valid),
            "redundancy": _mean_where(repetition, valid),
        }
        statistics |= _describe(questions, votes, jury.grader)
        return Judgement(rewards, statistics, _records(items, rollout, questions, votes, rewards))


def _describe(
    questions: Sequence[Sequence[Question | None]],
    votes: Sequence[Sequence[Vote | None]],
    equivalence: Callable[[str, str], bool],
) -> dict[str, float]:
    """What questions (N, G) and the votes on them look like."""
    asked = [question for group in questions for question in group]
    texts = [[question.text for question in group if question is not None] for group in questions]
    parsed = sum(map(len, texts))
    repeated = sum(repeated_fraction(group) * len(group) for group in texts)
    shares = {"parsed_fraction": parsed / len(asked), "repeated_fraction": repeated / max(parsed, 1)}
    return shares | describe_votes(asked, [vote for group in votes for vote in group], equivalence)


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
