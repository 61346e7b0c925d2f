"""Tables from wherever they are stored: parquet and arrow files, a saved data set, or the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import glob
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HTTPError
from pyarrow.dataset import ParquetFragmentScanOptions

from visplay.data.files import LeftOut, is_hidden
from visplay.data.hub_names import check_reachable

logger = logging.getLogger(__name__)

TABLES = {".parquet": "parquet", ".arrow": "arrow"}
SHARDS = {".parquet": "parquet", ".tar": "tar"}
"""Suffixes and kinds of the files that are opened as a table, and of those that are read as a stream."""

_HUB_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<split>[\w.]+))?")
_SPLITS = {"train": "train training", "validation": "validation valid val dev", "test": "test testing eval evaluation"}
_WORDS = {word: split for split, words in _SPLITS.items() for word in words.split()}
# Otherwise Arrow reads a parquet file ahead of its conversion, and memory grows with the file.
_READ_AHEAD_BYTES = 2**20
_LIBRARY_ERRORS = (DatasetsError, HTTPError, OSError, RuntimeError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a source turned out to be.

    Args:
        kind: ``parquet``, ``arrow``, ``tar``, ``saved`` (by ``save_to_disk``) or ``hub``.
        path: The file, pattern, directory or name on the Hub.
        split: The split to read; None for the only one.
        name: Short and stable, for keys: the file's stem, the directory's name or the name on the Hub.
        directory: Where relative paths in the table start; None for the Hub.
        files: The files of each split, for ``parquet``, ``arrow`` and ``tar``.
    """

    kind: str
    path: str
    split: str | None
    name: str
    directory: Path | None
    files: dict[str, list[str]]


def open_table(source: str | Path, split: str | None = "train", revision: str | None = None) -> datasets.Dataset:
    """Open a table memory-mapped; its images stay encoded, as structs of bytes and path.

    A parquet file is converted once, a row group at a time, to a file of the ``datasets`` cache, which is then mapped.
    Code that a data set brings along is never run.

    Args:
        source: A .parquet or .arrow file, a pattern of such files, a directory that holds them (searched recursively,
            but for hidden ones) or that ``save_to_disk`` wrote, or a name on the Hugging Face Hub: ``owner/name``, or
            ``owner/name@split``. What exists here is never asked of the Hub.
        split: Name of a split; None for the only one. A file or a pattern is the split ``train``. Files in a directory
            belong to the split whose name is a word of their path (``test-0.parquet``, ``val/0.arrow``), else to
            ``train``.
        revision: Branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: If there is no such file and it is no name on the Hub.
        OSError: If the Hub cannot be reached or has no such data set.
        ValueError: If ``source`` is something else, is damaged or has no rows, or there is no such split.
    """
    return open_origin(find_origin(source, split), revision)


def find_origin(source: str | Path, split: str | None = "train", kinds: Mapping[str, str] = TABLES) -> Origin:
    """Tell what a source is, without opening it; see ``open_table``, also for the errors.

    Args:
        source: A file, a pattern, a directory or a name on the Hub.
        split: Name of a split; None for the only one.
        kinds: Files that are taken, kind by suffix.
    """
    if split is not None and not re.fullmatch(r"[\w.]+", split):
        raise ValueError(f"split: {split!r} must be the name of a split, without a slice, or None for the only one")
    text = str(source)
    if os.path.isdir(text):
        return _find_in_directory(Path(text), split, kinds)
    if os.path.exists(text):
        return _find_files(text, [text], split, kinds)
    if glob.has_magic(text):
        named = Path(text).parts
        found = [path for path in glob.glob(text, recursive=True) if os.path.isfile(path)]
        meant = [path for path in found if not any(is_hidden(part) and part not in named for part in Path(path).parts)]
        return _find_files(text, sorted(meant), split, kinds)
    hub = _HUB_NAME.fullmatch(text)
    if hub is None or Path(text).suffix in kinds:
        raise FileNotFoundError(f"source: {text!r} does not exist; {allowed(kinds)}")
    split = hub["split"] or split
    return Origin("hub", hub["name"], split, hub["name"], None, {})


