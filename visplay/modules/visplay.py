"""VisPlay: one base VLM plays both roles, and the active role learns."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from lightning.pytorch.trainer.states import TrainerFn

from visplay.modules.policy.vlm import VLM
from visplay.modules.questioner import Questioner
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import Role
from visplay.modules.training import GRPOModule
from visplay.modules.voting import Voting
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
    """

    def __init__(
        self, vlm: VLM, questioner: Questioner, reasoner: Reasoner, seed: int = 0, shared_policy: bool = False
    ) -> None:
        super().__init__(seed)
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

    def propose(
        self,
        images: Sequence[UnlabeledImage],
        questions_per_image: int,
        seed: int,
        template: Template | None = None,
        voting: Voting | None = None,
        **settings: float | None,
    ) -> list[Proposal]:
        """Ask about images and vote on the questions, without learning.

        Args:
            images: Images.
            questions_per_image: Questions asked about each.
            seed: Root of all draws.
            template: The Questioner's prompt; None is its own.
            voting: How the Reasoner votes; None is as while it judges.
            settings: How questions are sampled, by the names of ``Sampling``; None is as in training.

        Returns:
            ``questions_per_image`` proposals for each image, image by image.
        """
        with self.clock("questions"):
            rollout = self.questioner.rollout(images, questions_per_image, seed, template, **settings)
            questions = self.questioner.ask(rollout)
        with self.clock("votes"):
            votes = self.reasoner.vote_on(images, questions, seed, voting)
        return [
            Proposal(image, question, vote)
            for image, asked, voted in zip(images, questions, votes, strict=True)
            for question, vote in zip(asked, voted, strict=True)
        ]
