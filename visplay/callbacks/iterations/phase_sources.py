"""What a phase draws its items from: images, labelled questions, generated ones, replayed ones, or a mixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from visplay.data.draws import Collection, Drawable, Draws, MixedDraws
from visplay.data.earlier_datasets import DatasetFile
from visplay.data.generated import GeneratedDataset
from visplay.data.module import SelfPlayData
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.training import GRPOModule
from visplay.types import derive_seed


class PhaseSources:
    """The sources of one phase, each in a seeded order that goes on where ``PhaseState`` says.

    Args:
        module: Whose phase it is; what the role that learns has no room for in its context is left out.

    Attributes:
        source: What the phase's items are drawn from.
    """

    source: Drawable

    def __init__(self, module: GRPOModule) -> None:
        self.module = module
        self._of_run: dict[str, Draws] = {}
        self._of_phase: dict[str, Draws | MixedDraws] = {}
        self._upcoming: list = []

    def draw(self, count: int) -> list:
        """The next items; ``PhaseState.positions`` and ``drawn`` move on."""
        items, self._upcoming = self._upcoming or self.source.draw(count), []
        self.module.phase.positions |= {name: draws.position for name, draws in self._of_run.items()}
        self.module.phase.drawn |= {name: draws.position for name, draws in self._of_phase.items()}
        return items

    def draw_ahead(self, config: GRPOConfig) -> list:
        """The items of the step after the one under way, none after the last; that step draws them once more.

        ``PhaseState.positions`` moves on only then, so that a checkpoint in between draws them too.
        """
        if self.module.phase.step + 1 < config.steps:
            self._upcoming = self.source.draw(config.prompts_per_step)
        return self._upcoming

    def over_run(self, name: str, items: Collection, why_not: Callable[[Any], str | None] | None = None) -> Draws:
        """Draw from a collection of the data module, from where the last phase that did so left off.

        Args:
            name: Of the collection.
            items: The collection.
            why_not: Gives the reason why an item is left out, or None; None asks the role that learns.
        """
        seed, position = derive_seed(self.module.seed, name), self.module.phase.positions.get(name, 0)
        self._of_run[name] = Draws(items, seed, position, why_not or self.module.role.why_not_asked)
        return self._of_run[name]

    def within_phase(self, name: str, items: Collection, stage: str) -> Draws:
        """Draw from what begins anew with each phase.

        Args:
            name: Of the collection.
            items: The collection.
            stage: Gives the seed of the order.
        """
        seed, position = self.module.stage_seed(stage), self.module.phase.drawn.get(name, 0)
        draws = self._of_phase[name] = Draws(items, seed, position, self.module.role.why_not_asked)
        return draws

    def with_replayed(self, generated: Drawable, replayed: Collection, share: float) -> Drawable:
        """Draw generated examples, a share of which earlier iterations generated, if there are any."""
        if not len(replayed):
            return generated
        return self._mixed("replay", MixedDraws(self.within_phase("replayed", replayed, "replay"), generated, share))

    def mix(self, data: SelfPlayData, silver: Drawable | None = None) -> None:
        """Have the phase draw labelled examples, silver ones, or both.

        Args:
            data: Has the labelled ones, the fraction of silver ones, and those that an earlier run generated.
            silver: What this run has generated; None takes those.
        """
        draws = {} if silver is None else {"silver": silver}
        given = {"labelled": data.labelled, "silver": data.silver}
        draws |= {name: self.over_run(name, items) for name, items in given.items() if items is not None}
        source = data.mix(**draws)
        self.source = self._mixed("mixture", source) if len(draws) > 1 and isinstance(source, MixedDraws) else source

    def _mixed(self, name: str, mixture: MixedDraws) -> MixedDraws:
        """Have a mixture go on where the phase left it."""
        mixture.position = self.module.phase.drawn.get(name, 0)
        self._of_phase[name] = mixture
        return mixture


def check_dataset(path: str | None, expected_sha256: str | None) -> GeneratedDataset:
    """The data set that a phase has learned from so far.

    Raises:
        ValueError: It is gone, or another one.
    """
    file = DatasetFile(path or "", expected_sha256 or "")
    if fault := file.find_fault():
        raise ValueError(
            f"ckpt_path: the data set that the phase was learning from {fault}: {file.path!r}; continue from the "
            "checkpoint at the end of the phase before, which makes it again"
        )
    return GeneratedDataset(file.path)