def open_origin(origin: Origin, revision: str | None = None) -> datasets.Dataset:
    """Open what ``find_origin`` found, see ``open_table``; the table knows the name of its split."""
    table = _load(origin, revision)
    if isinstance(table, datasets.DatasetDict):
        split = check_split(origin.path, origin.split, list(table))
        table = table[split]
    else:
        split = check_split(origin.path, origin.split, [str(table.split or "train")])
    pa.default_memory_pool().release_unused()  # what a conversion took
    if not len(table):
        raise ValueError(f"source: {origin.path!r} must hold at least one row, got none")
    info = table.info.copy()
    info.features = datasets.Features({name: _undecoded(kind) for name, kind in table.features.items()})
    return datasets.Dataset(table.data, info=info, split=datasets.NamedSplit(split))


def list_files(directory: str | Path, left_out: LeftOut | None = None) -> list[str]:
    """Paths of all files below a directory, sorted; links to directories are not followed.

    Args:
        directory: The directory.
        left_out: Notes what is hidden, see ``visplay.data.files.is_hidden``, which is not among them.
    """
    left_out = LeftOut() if left_out is None else left_out
    found = []
    for top, subdirectories, names in os.walk(directory):
        inside = os.path.relpath(top, directory) if top != str(directory) else ""
        subdirectories[:] = left_out.choose(sorted(subdirectories), inside)
        found += [os.path.join(top, name) for name in left_out.choose(sorted(names), inside)]
    return sorted(found)


def list_hub_files(origin: Origin, revision: str | None = None) -> list[str]:
    """Addresses of the files of a data set on the Hub, at the commit that the revision is now.

    Raises:
        OSError: If the Hub cannot be reached or has no such data set.
        ValueError: If there is no such split.
    """
    try:
        check_reachable(origin.path, "dataset")
        splits = datasets.load_dataset_builder(origin.path, revision=revision).config.data_files or {}
    except _LIBRARY_ERRORS as error:
        raise _not_on_hub(origin, error, allowed(SHARDS)) from error
    return list(splits[check_split(origin.path, origin.split, list(map(str, splits)))])


def is_saved(directory: Path) -> bool:
    """Whether ``save_to_disk`` wrote this directory."""
    return (directory / "dataset_dict.json").is_file() or (directory / "state.json").is_file()


def is_table(path: str) -> bool:
    """Whether a file is a table by its extension."""
    return Path(path).suffix.lower() in TABLES


def allowed(kinds: Mapping[str, str] = TABLES) -> str:
    """What a source may be, for the end of an error."""
    saved = " or that save_to_disk wrote" if kinds is TABLES else ""
    return (
        f"give a {' or '.join(kinds)} file, a pattern of such files, a directory that holds them{saved}, "
        "or a name on the Hugging Face Hub, owner/name or owner/name@split"
    )


def check_split(source: str, split: str | None, known: Sequence[str]) -> str:
    """The split that is meant, the only one for None; a ValueError if there is none of that name."""
    if split is None and len(known) == 1:
        return known[0]
    if split is None or split not in known:
        raise ValueError(f"split: {split!r} is no split of {source!r}; it has {sorted(known)}")
    return split


def _find_in_directory(directory: Path, split: str | None, kinds: Mapping[str, str]) -> Origin:
    name = directory.resolve().name
    if kinds is TABLES and is_saved(directory):
        return Origin("saved", str(directory), split, name, directory, {})
    left_out = LeftOut()
    there = list_files(directory, left_out)
    files = [path for path in there if Path(path).suffix.lower() in kinds]
    left_out.count(path for path in there if Path(path).suffix.lower() not in kinds)
    if not files:
        holds = f"holds neither {' nor '.join(kinds.values())} files, but {left_out or 'nothing'}"
        raise ValueError(f"source: the directory {str(directory)!r} {holds}; {allowed(kinds)}")
    if left_out:
        logger.warning(
            "%s: %d %s, left out %s", directory, len(files), "tables" if kinds is TABLES else "shards", left_out
        )
    splits: dict[str, list[str]] = {}
    for path in files:
        words = re.split(r"[\W_\d]+", os.path.splitext(os.path.relpath(path, directory))[0].lower())
        of = next((_WORDS[word] for word in reversed(words) if word in _WORDS), "train")
        splits.setdefault(of, []).append(path)
    split = check_split(str(directory), split, list(splits))
    return Origin(_kind(str(directory), splits[split], kinds), str(directory), split, name, directory, splits)


