"""The record of one step on the disk: JSON lines for people, safetensors for tensors, images as PNG; no pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from visplay.callbacks.records.step_state import StepState
from visplay.callbacks.records.step_trace import Call, Grade, StepTrace
from visplay.data.files import json_line, sha256
from visplay.data.generated import PngEncoder
from visplay.data.images.decoding import decode_image
from visplay.modules.policy.vlm import VLM
from visplay.types import Completion, Example, Prompt, Sampling, UnlabeledImage

FORMAT = 1
"""Of the files; another number cannot be read."""
STATE, FACTS, CONFIG, SUMS = "state.safetensors", "facts.json", "config.yaml", "SHA256SUMS"
FILES = (
    *(STATE, FACTS, "after.json", "items.jsonl", "calls.jsonl", "completions.jsonl"),
    *("tokens.safetensors", "grades.jsonl", "judged.jsonl", "batch.safetensors"),
)
"""Of every record, beside its images and, of a run of the command line, its configuration."""


@dataclass(frozen=True)
class StepRecord:
    """A step that was recorded.

    Args:
        state: What it started from.
        trace: What it did.
        environment: Versions and settings of the process that numbers depend on.
        changed: Files that are not as they were written.
    """

    state: StepState
    trace: StepTrace
    environment: dict[str, Any]
    changed: tuple[str, ...] = ()


def record_name(phase: str, step: int) -> str:
    """What the directory of a record is called, like a checkpoint after the step.

    Example:
        >>> record_name("00", 3)
        'phase-00-step-0003'
    """
    return f"phase-{phase}-step-{step:04d}"


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file; an OSError where the disk fails."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error


def write_record(directory: Path, record: StepRecord, policies: Mapping[str, VLM], configuration: Path) -> None:
    """Write everything but the tensors of the state, which are there, into a directory.

    Args:
        directory: It holds ``state.safetensors``.
        record: The step.
        policies: By name; they write prompts as text, for people.
        configuration: The run's file; one that was started in Python has none.
    """
    trace, written = record.trace, _ImageWriter(directory / "images")
    facts = {"format": FORMAT} | record.state.facts
    facts |= {"judging": trace.judging, "update": trace.update, "environment": record.environment}
    (directory / FACTS).write_text(_json(facts, indent=2))
    (directory / "after.json").write_text(_json(trace.after, indent=0))
    items = ((draw, item) for draw, items in enumerate(trace.items) for item in items)
    _write_lines(directory / "items.jsonl", ({"draw": draw} | _item_line(item, written) for draw, item in items))
    calls = (
        {
            "policy": call.policy,
            "version": call.version,
            "prompts": len(call.prompts),
            "sampling": asdict(call.sampling),
        }
        for call in trace.calls
    )
    _write_lines(directory / "calls.jsonl", calls)
    _write_lines(
        directory / "completions.jsonl",
        (
            {
                "call": number,
                "key": prompt.key,
                "opened": prompt.opened,
                "prompt": policies[call.policy].tokenizer.decode(list(prompt.token_ids)),
                "completions": [{"text": each.text, "finished": each.finished} for each in group],
            }
            for number, call in enumerate(trace.calls)
            for prompt, group in zip(call.prompts, call.completions, strict=True)
        ),
    )
    write_tensors(directory / "tokens.safetensors", _pack_tokens(trace.calls))
    _write_lines(directory / "grades.jsonl", (grade._asdict() for grade in trace.grades))
    _write_lines(directory / "judged.jsonl", trace.judged)
    write_tensors(directory / "batch.safetensors", trace.batch)
    if configuration.is_file():
        (directory / CONFIG).write_bytes(configuration.read_bytes())
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    sums = (f"{sha256(path)}  {path.relative_to(directory).as_posix()}\n" for path in files)
    (directory / SUMS).write_text("".join(sums))


def read_record(directory: Path, *, weights: bool = True) -> StepRecord:
    """Read a record.

    Args:
        directory: Of the record.
        weights: Whether the tensors of the state are read.

    Raises:
        FileNotFoundError: There is none, or a file of it is missing.
        ValueError: A file is not what it should be, or the record is of another version.
    """
    needed = [name for name in FILES if weights or name != STATE]
    _check_there(directory, needed)
    try:
        facts = _read_json(directory / FACTS)
        if facts.get("format") != FORMAT:
            raise ValueError(f"its format is {facts.get('format')!r}, and this version reads {FORMAT}")
        judging, update, environment = (facts.pop(name) for name in ("judging", "update", "environment"))
        trace = StepTrace(
            items=_read_items(directory),
            calls=_read_calls(directory),
            grades=[Grade(**line) for line in _read_lines(directory / "grades.jsonl")],
            judged=_read_lines(directory / "judged.jsonl"),
            judging=judging,
            update=update,
            batch=_read_tensors(directory / "batch.safetensors"),
            after=_read_json(directory / "after.json"),
        )
        state = StepState(_read_tensors(directory / STATE) if weights else {}, facts)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"record: {str(directory)!r} is damaged, or no record: {error}") from error
    return StepRecord(state, trace, environment, _changed_files(directory, needed))


class _ImageWriter:
    """Writes images and says their names; images that are one object are one file, as they are one to the policy."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.encode = PngEncoder()
        self.written: dict[int, str] = {}
        directory.mkdir()

    def __call__(self, image: Image | None) -> str | None:
        if image is None:
            return None
        if id(image) not in self.written:
            path = self.directory / f"{len(self.written):04d}.png"
            path.write_bytes(self.encode(image))
            self.written[id(image)] = f"{self.directory.name}/{path.name}"
        return self.written[id(image)]


