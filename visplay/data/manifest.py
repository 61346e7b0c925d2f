"""The finished stages of a run, and the finished shards of a stage that is under way, on record with their files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from visplay.data.files import json_line, replacing, sha256

logger = logging.getLogger(__name__)


class Manifest:
    """The finished stages of a run, each with the file it made, in one JSON file.

    A stage whose file is on record and unchanged need not run again. The manifest is read anew at every call; one
    process of a run may record, all may read.

    Args:
        path: The JSON file. Files in its directory are recorded relative to it, so a run directory can be moved.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def get(self, stage: str) -> dict[str, Any] | None:
        """Return what is on record, with the path made usable, or None if the stage must run (again).

        A file that is gone or has another hash than the one on record is logged as a warning.

        Raises:
            ValueError: If the manifest itself cannot be read.
        """
        record = self._read().get(stage)
        if record is None:
            return None
        file = self.path.parent / record["path"]
        if not file.is_file():
            logger.warning("%s: the file of stage %r is gone: %s", self.path, stage, file)
            return None
        if sha256(file) != record["sha256"]:
            logger.warning("%s: the file of stage %r has changed since it was recorded: %s", self.path, stage, file)
            return None
        return {**record, "path": str(file)}

    def files(self) -> dict[str, Path]:
        """The files on record that are there, by stage."""
        found = {stage: self.path.parent / record["path"] for stage, record in self._read().items()}
        return {stage: file for stage, file in found.items() if file.is_file()}

    def record(self, stage: str, file: str | Path, **facts: Any) -> dict[str, Any]:
        """Record a finished stage in place of an earlier record of it.

        Args:
            stage: Its name.
            file: The file it made.
            facts: JSON values to keep with it, for example ``rows=118``; not ``path`` or ``sha256``.

        Returns:
            The record, as ``get`` returns it.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a fact is called ``path`` or ``sha256``, or the manifest cannot be read.
        """
        if taken := sorted({"path", "sha256"} & facts.keys()):
            raise ValueError(f"facts: {taken} are the manifest's own; give them other names")
        made, directory = Path(file).resolve(), self.path.parent.resolve()
        portable = made.relative_to(directory) if made.is_relative_to(directory) else made
        record = {"path": portable.as_posix(), "sha256": sha256(made), **facts}
        text = json.dumps({**self._read(), stage: record}, indent=2, sort_keys=True)
        with replacing(self.path) as manifest:
            manifest.write(f"{text}\n".encode())
        return {**record, "path": str(self.path.parent / record["path"])}

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            stages = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(f"path: {self.path} is not JSON ({error}); delete it to run every stage again") from error
        if not isinstance(stages, dict) or not all(
            isinstance(record, dict) and {"path", "sha256"} <= record.keys() for record in stages.values()
        ):
            raise ValueError(f"path: {self.path} is not a manifest of stages; delete it to run every stage again")
        return stages


class Shards:
    """What is done of a stage: files of JSON lines in a directory, each on record in a manifest once it is whole.

    A process that is killed loses the shard under way and nothing else. A shard that was made by anything else than
    what is named now is not there, and written over.

    Args:
        directory: Made with the first shard.
        made_by: All that the shards follow from, as JSON values.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as directory:
        ...     Shards(Path(directory, "asked"), {"seed": 0}).write(0, [{"question": "How many?"}], position=64)
        ...     again = Shards(Path(directory, "asked"), {"seed": 0})
        ...     again.get(0), again.get(1), list(again.read(0))
        ({'position': 64}, None, [{'question': 'How many?'}])
    """

    def __init__(self, directory: Path, made_by: dict[str, Any]) -> None:
        self.directory = directory
        self.made_by = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
        self._manifest = Manifest(directory / "manifest.json")

    def get(self, number: int) -> dict[str, Any] | None:
        """The facts that were written with a shard, or None if it must be made (again)."""
        record = self._manifest.get(self._file(number).name)
        if record is None or record["made_by"] != self.made_by:
            return None
        return {name: value for name, value in record.items() if name not in ("path", "sha256", "made_by")}

    def write(self, number: int, rows: Iterable[dict[str, Any]], **facts: Any) -> None:
        """Write a shard, with JSON values to keep beside it; it is whole, and outlasts a crash, once this returns."""
        path = self._file(number)
        with replacing(path) as file:
            file.writelines(json_line(row) for row in rows)
        self._manifest.record(path.name, path, made_by=self.made_by, **facts)

    def read(self, number: int) -> Iterator[dict[str, Any]]:
        """The rows of a shard that is whole."""
        with self._file(number).open("rb") as file:
            yield from map(json.loads, file)

    def _file(self, number: int) -> Path:
        return self.directory / f"{number:05d}.jsonl"
