"""The Reasoner: answers questions about an image; votes (Eq. 4) and learns to agree with silver answers (Eq. 10)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from visplay.functional.parsing import has_thought, parse_boxed
from visplay.functional.rewards.negatives import answer_classes
from visplay.functional.rewards.reward_protocols import GroupReward
from visplay.functional.rewards.rewards import agreement, agreement_rewards
from visplay.functional.votes.majority_vote import is_valid_vote, vote
from visplay.functional.votes.settled import is_settled
from visplay.grading.rules import GradingRules
from visplay.grading.worker import Grader
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.policy.vlm import VLM
from visplay.modules.role import Role, by_completion, distinct_keys
from visplay.modules.voting import Voting, VotingRounds
from visplay.prompts import ANSWER, Template
from visplay.ranks import spread
from visplay.types import (
    Completion,
    Example,
    Judgement,
    Prompt,
    Question,
    Record,
    Rollout,
    Sampling,
    UnlabeledImage,
    Vote,
    derive_seed,
)

logger = logging.getLogger(__name__)


class Reasoner(Role):
    """Answers questions; K of its answers are a vote.

    Args:
        grpo: Settings of learning and sampling.
        template: The prompt; ``{question}`` is filled in.
        voting: How it votes while it judges the Questioner.
        reward: Agreement and form of answers, each (N, G), to rewards (N, G): ``agreement_rewards`` (Eq. 10) or
            ``formatted_agreement_rewards`` (released code).
        vlm: The policy of a Reasoner that is fitted alone, or that judges a Questioner that is.
        seed: Root of every draw of a Reasoner that is fitted alone.
        grading_seconds: Time limit of one comparison of answers; undecided, they differ. A vote has three of it in all.
        grading: What counts as the same answer where people differ: units, percent, decimal commas, languages.
        group_reward: Completions and the fraction of the group that agrees with each to rewards (N, G), in place of
            ``reward``: one that needs no label; null takes ``reward``.
        weight: N examples to weights (N,) in [0, 1] of their advantages: ``confidence_weights``, ``margin_weights``,
            ``accuracy_weights`` or ``GaussianWeights`` (RESTRAIN); null weighs all alike.
        negatives: Rewards, agreement, and of the group's own answers their shares and surprisals, each (N, G), to
            rewards (N, G): ``WeakConsensus`` (RESTRAIN) or ``RareAnswers`` (SCRL); null leaves the rewards as they are.
    """

    name = "reasoner"
    learns_from = "examples"

    def __init__(
        self,
        grpo: GRPOConfig = GRPOConfig(),  # noqa: B008 (frozen)
        template: Template = ANSWER,
        voting: Voting = Voting(),  # noqa: B008 (frozen)
        reward: Callable[[Tensor, Tensor], Any] = agreement_rewards,
        vlm: VLM | None = None,
        seed: int = 0,
        grading_seconds: float = 2.0,
        grading: GradingRules = GradingRules(),  # noqa: B008 (frozen)
        group_reward: GroupReward | None = None,
        weight: Callable[[Sequence[Example]], Any] | None = None,
        negatives: Callable[[Tensor, Tensor, Tensor, Tensor], Any] | None = None,
    ) -> None:
        for each in filter(None, (template, voting.template)):
            if "question" not in each.fields():
                raise ValueError(f"template: its user part must have {{question}} in it, got {each.user!r}")
        super().__init__(template, grpo, vlm, seed)
        self.voting = voting
        self.reward = reward
        self.group_reward = group_reward
        self.weight = weight
        self.negatives = negatives
        if negatives is not None:
            negatives(*[torch.zeros(1, grpo.group_size)] * 4)  # what it rejects, it rejects before the first rollout
        self.grader = Grader(grading_seconds, grading)

    @property
    def templates(self) -> tuple[Template | None, ...]:
        """The prompt, and that of its votes."""
        return self.template, self.voting.template

    @property
    def validated(self) -> Reasoner:
        """This Reasoner."""
        return self

    def prompts(self, items: Sequence[Example], template: Template | None = None) -> list[Prompt]:
        """Ask each example's question about all its images."""
        template, keyed = template or self.template, zip(distinct_keys(items), items, strict=True)
        return [self.vlm.encode(key, template, item.images, question=item.problem) for key, item in keyed]

    def parse(self, completion: Completion) -> str | None:
        """The boxed answer, or None if there is none or the completion was truncated."""
        return parse_boxed(completion.text) if completion.finished else None

    def has_form(self, text: str) -> bool:
        """Whether an answer has the form that ``reward`` is told of."""
        return has_thought(text)

    def answers(self, rollout: Rollout) -> list[list[str | None]]:
        """The answers of a rollout, (N, G)."""
        return [[self.parse(completion) for completion in group] for group in rollout.completions]

    def answer_blind(self, questions: Mapping[str, str], seed: int) -> dict[str, str | None]:
        """Answer questions greedily, without an image, by their keys; one too long for the context is not answered."""
        prompts = [self.vlm.encode(key, self.template, None, question=text) for key, text in questions.items()]
        sampled = self.sample_one(prompts, self.sampling(1, seed, temperature=0.0))
        return {key: self.parse(completion) for key, completion in sampled.items()}

    def sample_one(self, prompts: Sequence[Prompt], sampling: Sampling) -> dict[str, Completion]:
        """One completion of each prompt that fits the context, by the prompts' keys."""
        fitting = [prompt for prompt in prompts if self.vlm.fits(prompt, sampling.max_new_tokens)]
        sampled = self.sample(fitting, sampling)
        return {prompt.key: completion for prompt, (completion,) in zip(fitting, sampled, strict=True)}

    def judge(self, items: Sequence[Example], rollout: Rollout, seed: int) -> Judgement:
        """Reward answers (N, G) that agree with the example's answer."""
        answers = self.answers(rollout)  # (N, G)
        agrees = self.agreement(answers, items)  # (N, G)
        groups = zip(rollout.prompts, rollout.completions, strict=True)
        formatted = torch.tensor([[c.finished and self.has_form(p.opened + c.text) for c in g] for p, g in groups])
        if self.group_reward is None and self.negatives is None:
            rewards = self.reward(agrees, formatted)  # (N, G)
        else:
            rewards = self._reward_group(agrees, formatted, answers, rollout)
        parsed = [answer is not None for group in answers for answer in group]
        statistics = {
            "parsed_fraction": sum(parsed) / len(parsed),
            "agreement": float(agrees.mean()),
            "confidence": sum(item.score for item in items) / len(items),
        }
        parts = by_completion({"agreement": agrees, "form": formatted})
        records = tuple(
            Record(
                item.image,
                item.problem,
                completion.text,
                reward,
                _silver_vote(item),
                gold=None if item.votes else item.answer,
                answer=answer,
                kind=item.problem_type,
                image_key=item.image_id,
                parts=paid,
            )
            for item, *group in zip(items, rollout.completions, rewards.tolist(), answers, parts, strict=True)
            for completion, reward, answer, paid in zip(*group, strict=True)
        )
        if self.negatives is not None:
            statistics["penalized_fraction"] = float((rewards < 0).float().mean())
        if self.weight is None:
            return Judgement(rewards, statistics, records)
        weights = self.weight(items)  # (N,)
        return Judgement(rewards, statistics | {"weight": float(weights.mean())}, records, weights)

    def agreement(self, answers: Sequence[Sequence[str | None]], items: Sequence[Example]) -> Tensor:
        """1 where an answer agrees with its example's, (N, G); each rank compares those of its examples."""

        def agree(n: int) -> Tensor:
            with self.grader.bounded():
                return agreement(answers[n], items[n].answer, self.grader)

        return torch.stack(spread([1] * len(items), lambda own: [agree(n) for n in own]))

    def _reward_group(
        self, agrees: Tensor, formatted: Tensor, answers: Sequence[Sequence[str | None]], rollout: Rollout
    ) -> Tensor:
        """Rewards (N, G) that the answers of a group have a say in."""
        shares, surprisals = self._classify(answers, rollout)
        if self.group_reward is None:
            rewards = self.reward(agrees, formatted)
        else:
            rewards = self.group_reward([[c.text for c in group] for group in rollout.completions], shares)
        return rewards if self.negatives is None else self.negatives(rewards, agrees, shares, surprisals)

    def _classify(self, answers: Sequence[Sequence[str | None]], rollout: Rollout) -> tuple[Tensor, ...]:
        """Share of each answer in its group, and how sure the policy was of those that say the same, both (N, G)."""

        def classes_of(n: int) -> Tensor:
            surprisals = [-sum(c.logps) / max(len(c.logps), 1) for c in rollout.completions[n]]
            with self.grader.bounded():
                return torch.stack(answer_classes(answers[n], torch.tensor(surprisals), self.grader))

        found = spread([1] * len(answers), lambda own: [classes_of(n) for n in own])
        return torch.stack(found, 1).unbind()

    def is_valid(self, vote: Vote | None, voting: Voting | None = None) -> bool:
        """Whether there is a vote and enough of its answers parsed."""
        return vote is not None and is_valid_vote(vote, (voting or self.voting).min_parsed_fraction)

    def vote_on(
        self,
        images: Sequence[UnlabeledImage],
        questions: Sequence[Sequence[Question | None]],
        seed: int,
        voting: Voting | None = None,
        voter: VLM | None = None,
        rounds: VotingRounds | None = None,
    ) -> list[list[Vote | None]]:
        """Vote on every question with K sampled answers (Eq. 4).

        Ranks are dealt images, whoever has asked: what the questions about one begin with is read once.

        Args:
            images: N images.
            questions: (N, G); None is not voted on.
            seed: Root of all draws.
            voting: How; None is ``self.voting``.
            voter: The policy that answers; None is the Reasoner's own.
            rounds: How the answers are sampled in rounds, and which question needs no further one; None samples all K.

        Returns:
            (N, G) votes; None where there is no question, or one too long for the context.
        """
        voting, voter = voting or self.voting, voter or self.vlm
        sampling = self.sampling(
            voting.votes, seed, max_new_tokens=voting.max_new_tokens, top_p=voting.top_p, top_k=voting.top_k
        )
        template = voting.template or self.template
        prompts: dict[tuple[int, int], Prompt] = {}
        too_long: list[str] = []
        for n, (key, item, group) in enumerate(zip(distinct_keys(images), images, questions, strict=True)):
            for g, question in enumerate(group):
                if question is not None:
                    prompt = self.vlm.encode(f"{key}#{g}", template, item.image, question=question.text)
                    reason = self.vlm.why_too_long(prompt, sampling.max_new_tokens)
                    if reason is None:
                        prompts[n, g] = prompt
                    else:
                        too_long.append(reason)
        if too_long:
            asked = len(prompts) + len(too_long)
            logger.warning("%d of %d questions are not voted on, for example: %s", len(too_long), asked, too_long[0])

        def votes_of(own: Sequence[int]) -> list[tuple[list[Vote | None], int]]:
            of_own = {*own}
            asked = {index: prompt for index, prompt in prompts.items() if index[0] in of_own}
            answers: dict[tuple[int, int], list[str | None]] = {index: [] for index in asked}
            tokens = Counter[int]()
            open_questions = dict(asked)
            size = voting.votes if rounds is None else rounds.size
            for first in range(0, voting.votes, size):  # on every rank, as an engine may sample only with all of them
                drawn = replace(sampling, first=first, n=min(size, voting.votes - first))
                sampled = self.engine.generate(voter, list(open_questions.values()), drawn)
                for index, completions in zip([*open_questions], sampled, strict=True):
                    tokens[index[0]] += sum(len(each.token_ids) for each in completions)
                    answers[index] += map(self.parse, completions)
                    if rounds is not None and self._is_settled(answers[index], voting, rounds):
                        del open_questions[index]
            votes: dict[tuple[int, int], Vote] = {}
            for index, prompt in asked.items():
                tie_seed = derive_seed(seed, "tie", prompt.key)
                with self.grader.bounded():
                    votes[index] = vote(
                        answers[index], self.grader, count_unparsed=voting.count_unparsed, seed=tie_seed
                    )
            return [([votes.get((n, g)) for g in range(len(questions[n]))], tokens[n]) for n in own]

        costs = [0] * len(images)
        for (n, _), prompt in prompts.items():
            costs[n] += self.most_tokens(prompt, sampling)
        voted = spread(costs, votes_of)
        self.clock.tokens["votes"] += sum(tokens for _, tokens in voted)
        return [votes for votes, _ in voted]

    def _is_settled(self, answers: Sequence[str | None], voting: Voting, rounds: VotingRounds) -> bool:
        with self.grader.bounded():
            return is_settled(
                answers,
                voting.votes,
                rounds.low,
                rounds.high,
                self.grader,
                count_unparsed=voting.count_unparsed,
                min_parsed_fraction=voting.min_parsed_fraction,
            )


def _silver_vote(item: Example) -> Vote | None:
    """The vote that the example's answer came from; None for a gold answer."""
    total = sum(count for _, count in item.votes)
    return Vote(item.answer, item.score, item.votes, total, total) if item.votes else None
