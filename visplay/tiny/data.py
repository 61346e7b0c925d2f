"""A small world as a data module: its images to learn from, its evaluation splits as a benchmark file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.benchmarks.benchmark_sources import BenchmarkSource
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.generated import write_examples
from visplay.data.module import EvaluationStage, LabelledSource, SelfPlayData
from visplay.data.table_collections import Columns
from visplay.tiny.self_play_images import labelled_examples, silver_accuracy, write_images
from visplay.tiny.shapes import SHAPES
from visplay.tiny.splits import write_splits
from visplay.tiny.world import World
from visplay.types import Example


class TinyWorld(SelfPlayData):
    """Images of a small world, or any directory of images, validated on the world's held-out questions.

    Args:
        images: Directory of images to learn from; null renders the world's own into ``cache``.
        cache: Where the rendered images are kept, and beside it the evaluation splits.
        n_images: Number of images rendered.
        image_seed: Seed of the rendered scenes.
        heldout_votes: Answers sampled per held-out question.
        heldout_questions: Number of held-out questions; each of the other splits has half of it.
        world: The world; null is the shapes world.
        **data: Arguments of ``SelfPlayData``; its benchmarks come after the world's own.

    Raises:
        ValueError: Too few images or questions.
    """

    summary_scores: ClassVar[dict[str, str]] = {
        "heldout_greedy": "val/heldout/rule_accuracy",
        "heldout_sampled": "val/heldout/pass@1",
        "heldout_majority": "val/heldout/majority",
        "compositional_greedy": "val/compositional/rule_accuracy",
        "hallucination_rate": "val/hallucination/wrong_claims",
    }

    def __init__(
        self,
        images: str | Path | None = None,
        cache: str | Path = "runs/tiny-images",
        n_images: int = 1500,
        image_seed: int = 0,
        heldout_votes: int = 10,
        heldout_questions: int = 640,
        world: World | None = None,
        **data: Any,
    ) -> None:
        for name, value, least in (("n_images", n_images, 1), ("heldout_questions", heldout_questions, 2)):
            if value < least:
                raise ValueError(f"{name}: {value} must be at least {least}")
        super().__init__(images=cache if images is None else images, **data)
        self.cache = Path(cache)
        self.renders = images is None
        self.n_images = n_images
        self.image_seed = image_seed
        self.heldout_votes = heldout_votes
        self.heldout_questions = heldout_questions
        self.world = world or SHAPES
        name = f"{self.cache.name}-{self.world.name}-splits-{heldout_questions}.parquet"
        self.splits_path = self.cache.with_name(name)

    def prepare_data(self) -> None:
        """Write the evaluation splits, and render the images unless a directory of images was given; each once."""
        if not self.splits_path.is_file():
            write_splits(self.splits_path, self.heldout_questions, self.world)
        if self.renders:
            write_images(self.cache, self.n_images, self.image_seed, self.world)
        super().prepare_data()

    def benchmarks(self, stage: EvaluationStage = "test") -> Sequence[Benchmark]:
        """Held-out questions, unseen combinations, and questions about what is not there."""
        return (*self._splits, *super().benchmarks(stage))

    @cached_property
    def _splits(self) -> tuple[Benchmark, ...]:
        path, votes = str(self.splits_path), {"heldout": self.heldout_votes}
        names = ("heldout", "compositional", "hallucination")
        sources = [BenchmarkSource(name, path=path, part=name, votes=votes.get(name, 0)) for name in names]
        return BenchmarkSuite(tuple(sources)).open()

    def silver_accuracy(self, examples: Iterable[Example]) -> float | None:
        """Fraction of silver answers that are true; None if no image is of the world."""
        rows = [(example.image_id, example.problem, example.answer) for example in examples]
        return silver_accuracy(rows, self.n_images, self.image_seed, self.world).accuracy


class LabelledTinyWorld(TinyWorld):
    """The same images with questions and true answers, to train a Reasoner with labels: the upper bound of self-play.

    Args:
        questions_per_image: Labelled questions about each image.
        silver: A data set that an earlier run generated, to mix in.
        silver_fraction: Its fraction of what is drawn.
        **tiny_world: Arguments of ``TinyWorld``.
    """

    def __init__(
        self,
        questions_per_image: int = 2,
        silver: str | Path | None = None,
        silver_fraction: float = 0.5,
        **tiny_world: Any,
    ) -> None:
        super().__init__(**tiny_world)
        self.questions_per_image = questions_per_image
        self.silver_path = silver
        self.silver_fraction = silver_fraction
        numbers = f"{self.n_images}-{self.image_seed}-{questions_per_image}"
        name = f"{self.cache.name}-{self.world.name}-labelled-{numbers}.parquet"
        self.labelled_path = self.cache.with_name(name)
        self.labelled_source = LabelledSource(str(self.labelled_path), columns=Columns(key="key"))

    def prepare_data(self) -> None:
        """Render the images, and write the labelled questions once."""
        path = self.labelled_path
        if not path.is_file():
            arguments = (self.n_images, self.image_seed, self.questions_per_image, self.world)
            write_examples(path, labelled_examples(*arguments))
        super().prepare_data()