def _item_line(item: UnlabeledImage | Example, write: Callable[[Image | None], str | None]) -> dict[str, Any]:
    if isinstance(item, UnlabeledImage):
        return {"key": item.key, "image": write(item.image)}
    images = {"image": write(item.image), "further_images": [write(image) for image in item.further_images]}
    return vars(item) | images | {"metadata": dict(item.metadata)}


def _read_items(directory: Path) -> list[tuple[UnlabeledImage | Example, ...]]:
    images: dict[str, Image] = {}

    def read(name: str) -> Image:
        if name not in images:
            inside = f"images/{Path(name).name}"  # a record may be anyone's
            _check_there(directory, [inside])
            images[name] = decode_image((directory / inside).read_bytes())
        return images[name]

    draws: list[list[UnlabeledImage | Example]] = []
    for line in _read_lines(directory / "items.jsonl"):
        draw = line.pop("draw")
        draws += [[] for _ in range(draw + 1 - len(draws))]
        line["image"] = None if line["image"] is None else read(line["image"])
        if "problem" in line:
            line["further_images"] = tuple(read(name) for name in line["further_images"])
            line["votes"] = tuple((name, count) for name, count in line["votes"])
        draws[draw].append(Example(**line) if "problem" in line else UnlabeledImage(**line))
    return [tuple(items) for items in draws]


def _pack_tokens(calls: Sequence[Call]) -> dict[str, Tensor]:
    """Ids and log-probabilities of each call one after another, and how many of them are whose."""
    packed: dict[str, Tensor] = {}
    for number, call in enumerate(calls):
        completions = [completion for group in call.completions for completion in group]
        prompts = [prompt.token_ids for prompt in call.prompts]
        packed |= {
            f"{number}.prompt_ids": torch.tensor([i for ids in prompts for i in ids], dtype=torch.int64),
            f"{number}.prompt_lengths": torch.tensor([len(ids) for ids in prompts], dtype=torch.int64),
            f"{number}.token_ids": torch.tensor([i for c in completions for i in c.token_ids], dtype=torch.int64),
            f"{number}.logps": torch.tensor([logp for c in completions for logp in c.logps], dtype=torch.float64),
            f"{number}.lengths": torch.tensor([len(c.token_ids) for c in completions], dtype=torch.int64),
        }
    return packed


def _read_calls(directory: Path) -> list[Call]:
    """The calls; their prompts are without images, which the items have."""
    tokens, calls = _read_tensors(directory / "tokens.safetensors"), []
    texts, lines = _read_lines(directory / "completions.jsonl"), _read_lines(directory / "calls.jsonl")
    if unknown := {text["call"] for text in texts} - set(range(len(lines))):
        raise ValueError(f"calls.jsonl: {len(lines)} calls, and completions.jsonl has call {min(unknown)}")
    for number, line in enumerate(lines):
        lengths = {name: tokens[f"{number}.{name}"].tolist() for name in ("prompt_lengths", "lengths")}
        prompt_ids = tokens[f"{number}.prompt_ids"].split(lengths["prompt_lengths"])
        columns = [tokens[f"{number}.{name}"].split(lengths["lengths"]) for name in ("token_ids", "logps")]
        token_ids, logps = ((tuple(values.tolist()) for values in column) for column in columns)
        mine = [text for text in texts if text["call"] == number]
        prompts = tuple(
            Prompt(text["key"], tuple(ids.tolist()), (), text["opened"])
            for text, ids in zip(mine, prompt_ids, strict=True)
        )
        groups = tuple(
            tuple(
                Completion(next(token_ids), next(logps), each["text"], each["finished"]) for each in text["completions"]
            )
            for text in mine
        )
        calls.append(Call(line["policy"], line["version"], Sampling(**line["sampling"]), prompts, groups))
    return calls


def _check_there(directory: Path, names: Iterable[str]) -> None:
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise FileNotFoundError(f"record: {str(directory)!r} has no {' and no '.join(missing)}: it is no whole record")


def _changed_files(directory: Path, files: Sequence[str]) -> tuple[str, ...]:
    """Of the files that are read, the configuration's included, those that are not as they were written."""
    sums = directory / SUMS
    lines = (line.partition("  ") for line in (sums.read_text().splitlines() if sums.is_file() else []))
    written = {name: digest for digest, _, name in lines}
    images = [path.relative_to(directory).as_posix() for path in sorted((directory / "images").iterdir())]
    configuration = [CONFIG] if (directory / CONFIG).is_file() else []
    return tuple(name for name in [*files, *configuration, *images] if sha256(directory / name) != written.get(name))


def _json(value: Any, **options: Any) -> str:
    return json.dumps(value, allow_nan=False, **options) + "\n"


def _write_lines(path: Path, values: Iterable[Any]) -> None:
    with path.open("wb") as file:
        file.writelines(map(json_line, values))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _read_lines(path: Path) -> list[Any]:
    try:
        with path.open("rb") as file:
            return [json.loads(line) for line in file]
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {error}") from error
