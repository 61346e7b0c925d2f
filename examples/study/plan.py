"""What a study compares: arms, seeds and iterations, read from one YAML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jsonargparse import ArgumentParser


@dataclass(frozen=True)
class Arm:
    """One setting, which is run with every seed.

    Args:
        name: Of the arm and its directory.
        configs: Of the command line, in order; the first one says how roles and data are made.
        arguments: Of the command line, behind the study's own.
        label: What the arm is, in tables; empty is its name.
        table: Which tables it stands in; a study's first is the main effect, with every metric.
        world: Which of the study's worlds its images are of.
        iterations: Of its runs; null is as many as the study's.
    """

    name: str
    configs: Sequence[str]
    arguments: Sequence[str] = ()
    label: str = ""
    table: str = "Main effect"
    world: str = "tiny"
    iterations: int | None = None

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.label or self.name


@dataclass(frozen=True)
class Study:
    """Arms times seeds.

    Args:
        directory: Where the runs are: ``<directory>/<arm>/<seed>``.
        seeds: Each of them is a run of every arm.
        iterations: Of every run whose arm does not say otherwise.
        arms: What is compared.
        worlds: By name, the function that says of a question's text which family it is of.
        comparisons: Pairs of arms; the first one less the second one, seed by seed.
        arguments: Of the command line, for all arms.

    Raises:
        ValueError: Names of arms are not unique, or something is named that is not there.
    """

    directory: str
    seeds: Sequence[int]
    iterations: int
    arms: Sequence[Arm]
    worlds: Mapping[str, Callable[[str], str]]
    comparisons: Sequence[tuple[str, str]] = ()
    arguments: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Reject what cannot be run or compared."""
        counts = Counter(arm.name for arm in self.arms)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise ValueError(f"arms: names must differ, got {twice} more than once")
        if unknown := sorted({name for pair in self.comparisons for name in pair} - counts.keys()):
            raise ValueError(f"comparisons: {unknown} are no arms; there are {sorted(counts)}")
        if unknown := sorted({arm.world for arm in self.arms} - {*self.worlds}):
            raise ValueError(f"worlds: {unknown} are not given; there are {sorted(self.worlds)}")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds or min(map(self.length, self.arms)) < 1:
            raise ValueError(
                f"seeds, iterations: need different seeds and at least one iteration, got {list(self.seeds)} and "
                f"{sorted({*map(self.length, self.arms)})}"
            )

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def length(self, arm: Arm) -> int:
        """Iterations of the runs of an arm."""
        return self.iterations if arm.iterations is None else arm.iterations

    def only(self, names: Sequence[str]) -> Study:
        """The study of some of its arms, and of the comparisons between them; a ValueError if one is unknown."""
        if unknown := sorted({*names} - {arm.name for arm in self.arms}):
            raise ValueError(f"arms: {unknown} are none of {[arm.name for arm in self.arms]}")
        return replace(
            self,
            arms=[arm for arm in self.arms if arm.name in names],
            comparisons=[pair for pair in self.comparisons if {*pair} <= {*names}],
        )

    def root(self, arm: Arm, seed: int) -> Path:
        """The directory of a run's logs, caches and generated data."""
        return Path(self.directory) / arm.name / str(seed)

    def version(self, arm: Arm, seed: int) -> Path:
        """What the run of an arm and a seed writes: below its root, named after its first configuration."""
        return self.root(arm, seed) / Path(arm.configs[0]).stem / "version_0"

    def command(self, arm: Arm, seed: int) -> list[str]:
        """What follows ``visplay`` on the command line."""
        return [
            "fit",
            *(f"--config={config}" for config in arm.configs),
            *self.arguments,
            *arm.arguments,
            f"--model.seed={seed}",
            f"--self_play.iterations={self.length(arm)}",
            f"--trainer.default_root_dir={self.root(arm, seed)}",
            "--auto_resume",
        ]


def read_study(path: str | Path) -> Study:
    """Read a study's file; whatever is wrong with it ends the command with one line."""
    parser = ArgumentParser(prog=str(path))
    parser.add_class_arguments(Study)
    return Study(**vars(parser.instantiate_classes(parser.parse_path(str(path)))))
