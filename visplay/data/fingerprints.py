"""What identifies the data that a run reads, without keeping or reading all of it."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.benchmarks.benchmark_table import BenchmarkTable
from visplay.data.benchmarks.downloads import read_lock
from visplay.data.files import sha256
from visplay.data.images.image_folder import ImageFolder
from visplay.data.module import NoImages, SelfPlayData
from visplay.data.sources import list_files

MOST_READ_BYTES = 2**30
"""Files of more bytes in all are known by their names and sizes alone."""


def fingerprint_data(data: SelfPlayData) -> dict[str, Any]:
    """What identifies each source of a fit that is set up: see ``fingerprint_files``; of the Hub, name and revision."""
    found: dict[str, Any] = {}
    if data.image_source is not None:
        found["images"] = fingerprint_images(data)
    if (labelled := data.labelled_source) is not None:
        found["labelled"] = _fingerprint_source(labelled.path, labelled.revision)
    if data.silver_path is not None:
        found["silver"] = _fingerprint_source(str(data.silver_path))
    found |= {f"benchmark {each.name}": _fingerprint_benchmark(each, data) for each in data.benchmarks("validate")}
    return found


def fingerprint_images(data: SelfPlayData) -> dict[str, Any]:
    """What identifies the unlabeled images of a data module that has them and is set up."""
    images = data.image_source
    if images is None or isinstance(images, NoImages):
        return {"count": len(data.images)}
    files = [str(data.images.root / key) for key in data.images.keys] if isinstance(data.images, ImageFolder) else None
    return _fingerprint_source(images.path, images.revision, files)


def fingerprint_files(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Number, bytes and one hash of files: of their names and sizes and, up to ``MOST_READ_BYTES`` in all, contents.

    Returns:
        "files", "bytes", "sha256", and "of", what the hash is of. Names are relative to the directory of all.
    """
    files = sorted(map(os.path.abspath, paths))
    directory = os.path.commonpath([os.path.dirname(file) for file in files])
    sizes = [os.stat(file).st_size for file in files]
    is_read = sum(sizes) <= MOST_READ_BYTES
    found = hashlib.sha256()
    for file, size in zip(files, sizes, strict=True):
        content = sha256(Path(file)) if is_read else ""
        found.update(f"{os.path.relpath(file, directory)}\0{size}\0{content}\n".encode("utf-8", "surrogateescape"))
    of = "names, sizes, contents" if is_read else "names, sizes"
    return {"files": len(files), "bytes": sum(sizes), "sha256": found.hexdigest(), "of": of}


def _fingerprint_source(path: str, revision: str | None = None, files: list[str] | None = None) -> dict[str, Any]:
    if files is None and os.path.isdir(path):
        files = list_files(path)
    elif files is None:
        files = [path] if os.path.exists(path) else [p for p in glob.glob(path, recursive=True) if os.path.isfile(p)]
    return {"path": path} | (fingerprint_files(files) if files else {"revision": revision})


def _fingerprint_benchmark(benchmark: Benchmark, data: SelfPlayData) -> dict[str, Any]:
    """Of a benchmark of the Hub, its files are known by the commit, as their hashes are compared when it is opened."""
    facts: dict[str, Any] = {"rows": len(benchmark)}
    if not isinstance(benchmark.examples, BenchmarkTable):
        return facts
    source = benchmark.examples.source
    if source.repo is None:
        return facts | _fingerprint_source(str(source.path))
    commit = read_lock(Path(data.suite.directory))[source.repo].commit
    return facts | {"repo": source.repo, "files": source.files, "commit": commit}
