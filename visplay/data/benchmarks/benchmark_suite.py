"""The benchmarks of a configuration: opened from this disk, or brought here from the Hub."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.benchmarks.benchmark_sources import BenchmarkSource
from visplay.data.benchmarks.benchmark_table import BenchmarkTable
from visplay.data.benchmarks.downloads import Hub, check_hash, download, match_files, read_lock
from visplay.data.sources import find_origin

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkSuite:
    """The benchmarks to evaluate on: ``test`` uses all, ``validate`` some.

    Args:
        sources: The benchmarks; their names differ.
        directory: Where ``visplay prepare`` keeps the data sets of the Hub, with a record of commits and hashes.
        max_images: Rows with more images are left out; null leaves none out. The paper's table has 1.
        validation: Names of the benchmarks that ``validate`` and the validation within a fit use; null for all.
            ``test`` uses all.

    Raises:
        ValueError: If two benchmarks have one name, two of one data set have other revisions, ``max_images`` is
            below 1, or ``validation`` names a benchmark that is not among ``sources``.
    """

    sources: tuple[BenchmarkSource, ...] = ()
    directory: str = "runs/benchmarks"
    max_images: int | None = None
    validation: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Reject what contradicts itself."""
        object.__setattr__(self, "sources", tuple(self.sources))
        if repeated := [name for name, count in Counter(s.name for s in self.sources).items() if count > 1]:
            raise ValueError(f"sources: the names of the benchmarks must differ; repeated: {repeated}")
        if self.max_images is not None and self.max_images < 1:
            raise ValueError(f"max_images: {self.max_images} must be at least 1, or null to leave no row out")
        for repo, group in _by_repo(self.sources):
            if len(revisions := {source.revision for source in group}) > 1:
                raise ValueError(f"revision: one data set has one revision; {repo!r} has {sorted(revisions)}")
        if self.validation is not None:
            object.__setattr__(self, "validation", tuple(self.validation))
            self._check_names("validation", self.validation)

    def choose(self, names: Collection[str]) -> BenchmarkSuite:
        """The benchmarks with these names, and what ``validation`` uses of them; a ValueError for an unknown name."""
        self._check_names("names", names)
        sources = tuple(source for source in self.sources if source.name in names)
        validation = None if self.validation is None else tuple(name for name in self.validation if name in names)
        return replace(self, sources=sources, validation=validation)

    def open(self) -> tuple[Benchmark, ...]:
        """Open the files that are here; the Hub is not asked.

        Raises:
            FileNotFoundError: If a data set was not prepared, or a file is not there.
            ValueError: If a file of the Hub has another hash than the one on record, or a benchmark cannot be read, see
                ``BenchmarkTable``.
        """
        return tuple(self._open(source) for source in self.sources)

    def download(self, hub: Hub, update: bool = False) -> None:
        """Bring all data sets here, see ``visplay.data.benchmarks.downloads.download``."""
        for repo, group in _by_repo(self.sources):
            patterns = [source.files for source in group]
            download(hub, Path(self.directory), repo, group[0].revision, patterns, update)

    def _check_names(self, argument: str, names: Collection[str]) -> None:
        known = [source.name for source in self.sources]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{argument}: there is no benchmark {unknown}, only {known}")

    def _open(self, source: BenchmarkSource) -> Benchmark:
        if source.repo is None:
            origin = find_origin(str(source.path), source.split)
            if origin.split is None or origin.split not in origin.files:
                raise FileNotFoundError(
                    f"path: benchmark {source.name!r} needs parquet or arrow files, got {source.path!r}"
                )
            paths = [Path(os.path.abspath(file)) for file in origin.files[origin.split]]
            directory = Path(os.path.commonpath([path.parent for path in paths]))
            files = {path.relative_to(directory).as_posix(): path for path in paths}
        else:
            entry = read_lock(Path(self.directory)).get(source.repo)
            if (
                entry is None
                or source.files not in entry.patterns
                or source.revision not in (entry.revision, entry.commit)
            ):
                raise FileNotFoundError(
                    f"benchmarks: {source.name!r} needs {source.files!r} of {source.repo!r} at {source.revision!r} in "
                    f"{self.directory!r}; run `visplay prepare` with this configuration, or give a path"
                )
            names = match_files(entry.files, [source.files])
            files = {name: Path(self.directory, source.repo, name) for name in names}
            for name, path in files.items():
                check_hash(path, entry.files[name])
        rows = BenchmarkTable(source, files, self.max_images)
        left_out = f", {rows.left_out} left out" if rows.left_out else ""
        published = "" if source.published_rows is None else f", the paper's table has {source.published_rows}"
        logger.info("%s: %d rows%s%s", source.name, len(rows), left_out, published)
        return Benchmark(source.name, rows, source.votes, source.scoring)


def _by_repo(sources: Collection[BenchmarkSource]) -> Iterator[tuple[str, list[BenchmarkSource]]]:
    for repo in dict.fromkeys(source.repo for source in sources if source.repo is not None):
        yield repo, [source for source in sources if source.repo == repo]
