"""Asks about every image once, has the questions voted on and judged, and writes them batch by batch."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, Trainer
from torch.utils.data import Subset

from visplay.callbacks.curation.candidates import CandidateFinder
from visplay.callbacks.curation.curation import AskedBatch, Curation, ask_in_batches, describe_asking
from visplay.callbacks.curation.gates import Candidate, ConfidenceBand, admit
from visplay.callbacks.curation.survey import Unread
from visplay.callbacks.curation.view_gates import NeedsTheImage
from visplay.callbacks.export.model_card import public_name
from visplay.data.draws import DrawsOnce, Stream
from visplay.data.files import remove_unfinished, replacing
from visplay.data.fingerprints import fingerprint_images
from visplay.data.generated import write_rows
from visplay.data.images.image_facts import file_facts, pixel_facts
from visplay.data.images.image_folder import ImageFolder
from visplay.data.manifest import Manifest, Shards
from visplay.data.module import NoImages
from visplay.data.table_collections import ImageTable
from visplay.data_engine.card import Tally, data_card
from visplay.data_engine.near_duplicates import first_alike, perceptual_hashes
from visplay.data_engine.rows import FEATURES, FEATURES_WITH_IMAGES, as_rows, describe_run
from visplay.modules.visplay import VisPlay
from visplay.provenance import flatten
from visplay.ranks import from_first
from visplay.types import UnlabeledImage

logger = logging.getLogger(__name__)

LOCK_FILE = "predict.lock"
SETTINGS_FILE = "predict.json"
DUPLICATES_FILE = "duplicates.json"
_ROWS_PER_GROUP = 256


@dataclass(frozen=True)
class Prediction:
    """What is written, and about which images.

    Args:
        max_images: Most images asked about, the first ones; None asks about all.
        duplicates: What becomes of images that look like one before them: "report" lists them, "skip" does not ask
            about them, "off" does not look for them.
        duplicate_distance: Most of the 64 bits of two hashes that differ where images look alike.
        embed_images: Whether the rows have the images' bytes, or their paths and hashes alone.
        ask_blind: Whether the Reasoner answers each question without the image, too.
    """

    max_images: int | None = None
    duplicates: Literal["report", "skip", "off"] = "report"
    duplicate_distance: int = 4
    embed_images: bool = False
    ask_blind: bool = True

    def __post_init__(self) -> None:
        """Reject what cannot be done."""
        if self.max_images is not None and self.max_images < 1:
            raise ValueError(f"max_images: {self.max_images} must be at least 1")
        if not 0 <= self.duplicate_distance <= 16:
            raise ValueError(f"duplicate_distance: {self.duplicate_distance} must be in [0, 16]")


@dataclass
class Written:
    """What was written.

    Args:
        directory: Where.
        tally: What the rows are like.
        duplicates: Keys of images that look like one before them, with its key; None where nobody looked.
    """

    directory: Path
    tally: Tally
    duplicates: dict[str, str] | None


class Predictor(Callback):
    """Writes questions about images with silver answers, and learns nothing; for ``Trainer.predict``.

    What was asked and voted is stored batch by batch as text in ``asked/``, its rows in ``data/part-*.parquet``, so
    that a kill costs a batch, and no more images are in memory than a batch has. Each batch is judged by itself: what a
    gate compares with the other questions of an iteration, it compares with those of the batch. The band is not
    relaxed. All ranks ask, vote and judge; rank 0 reads and writes the disk.

    Args:
        curation: How is asked, voted and judged; ``images``, ``min_kept`` and ``on_too_few`` have no say.
        directory: Where to write. What the same settings have written there is taken up.
        prediction: What is written, and about which images.

    Attributes:
        written: What was written, once the prediction is over.

    Raises:
        ValueError: The directory holds something else, or what other settings have written; they are named.
    """

    written: Written

    def __init__(self, curation: Curation, directory: Path, prediction: Prediction) -> None:
        self.gates = (ConfidenceBand(curation.low, curation.high), *curation.gates)
        self.directory = directory
        self.prediction = prediction
        blind = [NeedsTheImage(name="asked_blind")] if prediction.ask_blind else []  # it only has the question asked
        self.curation = replace(curation, gates=[*curation.gates, *blind], on_too_few="continue")
        self.manifest = Manifest(directory / "manifest.json")

    def setup(self, trainer: Trainer, pl_module: VisPlay, stage: str) -> None:
        """Give the trainer, which wants a loader, one batch without images: they are drawn here."""
        trainer.datamodule.phase_batches = Unread

    def on_predict_start(self, trainer: Trainer, pl_module: VisPlay) -> None:
        """Find duplicates, ask, vote, judge, write."""
        data, module = trainer.datamodule, pl_module
        if isinstance(data.image_source, NoImages):
            raise ValueError("images: predict asks about images, got a count of prompts without any")
        images = data.images
        source = {"data": from_first(lambda: fingerprint_images(data)), "found": len(images)}
        run = describe_run(self.curation, module)
        made_by = describe_asking(self.curation, module) | {
            "images": source,
            "seed": module.seed,
            "prediction": asdict(self.prediction),
            "visplay_version": run["visplay_version"],
        }
        from_first(lambda: self._take_up(made_by))
        limit = min(len(images), self.prediction.max_images or len(images))
        duplicates, chosen = from_first(lambda: self._choose(images, limit))
        collection = images if chosen is None else Subset(images, chosen)
        count = min(len(collection), limit)
        curation = replace(self.curation, images=count)

        def why_not(image: UnlabeledImage) -> str | None:
            return module.questioner.why_not_asked(image, curation.template)

        draws = DrawsOnce(collection, module.seed, why_not=why_not)
        written = Written(self.directory, Tally(), duplicates)
        find = CandidateFinder(curation, module.reasoner)
        shards = Shards(self.directory / "asked", made_by)
        for batch in ask_in_batches(curation, module, draws, shards):
            found = from_first(partial(find, batch.questions))
            reasons = self._judge(found)
            again = DrawsOnce(collection, module.seed, batch.position, why_not)
            from_first(partial(self._write, images, run, batch, found, reasons, again, written))
            tally = written.tally
            logger.info("%d of %d images: %d questions, %d kept", draws.position, count, tally.asked, tally.kept)
        broken = len(images.skipped) if isinstance(images, ImageFolder) else 0  # a table's are met when they are drawn
        written.tally.unusable = broken + count - written.tally.images
        card = data_card(
            written.tally,
            run,
            source=public_name(getattr(data.image_source, "path", "")),
            gates=[gate.name for gate in self.gates],
            band=(curation.low, curation.high),
            votes=(curation.voting or module.reasoner.voting).votes,
            duplicates=None if duplicates is None else len(duplicates),
            skipped=self.prediction.duplicates == "skip",
            embedded=self.prediction.embed_images,
        )
        from_first(lambda: self._write_card(card))
        self.written = written

    def _take_up(self, made_by: dict[str, Any]) -> None:
        """See that what is in the directory was made by the same settings; write them where there is nothing.

        Raises:
            ValueError: It was made by others, or by something else.
        """
        path = self.directory / SETTINGS_FILE
        if path.is_file():
            was, now = (
                {name: json.dumps(value, sort_keys=True) for name, value in flatten(each).items()}
                for each in (json.loads(path.read_bytes()), made_by)
            )
            if differing := sorted(was.items() ^ now.items()):
                names = dict.fromkeys(name for name, _ in differing)
                told = "; ".join(f"{n}: {was.get(n, 'nothing')} then, {now.get(n, 'nothing')} now" for n in names)
                raise ValueError(
                    f"output: {str(self.directory)!r} was begun with other settings ({told}); give these again, or "
                    "another directory"
                )
            remove_unfinished(self.directory)
            return
        if others := sorted(each.name for each in self.directory.glob("*") if each.name != LOCK_FILE):
            raise ValueError(f"output: {str(self.directory)!r} holds {others[0]!r}, which is of no prediction")
        with replacing(path) as file:
            file.write(json.dumps(made_by, indent=2, sort_keys=True).encode() + b"\n")

    def _choose(self, images: Any, limit: int) -> tuple[dict[str, str] | None, list[int] | None]:
        """Which of the first images look like one before them; the indices of all others where those are skipped."""
        p, path = self.prediction, self.directory / DUPLICATES_FILE
        if p.duplicates == "off" or isinstance(images, Stream):
            if p.duplicates == "skip":
                raise ValueError("duplicates: a stream is read once, so that none can be skipped; give report or off")
            return None, None
        if path.is_file():
            record = json.loads(path.read_bytes())
            return record["duplicates"], record["chosen"]
        keys, indices, codes = perceptual_hashes(Subset(images, range(limit)))
        first = first_alike(codes, p.duplicate_distance).tolist()
        duplicates = {keys[n]: keys[one] for n, one in enumerate(first) if one != n}
        chosen = None
        if p.duplicates == "skip":
            chosen = [int(index) for index, n, one in zip(indices, range(len(first)), first, strict=True) if one == n]
        logger.info("%d of %d images look like one before them", len(duplicates), len(keys))
        with replacing(path) as file:
            record = {"distance": p.duplicate_distance, "duplicates": duplicates, "chosen": chosen}
            file.write(json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n")
        return duplicates, chosen

    def _judge(self, found: Sequence[Candidate | str]) -> list[str | None]:
        """Why each question of a batch is not kept; None where it is."""
        judged = iter(admit(self.gates, [each for each in found if isinstance(each, Candidate)]))
        return [next(judged) if isinstance(each, Candidate) else each for each in found]

    def _write(
        self,
        images: Any,
        run: dict[str, Any],
        batch: AskedBatch,
        found: Sequence[Candidate | str],
        reasons: Sequence[str | None],
        again: DrawsOnce,
        written: Written,
    ) -> None:
        """Write the rows of a batch, unless they are on record, and count them."""
        first = written.tally.asked
        path = self.directory / "data" / f"part-{batch.number:05d}.parquet"
        written.tally.add(batch.questions, found, reasons)
        if self.manifest.get(path.stem) is not None:
            return
        if isinstance(images, ImageFolder | ImageTable):
            facts = {key: file_facts(images, key) for key in {asked.image for asked in batch.questions}}
        else:
            drawn = again.draw(batch.facts["position"] - batch.position)
            facts = {item.key: pixel_facts(item) for item in drawn}
        embed = self.prediction.embed_images
        rows = list(as_rows(batch.questions, found, reasons, facts, run, first, embed=embed))
        chunks = (rows[start : start + _ROWS_PER_GROUP] for start in range(0, len(rows), _ROWS_PER_GROUP))
        features = FEATURES_WITH_IMAGES if embed else FEATURES
        write_rows(path, features.arrow_schema, chunks, dictionary_pagesize_limit=2**28)
        self.manifest.record(path.stem, path, rows=len(rows), kept=sum(reason is None for reason in reasons))

    def _write_card(self, card: str) -> None:
        with replacing(self.directory / "README.md") as file:
            file.write(card.encode())
