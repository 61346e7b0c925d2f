"""VisPlay: one base VLM plays both roles, and the active role learns."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial

from lightning.pytorch.trainer.states import TrainerFn

from visplay.grading.equivalence import canonical_form
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.placement import CPU, move
from visplay.modules.questioner import Questioner
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import Role, distinct_keys
from visplay.modules.second_view import Questions, SecondView, VoteOn, own_votes
from visplay.modules.training import GRPOModule
from visplay.modules.voting import Voting, VotingRounds
from visplay.prompts import Template
from visplay.types import Engine, Proposal, UnlabeledImage


class VisPlay(GRPOModule):
    """Both roles, each with a policy of its own that starts from one base.

    The policies are two copies of the base; with ``vlm.tuning.lora`` two adapters on one copy, which is frozen; with
    ``shared_policy`` there is one for both roles, a copy or an adapter.

    A subclass with a further role gives it a policy by ``adopt`` and adds it to ``roles``.

    Args:
        vlm: The base both policies start from.
        questioner: Asks.
        reasoner: Answers and votes.
        seed: Root of every draw of the run.
        shared_policy: Whether both roles learn into one policy; the Reasoner that votes moves with it then.

    Attributes:
        teacher: A policy that may vote in place of the Reasoner's own; None without one.
        labeller: Who votes on the questions of a data set; None is the Reasoner's own policy.
    """

    teacher: VLM | None = None
    labeller: VLM | None = None

    def __init__(
        self, vlm: VLM, questioner: Questioner, reasoner: Reasoner, seed: int = 0, shared_policy: bool = False
    ) -> None:
        super().__init__(seed)
        if shared_policy and "base" in (questioner.config.start_from, reasoner.config.start_from):
            raise ValueError(
                "start_from: with shared_policy a phase that starts from 'base' would undo what the other role has "
                "learned; give 'last_phase', or shared_policy: false"
            )
        self.questioner = questioner
        self.reasoner = reasoner
        other = copy.deepcopy(vlm) if vlm.tuning.lora is None else vlm.unloaded()
        questioner.adopt(vlm if shared_policy else other, self.clock)
        reasoner.adopt(vlm, self.clock)
        questioner.judge_by(reasoner)

    @property
    def roles(self) -> Mapping[str, Role]:
        """The Questioner, then the Reasoner; a module with further roles adds them."""
        return {role.name: role for role in (self.questioner, self.reasoner)}

    @property
    def validated(self) -> Reasoner:
        """The Reasoner."""
        return self.reasoner

    @property
    def idle(self) -> tuple[VLM, ...]:
        """Policies that are sampled from in this phase but do not learn, the teacher among them."""
        return (*super().idle, *(() if self.teacher is None else (self.teacher,)))

    def consult(self, teacher: VLM, *, rewards: bool, labels: bool) -> None:
        """Have another policy vote in place of the Reasoner's own: it is no submodule, nor in the state.

        Args:
            teacher: The policy.
            rewards: Whether it votes on questions while the Questioner learns.
            labels: Whether it votes on the questions of a data set.
        """
        object.__setattr__(self, "teacher", teacher)
        object.__setattr__(self, "labeller", teacher if labels else None)
        self.questioner.judge_by(self.reasoner, teacher if rewards else None)

    def attach_engine(self, engine: Engine) -> None:
        """Hand the rollout engine to all roles."""
        for role in self.roles.values():
            role.attach_engine(engine)

    def configure_model(self) -> None:
        """Load all policies from the base; in a test, where nobody asks, the Reasoner's alone."""
        self.load_policy(self.reasoner.vlm)
        if self.trainer.state.fn != TrainerFn.TESTING:
            for role in self.roles.values():
                self.load_policy(role.vlm, shares_with=self.reasoner.vlm)

    def predict_step(self, batch: Sequence[UnlabeledImage], batch_idx: int) -> list[Proposal]:
        """Ask about N images as often as in training and have the questions voted on; see ``propose``."""
        seed = self.stage_seed("prediction", batch_idx)
        return self.propose(batch, self.questioner.config.group_size, seed) if batch else []

    def propose(
        self,
        images: Sequence[UnlabeledImage],
        questions_per_image: int,
        seed: int,
        template: Template | None = None,
        voting: Voting | None = None,
        vote_again: VoteOn | None = None,
        blind: bool = False,
        rounds: VotingRounds | None = None,
        **settings: float | None,
    ) -> list[Proposal]:
        """Ask about images and have the questions voted on, by the teacher if it labels, without learning.

        Args:
            images: Images.
            questions_per_image: Questions asked about each.
            seed: Root of all draws.
            template: The Questioner's prompt; None is its own.
            voting: How the Reasoner votes; None is as while it judges.
            vote_again: Votes on another view of the questions, see ``second_voter``; None does not.
            blind: Whether the Reasoner answers without the image, too.
            rounds: Of the first vote; None samples all answers at once.
            settings: How questions are sampled, by the names of ``Sampling``; None is as in training.

        Returns:
            ``questions_per_image`` proposals for each image, image by image.
        """
        with self.clock("questions"):
            rollout = self.questioner.rollout(images, questions_per_image, seed, template, **settings)
            questions = self.questioner.ask(rollout)
        self.clock.tokens["questions"] += rollout.completion_tokens
        with self.clock("votes"):
            votes = self.reasoner.vote_on(images, questions, seed, voting, self.labeller, rounds)
            nothing: list[list] = [[None] * len(group) for group in questions]
            views = vote_again(images, questions, seed) if vote_again else nothing
            blind_answers = self._answer_blind(images, questions, seed) if blind else nothing
        return [
            Proposal(image, *proposed)
            for image, *group in zip(images, questions, votes, views, blind_answers, strict=True)
            for proposed in zip(*group, strict=True)
        ]

    def second_voter(self, view: SecondView) -> VoteOn:
        """Who votes on questions a second time: a function of N images, questions (N, G) and a seed to votes (N, G).

        It holds the base where that votes.

        Raises:
            ValueError: The teacher would vote, and there is none.
        """
        reasoner, voter = self.reasoner, None
        if view.voter == "questioner":
            normalise = canonical_form(reasoner.grader)
            return lambda images, questions, seed: own_votes(questions, normalise)
        if view.voter == "base":
            voter = reasoner.vlm.base()
            voter.name, voter.version = "base", 0
            move(voter, CPU)
        elif view.voter == "teacher":
            voter = self.teacher
            if voter is None:
                raise ValueError("second_view.voter: the teacher is to vote, and there is none; give `teacher`")
        return partial(view.vote, vote_on=partial(reasoner.vote_on, voting=view.voting, voter=voter))

    def _answer_blind(
        self, images: Sequence[UnlabeledImage], questions: Questions, seed: int
    ) -> list[list[str | None]]:
        """What the Reasoner answers without the images, (N, G)."""
        keyed = zip(distinct_keys(images), questions, strict=True)
        keys = [[f"{key}#{g}" for g in range(len(group))] for key, group in keyed]
        asked = {
            key: each.text
            for own, group in zip(keys, questions, strict=True)
            for key, each in zip(own, group, strict=True)
            if each is not None
        }
        answers = self.reasoner.answer_blind(asked, seed)
        return [[answers.get(key) for key in own] for own in keys]
