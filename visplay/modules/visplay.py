"""VisPlay: one base VLM plays both roles, and the active role learns."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer

from visplay.modules.policy.vlm import VLM
from visplay.modules.questioner import Questioner
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import Role
from visplay.modules.training import GRPOModule
from visplay.modules.voting import Voting
from visplay.prompts import Template
from visplay.types import Engine, Proposal, UnlabeledImage

if TYPE_CHECKING:
    from visplay.functional.phases import RoleName


class VisPlay(GRPOModule):
    """Both roles, each with a policy of its own that starts from one base.

    The policies are two copies of the base; with ``vlm.tuning.lora`` two adapters on one copy, which is frozen; with
    ``shared_policy`` there is one for both roles, a copy or an adapter.

    Args:
        vlm: The base both policies start from.
        questioner: Asks.
        reasoner: Answers and votes.
        seed: Root of every draw of the run.
        shared_policy: Whether both roles learn into one policy; the jury of a Questioner phase moves with it then.
    """

    def __init__(
        self, vlm: VLM, questioner: Questioner, reasoner: Reasoner, seed: int = 0, shared_policy: bool = False
    ) -> None:
        super().__init__(seed)
        self.questioner = questioner
        self.reasoner = reasoner
        questioner.adopt(vlm if shared_policy else _another(vlm), self.clock)
        reasoner.adopt(vlm, self.clock)
        questioner.judged_by(reasoner)

    @property
    def turns(self) -> tuple[RoleName, ...]:
        """The Questioner, then the Reasoner."""
        return ("questioner", "reasoner")

    @property
    def role(self) -> Role:
        """The role that learns now."""
        return self.questioner if self.phase.role == "questioner" else self.reasoner

    @property
    def idle(self) -> tuple[VLM, ...]:
        """The other role's policy, unless it is this one's."""
        return tuple(role.vlm for role in (self.questioner, self.reasoner) if role.vlm is not self.role.vlm)

    @property
    def validated(self) -> Reasoner:
        """The Reasoner."""
        return self.reasoner

    def attach_engine(self, engine: Engine) -> None:
        """Hand the rollout engine to both roles."""
        self.questioner.attach_engine(engine)
        self.reasoner.attach_engine(engine)

    def configure_model(self) -> None:
        """Load both policies from the base; in a test, where nobody asks, the Reasoner's alone."""
        self.reasoner.vlm.load()
        if self.trainer.state.fn != TrainerFn.TESTING:
            self.questioner.vlm.load(beside=self.reasoner.vlm)

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimizer per role."""
        return [self.questioner.make_optimizer(), self.reasoner.make_optimizer()]

    def active_optimizer(self) -> Optimizer:
        """The active role's optimizer."""
        optimizers = self.optimizers()
        return optimizers[0] if self.role is self.questioner else optimizers[1]

    def propose(
        self,
        images: Sequence[UnlabeledImage],
        questions_per_image: int,
        seed: int,
        template: Template | None = None,
        voting: Voting | None = None,
    ) -> list[Proposal]:
        """Ask about images and vote on the questions, without learning.

        Args:
            images: Images.
            questions_per_image: Questions asked about each.
            seed: Root of all draws.
            template: The Questioner's prompt; None is its own.
            voting: How the Reasoner votes; None is as while it judges.

        Returns:
            ``questions_per_image`` proposals for each image, image by image.
        """
        with self.clock("questions"):
            rollout = self.questioner.rollout(images, questions_per_image, seed, template=template)
            questions = self.questioner.ask(rollout)
        with self.clock("votes"):
            votes = self.reasoner.vote_on(images, questions, seed, voting)
        return [
            Proposal(image, question, vote)
            for image, asked, held in zip(images, questions, votes, strict=True)
            for question, vote in zip(asked, held, strict=True)
        ]


def _another(vlm: VLM) -> VLM:
    """Another policy that starts from the same base."""
    return copy.deepcopy(vlm) if vlm.tuning.lora is None else vlm.unloaded()