def _find_files(pattern: str, files: list[str], split: str | None, kinds: Mapping[str, str]) -> Origin:
    if not files:
        raise FileNotFoundError(f"source: no file matches {pattern!r}; {allowed(kinds)}")
    split = check_split(pattern, split, ["train"])
    kind = _kind(pattern, files, kinds)
    directory = Path(os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))
    path = Path(os.path.abspath(pattern))
    telling = (part for part in (path.stem, *reversed(path.parts[:-1])) if re.search(r"\w", part))
    return Origin(kind, pattern, split, next(telling, path.stem), directory, {split: files})


def _kind(source: str, files: list[str], kinds: Mapping[str, str]) -> str:
    suffixes = sorted({Path(file).suffix.lower() for file in files})
    if len(suffixes) > 1:
        raise ValueError(f"source: {source!r} holds files of several kinds, {suffixes}; {allowed(kinds)}")
    if suffixes[0] not in kinds:
        raise ValueError(f"source: {source!r} is no {' or '.join(kinds)} file; {allowed(kinds)}")
    return kinds[suffixes[0]]


def _load(origin: Origin, revision: str | None) -> Any:
    try:
        if origin.kind == "hub":
            check_reachable(origin.path, "dataset")
            return datasets.load_dataset(origin.path, revision=revision, split=origin.split)
        if origin.kind == "saved":
            saved = datasets.load_from_disk(origin.path)
            for table in saved.values() if isinstance(saved, datasets.DatasetDict) else [saved]:
                table.data.validate(full=True)  # it is mapped as it is, and wrong offsets in it end the process
            return saved
        split = str(origin.split)
        files, options = origin.files[split], {}
        if origin.kind == "parquet":
            if not any(pq.read_metadata(file).num_rows for file in files):
                return datasets.Dataset.from_dict({}, split=split)  # the library's message about this is unclear
            options["fragment_scan_options"] = ParquetFragmentScanOptions(
                use_buffered_stream=True,
                buffer_size=_READ_AHEAD_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
            )
        literal = [glob.escape(os.path.abspath(file)) for file in files]
        return datasets.load_dataset(origin.kind, data_files={split: literal}, split=split, **options)
    except IndexError:
        return datasets.Dataset.from_dict({})  # so the library fails on a saved table without rows
    except _LIBRARY_ERRORS as error:
        if origin.kind != "hub":
            raise ValueError(f"source: {origin.path!r} cannot be read as a table: {_cause(error)}") from error
        raise _not_on_hub(origin, error, allowed()) from error


def _cause(error: Exception) -> str:
    cause = f"{type(error).__name__}: {error}"
    if error.__cause__ is not None:
        cause += f" ({type(error.__cause__).__name__}: {error.__cause__})"
    return cause


def _not_on_hub(origin: Origin, error: Exception, advice: str) -> Exception:
    return (ValueError if isinstance(error, ValueError) else OSError)(
        f"source: {origin.path!r} is no path here, and as a name on the Hub (split {origin.split!r}) it cannot be "
        f"loaded: {_cause(error)}; {advice}"
    )


def _undecoded(feature: Any) -> Any:
    """The same feature with every image left as it is stored, and likewise what else a library would decode."""
    if getattr(feature, "decode", False):
        return dataclasses.replace(feature, decode=False)
    if isinstance(feature, dict):
        return {name: _undecoded(part) for name, part in feature.items()}
    if isinstance(feature, datasets.LargeList):
        return datasets.LargeList(_undecoded(feature.feature))
    if isinstance(feature, datasets.List):
        return datasets.List(_undecoded(feature.feature), length=feature.length)
    return feature
