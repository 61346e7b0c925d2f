"""The data module: what self-play learns from, and benchmarks to validate on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from visplay.data.benchmarks.benchmark import Benchmark, BenchmarkBatches
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.draws import Drawable, MixedDraws
from visplay.data.generated import GeneratedDataset
from visplay.data.images.decoding import ImageLimits
from visplay.data.images.image_folder import ImageFolder
from visplay.data.streams.image_stream import ImageStream, Streaming
from visplay.data.table_collections import Columns, ImageTable, LabelledTable, open_images
from visplay.types import Example, UnlabeledImage

EvaluationStage = Literal["validate", "test"]
UnlabeledImages = ImageFolder | ImageTable | ImageStream | list[UnlabeledImage]


@dataclass(frozen=True)
class ImageSource:
    """Where unlabeled images are.

    Args:
        path: A directory of image files, a parquet or arrow file or a directory of them, or a name on the Hub; a stream
            takes parquet and tar files.
        split: Split of a table.
        revision: Branch, tag or commit on the Hub.
        column: Column of a table that holds the images; null looks for one of the usual names.
        limits: Images that break them are skipped.
        streaming: Whether shards are read part by part, without a copy on this machine's disk, and how.
    """

    path: str
    split: str | None = "train"
    revision: str | None = None
    column: str | None = None
    limits: ImageLimits = ImageLimits()  # noqa: RUF009 (frozen)
    streaming: Streaming | bool = False

    def open(self) -> ImageFolder | ImageTable | ImageStream:
        """The collection."""
        if self.streaming:
            how = self.streaming if isinstance(self.streaming, Streaming) else Streaming()
            return ImageStream(self.path, self.split, self.revision, self.column, self.limits, how)
        return open_images(self.path, self.split, self.revision, self.column, self.limits)


@dataclass(frozen=True)
class NoImages:
    """No images: the Questioner is asked as often as there are items, by one prompt, as in R-Zero.

    Args:
        count: Items; each has samples of its own.

    Raises:
        ValueError: ``count`` is below 1.
    """

    count: int

    def __post_init__(self) -> None:
        """Reject none at all."""
        if self.count < 1:
            raise ValueError(f"count: {self.count} must be at least 1")

    def open(self) -> list[UnlabeledImage]:
        """The items."""
        return [UnlabeledImage(f"{number:06d}", None) for number in range(self.count)]


@dataclass(frozen=True)
class LabelledSource:
    """Where questions with answers are.

    Args:
        path: A parquet or arrow file or a directory of them, or a name on the Hub.
        split: Split of the table.
        revision: Branch, tag or commit on the Hub.
        columns: Names of its columns.
        limits: Rows whose image breaks them are skipped.
    """

    path: str
    split: str | None = "train"
    revision: str | None = None
    columns: Columns = Columns()  # noqa: RUF009 (frozen)
    limits: ImageLimits = ImageLimits()  # noqa: RUF009 (frozen)

    def open(self) -> LabelledTable:
        """The collection."""
        return LabelledTable(self.path, self.split, self.revision, self.columns, self.limits)


class SelfPlayData(LightningDataModule):
    """Unlabeled images to ask about, and labelled questions where there are any.

    What an epoch reads is decided by ``SelfPlay``, which sets ``phase_batches``; what an evaluation leaves out, because
    it was answered before, by ``Evaluation``, which sets ``answered_keys``.

    Args:
        images: Unlabeled images, for self-play and for a Questioner that is fitted alone; a path alone is enough.
            ``NoImages`` has it ask without one.
        labelled: Questions with answers, for the phases of the Reasoner; a path alone is enough.
        silver: A data set that an earlier run generated, for a Reasoner that is fitted alone.
        silver_fraction: Fraction of silver answers in a Reasoner phase that has labelled ones as well.
        validation_batch_size: Questions of a benchmark answered in one batch.
        benchmarks: What to evaluate on; the files must be here, see ``visplay prepare``.

    Attributes:
        summary_scores: Columns of the run's summary, each with its metric; empty takes ``rule_accuracy`` of every
            benchmark.
    """

    summary_scores: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        images: ImageSource | NoImages | str | Path | None = None,
        labelled: LabelledSource | str | Path | None = None,
        silver: str | Path | None = None,
        silver_fraction: float = 0.5,
        validation_batch_size: int = 64,
        benchmarks: BenchmarkSuite = BenchmarkSuite(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        if not 0 <= silver_fraction <= 1:
            raise ValueError(f"silver_fraction: must lie in [0, 1], got {silver_fraction}")
        self.image_source = ImageSource(str(images)) if isinstance(images, str | Path) else images
        self.labelled_source = LabelledSource(str(labelled)) if isinstance(labelled, str | Path) else labelled
        self.silver_path = silver
        self.silver_fraction = silver_fraction
        self.validation_batch_size = validation_batch_size
        self.suite = benchmarks
        self.phase_batches: Callable[[], Iterable] | None = None
        self.labelled: LabelledTable | None = None
        self.silver: GeneratedDataset | None = None
        self.answered_keys: Callable[[Benchmark], Collection[str]] = lambda benchmark: ()
        self._benchmarks: dict[EvaluationStage, Sequence[Benchmark]] = {}
        self._images: UnlabeledImages | None = None

    @property
    def images(self) -> UnlabeledImages:
        """The unlabeled images; a ValueError if there are none."""
        if self._images is None:
            raise ValueError(
                "images: a Questioner asks about unlabeled images; give a directory, a table or a Hub name"
            )
        return self._images

    def prepare_data(self) -> None:
        """Have one process of a machine open the images first: it leaves an index, or a copy, to the others."""
        trainer = self.trainer
        reads = trainer is not None and trainer.state.fn in (TrainerFn.FITTING, TrainerFn.PREDICTING)
        if reads and trainer.world_size > 1:
            for source in (self.image_source, self.labelled_source):
                if source is not None:
                    source.open()

    def setup(self, stage: str) -> None:
        """Open what there is, for a prediction the images alone.

        Without benchmarks nothing is validated in a fit, and else a ValueError raised.
        """
        if stage in ("fit", "predict"):
            self._images = None if self.image_source is None else self.image_source.open()
        if stage == "predict":
            return
        if stage == "fit":
            self.labelled = None if self.labelled_source is None else self.labelled_source.open()
            self.silver = None if self.silver_path is None else GeneratedDataset(self.silver_path)
        if self.trainer is None or self.benchmarks("test" if stage == "test" else "validate"):
            return
        if stage != "fit":
            raise ValueError("benchmarks: none to evaluate on; give data.benchmarks, or --config benchmarks")
        self.trainer.limit_val_batches = 0

    def mix(self, silver: Drawable | None = None, labelled: Drawable | None = None) -> Drawable:
        """What a Reasoner phase draws from; a ValueError if there is neither."""
        if silver is not None and labelled is not None:
            return MixedDraws(silver, labelled, self.silver_fraction)
        draws = silver or labelled
        if draws is None:
            raise ValueError("labelled, silver: a Reasoner that is fitted alone needs one of them, got null for both")
        return draws

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave images on the CPU: the policy moves what it needs."""
        return batch

    def train_dataloader(self) -> Iterable:
        """The batches of the present phase; a RuntimeError if no ``SelfPlay`` callback says what to read."""
        if self.phase_batches is None:
            raise RuntimeError("self_play: a SelfPlay callback is needed to train on this data")
        return self.phase_batches()

    def benchmarks(self, stage: EvaluationStage = "test") -> Sequence[Benchmark]:
        """What to evaluate on, opened once: all for a test, those of ``BenchmarkSuite.validation`` for a validation."""
        if stage not in self._benchmarks:
            chosen = self.suite.validation if stage == "validate" else None
            suite = self.suite if chosen is None else self.suite.choose(chosen)
            self._benchmarks[stage] = suite.open()
        return self._benchmarks[stage]

    def predict_dataloader(self) -> Iterable:
        """The batches of a prediction; a RuntimeError if no callback says what to read."""
        if self.phase_batches is None:
            raise RuntimeError("predict: a callback is needed that sets phase_batches, see `visplay predict`")
        return self.phase_batches()

    def val_dataloader(self) -> list[BenchmarkBatches]:
        """The batches of each benchmark to validate on."""
        return self._batches("validate")

    def test_dataloader(self) -> list[BenchmarkBatches]:
        """The batches of each benchmark."""
        return self._batches("test")

    def _batches(self, stage: EvaluationStage) -> list[BenchmarkBatches]:
        """What is left to answer, this rank's fraction of it."""
        ranks = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return [
            BenchmarkBatches(benchmark, self.validation_batch_size, self.answered_keys(benchmark), *ranks)
            for benchmark in self.benchmarks(stage)
        ]

    def silver_accuracy(self, examples: Iterable[Example]) -> float | None:
        """Fraction of silver answers that are true, for observers alone; None where the truth is not known."""
        return None
