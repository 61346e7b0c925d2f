"""The data module: a folder of unlabeled images to learn from, and benchmarks to validate on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from visplay.data.benchmark import Benchmark
from visplay.data.images import ImageFolder
from visplay.types import Example


class SelfPlayData(LightningDataModule):
    """Unlabeled images from a folder.

    What an epoch reads is decided by ``SelfPlay``, which sets ``phase_batches``.

    Args:
        images: Folder of pictures, searched recursively.
        validation_batch_size: Questions answered side by side in validation.
    """

    def __init__(self, images: str | Path, validation_batch_size: int = 64) -> None:
        super().__init__()
        self.images_path = Path(images)
        self.validation_batch_size = validation_batch_size
        self.phase_batches: Callable[[], Iterable] | None = None
        self.images: ImageFolder

    def setup(self, stage: str) -> None:
        """Find the pictures; broken ones are skipped and counted. Without benchmarks nothing is validated."""
        if stage == "fit":
            self.images = ImageFolder(self.images_path)
        if self.trainer is not None and not self.benchmarks():
            self.trainer.limit_val_batches = 0

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave pictures on the host: the policy moves what it needs."""
        return batch

    def train_dataloader(self) -> Iterable:
        """The batches of the present phase.

        Raises:
            RuntimeError: No ``SelfPlay`` callback says what to read.
        """
        if self.phase_batches is None:
            raise RuntimeError("self_play: a SelfPlay callback is needed to train on this data")
        return self.phase_batches()

    def benchmarks(self) -> Sequence[Benchmark]:
        """What to validate on; none by default."""
        return ()

    def val_dataloader(self) -> list[DataLoader]:
        """One loader per benchmark."""
        size = self.validation_batch_size
        return [DataLoader(b, batch_size=size, collate_fn=list, num_workers=0) for b in self.benchmarks()]

    def silver_accuracy(self, examples: Sequence[Example]) -> float | None:
        """Share of silver answers that are true, for observers alone; None where the truth is not known."""
        return None
