"""The Questioner: sees an image and asks; rewarded for valid, hard and diverse questions (Eq. 5-8)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from visplay.functional.diagnosis import describe_votes, repeated_fraction
from visplay.functional.parsing import DEFAULT_KINDS, parse_boxed_question, parse_question
from visplay.functional.rewards.memory_redundancy import MemoryRedundancy
from visplay.functional.rewards.reward_protocols import QuestionJudge
from visplay.functional.rewards.rewards import difficulty, group_redundancy, questioner_rewards
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.policy.vlm import VLM
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import Role, by_completion, distinct_keys
from visplay.prompts import ASK, Template
from visplay.ranks import from_first
from visplay.types import Completion, Engine, Judgement, Prompt, Question, Record, Rollout, UnlabeledImage


@dataclass(frozen=True)
class QuestionFormat:
    """What must parse for a question to be valid, see ``visplay.functional.parse_question``.

    Args:
        kinds: Allowed question types; null allows any.
        require: Parts that must be there, of "type", "question" and "answer"; the paper asks for "question" alone.
        text_around: Whether other text may stand around the parts.
        spaced_tags: Whether ``< type >`` is a tag too.
        boxed_answer: Whether the form is R-Zero's, a question and a boxed answer behind it, see
            ``visplay.functional.parse_boxed_question``; the other parts have no say then.
    """

    kinds: Collection[str] | None = DEFAULT_KINDS
    require: Collection[str] = ("type", "question")
    text_around: bool = False
    spaced_tags: bool = False
    boxed_answer: bool = False

    def __post_init__(self) -> None:
        """Reject an unknown part."""
        self.parse("")

    def parse(self, text: str) -> Question | None:
        """The question, or None if it does not have the required form."""
        if self.boxed_answer:
            return parse_boxed_question(text, text_around=self.text_around)
        return parse_question(
            text, self.kinds, self.require, text_around=self.text_around, spaced_tags=self.spaced_tags
        )


@dataclass(frozen=True)
class QuestionReward:
    """How a question is paid; a function is named by its import path.

    Args:
        difficulty: Confidences to r_unc: ``difficulty`` (Eq. 5), ``minority_difficulty`` (released code), or
            ``TargetDifficulty``, which peaks elsewhere.
        redundancy: Questions (N, G) to shares (N, G): ``group_redundancy`` (Eq. 6) or ``batch_redundancy``.
        redundancy_weight: λ of Eq. 6.
        memory: What r_div adds for a question that is like those which earlier iterations kept; null adds nothing.
        combine: Valid, r_unc and r_div, each (N, G), to rewards (N, G): ``questioner_rewards`` (Eq. 8) or
            ``signed_questioner_rewards`` (released code).
        judge: Questions and their votes to r_unc, in place of ``difficulty``; null takes that.
    """

    difficulty: Callable[[Tensor], Any] = difficulty
    redundancy: Callable[[Sequence[Sequence[str | None]]], Any] = group_redundancy
    redundancy_weight: float = 1.0
    memory: MemoryRedundancy | None = None
    combine: Callable[[Tensor, Tensor, Tensor], Any] = questioner_rewards
    judge: QuestionJudge | None = None


class Questioner(Role):
    """Asks about images; judged by the votes of a frozen Reasoner.

    Args:
        grpo: Settings of learning and sampling.
        template: The prompt.
        format: What must parse.
        reward: How a question is paid.
        reasoner: The frozen Reasoner that votes, with a model of its own, for a Questioner that is fitted alone.
        vlm: The policy of a Questioner that is fitted alone.
        seed: Root of every draw of a Questioner that is fitted alone.

    Attributes:
        remembered: Questions that earlier iterations kept, for ``reward.memory``.
    """

    name = "questioner"
    learns_from = "images"
    reasoner: Reasoner | None
    voter: VLM | None = None

    def __init__(
        self,
        grpo: GRPOConfig = GRPOConfig(),  # noqa: B008 (frozen)
        template: Template = ASK,
        format: QuestionFormat = QuestionFormat(),  # noqa: B008 (frozen)
        reward: QuestionReward = QuestionReward(),  # noqa: B008 (frozen)
        reasoner: Reasoner | None = None,
        vlm: VLM | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(template, grpo, vlm, seed)
        self.format = format
        self.reward = reward
        self.remembered: Sequence[str] = ()
        self.reasoner = reasoner
        if reasoner is not None:
            self.grader, reasoner.clock = reasoner.grader, self.clock

    def judge_by(self, reasoner: Reasoner, voter: VLM | None = None) -> None:
        """Have a Reasoner vote that has another owner: it is no submodule of this one, nor in its state.

        Args:
            reasoner: How is voted.
            voter: The policy that answers; None is the Reasoner's own.
        """
        object.__setattr__(self, "reasoner", reasoner)
        object.__setattr__(self, "voter", voter)
        self.grader = reasoner.grader

    @property
    def validated(self) -> None:
        """A Questioner does not answer."""
        return

    @property
    def _own_reasoner(self) -> Reasoner | None:
        """The Reasoner of a Questioner that is fitted alone."""
        return self._modules.get("reasoner")

    def configure_model(self) -> None:
        """Load the policy, and that of a Reasoner of its own, which is frozen.

        Raises:
            ValueError: There is no Reasoner.
        """
        super().configure_model()
        if self.reasoner is None:
            raise ValueError("reasoner: a Questioner that is fitted alone needs a Reasoner to judge it, got null")
        self.reasoner.configure_model()
        self.reasoner.vlm.requires_grad_(False)

    @property
    def idle(self) -> tuple[VLM, ...]:
        """The policy of a Reasoner of its own."""
        return (self._own_reasoner.vlm,) if self._own_reasoner else ()

    def attach_engine(self, engine: Engine) -> None:
        """Keep a handle on the engine, for a Reasoner of its own too."""
        super().attach_engine(engine)
        if self._own_reasoner:
            self._own_reasoner.attach_engine(engine)

    def prompts(self, items: Sequence[UnlabeledImage], template: Template | None = None) -> list[Prompt]:
        """Ask about each image."""
        keyed = zip(distinct_keys(items), items, strict=True)
        return [self.vlm.encode(key, template or self.template, item.image) for key, item in keyed]

    def parse(self, completion: Completion, opened: str = "") -> Question | None:
        """The question, or None if the completion was truncated or does not have the required form.

        Args:
            completion: What was sampled.
            opened: The mark of a thought that the prompt ends with.
        """
        return self.format.parse(opened + completion.text) if completion.finished else None

    def ask(self, rollout: Rollout) -> list[list[Question | None]]:
        """The questions of a rollout, (N, G)."""
        groups = zip(rollout.prompts, rollout.completions, strict=True)
        return [[self.parse(completion, prompt.opened) for completion in group] for prompt, group in groups]

    def judge(self, items: Sequence[UnlabeledImage], rollout: Rollout, seed: int) -> Judgement:
        """Reward questions (N, G) by how much the Reasoner disagrees with itself and by how common they are."""
        reasoner, questions = self.reasoner, self.ask(rollout)  # (N, G)
        assert reasoner is not None, "configure_model has seen to it"
        with self.clock("votes"):
            votes = reasoner.vote_on(items, questions, seed, voter=self.voter)  # (N, G)
        valid = torch.tensor([[reasoner.is_valid(vote) for vote in group] for group in votes])
        confidences = torch.tensor([[vote.confidence if vote else 0.0 for vote in group] for group in votes])
        tied = torch.tensor([[vote is not None and vote.tied for vote in group] for group in votes])
        texts = [[question.text if question else None for question in group] for group in questions]
        if (judge := self.reward.judge) is None:
            difficulty = self.reward.difficulty(confidences)
        else:
            difficulty = from_first(partial(judge, questions, votes, reasoner.grader))
        redundancy = self.reward.redundancy_weight * self.reward.redundancy(texts)
        remembered = torch.zeros_like(redundancy)
        if self.reward.memory is not None:
            remembered = self.reward.memory(texts, self.remembered)
        rewards = self.reward.combine(valid, difficulty, redundancy + remembered)  # (N, G)
        parsed = [[text for text in group if text is not None] for group in texts]
        asked, n_parsed = [question for group in questions for question in group], sum(map(len, parsed))
        statistics = {
            "valid_fraction": float(valid.float().mean()),
            "tied_fraction": float((tied & valid).float().mean()),
            "difficulty": _mean_where(difficulty, valid),
            "redundancy": _mean_where(redundancy, valid),
            "parsed_fraction": n_parsed / len(asked),
            "repeated_fraction": sum(repeated_fraction(group) * len(group) for group in parsed) / max(n_parsed, 1),
        }
        voted = [vote for group in votes for vote in group]
        statistics |= from_first(lambda: describe_votes(asked, voted, reasoner.grader))
        parts = {"valid": valid, "difficulty": difficulty, "redundancy": redundancy}  # (N, G) each
        if self.reward.memory is not None:
            statistics["memory_redundancy"] = _mean_where(remembered, valid)
            parts["memory_redundancy"] = remembered
        records = tuple(
            Record(
                item.image,
                None if question is None else question.text,
                completion.text,
                reward,
                vote,
                answer=None if question is None else question.answer,
                kind="" if question is None else question.kind,
                image_key=item.key,
                parts=paid,
            )
            for item, *group in zip(
                items, questions, rollout.completions, rewards.tolist(), votes, by_completion(parts), strict=True
            )
            for question, completion, reward, vote, paid in zip(*group, strict=True)
        )
        return Judgement(rewards, statistics, records)


def _mean_where(values: Tensor, where: Tensor) -> float:
    """Mean of the chosen values, 0 if there are none."""
    return float(values[where].mean()) if bool(where.any()) else 0.0
