"""What is read from strangers, given anything: texts, images, prompts, settings and checkpoints made to harm.

``python -m benchmarks.fuzz`` gives each of ``TARGETS`` 100,000 inputs from a seeded generator; ``--seconds`` ends a
target earlier. An input passes if it is read, or rejected with one of the target's errors, within ``SECONDS_EACH``; the
slowest is reported. An input is named by target, seed and number: ``--only parser --first 4711 --inputs 1`` gives it
again.
"""

from __future__ import annotations

import argparse
import io
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from jsonargparse import ArgumentError
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from visplay.callbacks import Curation, SampleLogger
from visplay.commands.settings.configuration import build, expand_home
from visplay.data.images.decoding import DecodeError, ImageLimits, decode_image
from visplay.data.images.image_columns import read_images
from visplay.data.question_text import count_marks, read_options, write_problem
from visplay.functional import (
    cluster,
    cluster_fractions,
    equivalent,
    has_thought,
    normalise_answer,
    parse_boxed,
    parse_question,
    vote,
)
from visplay.modules import QuestionFormat, Voting
from visplay.modules.policy.weights.model_source import check_checkpoint, read_policy
from visplay.prompts import ANSWER, JUDGE_PAPER, Template, encode_prompt

SECONDS_EACH = 10.0
_PIECES = (
    *("<type>", "</type>", "<question>", "</question>", "<answer>", "</answer>", "<think>", "</think>", "<image>"),
    *(
        "<image 2>",
        "\\boxed{",
        "}",
        "{",
        "\\frac{1}{2}",
        "\\sqrt{",
        "\\left(",
        "^",
        "_",
        "$",
        "%",
        "9**9**9",
        "9" * 400,
    ),
    *("1e999", "-", "+", "/", "0", "1/0", "½", "٣", "(", ")", "[", "]", ",", "'", '"', "\\", "\\x41", "\n", "\t", " "),
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|image_pad|>",
        "<|endoftext|>",
        "<|vision_start|>",
        "[INST]",
        "</s>",
        "numerical",
    ),
    *("\x00", "\x1b[31m", "\u202e", "\ue000question\ue001", "\udc80", "\U0001f468\u200d\U0001f469", "é", "e\u0301"),
    *("[red]", "${oc.env:HOME}", "!!python/object:os.system", "~", "../..", "A)", "A. a", "km", "true", "null", "x = "),
)


def text(draw: random.Random, longest: int = 60) -> str:
    """Pieces in any order; one text in fifty is one piece many times."""
    if draw.random() < 0.02:
        return draw.choice(_PIECES) * draw.randint(1, 2000)
    return "".join(draw.choice(_PIECES) for _ in range(draw.randint(0, longest)))


def _encodable(draw: random.Random, longest: int = 60) -> str:
    return text(draw, longest).encode(errors="replace").decode()


def parser(draw: random.Random) -> None:
    """A completion, and the cells of a table."""
    given = text(draw)
    for around in (False, True):
        parse_question(given, None, text_around=around)
    parse_boxed(given)
    has_thought(given)
    count_marks(given)
    with suppress(ValueError):  # of most texts, whose marks name other images
        write_problem(given, (text(draw, 3), text(draw, 3)), draw.randint(1, 3))
    read_options(given)


def equivalence(draw: random.Random) -> None:
    """Two answers."""
    one, other = (normalise_answer(text(draw, 12)) for _ in range(2))
    equivalent(one, other)


def voting(draw: random.Random) -> None:
    """Eight answers, some of them alike."""
    answers = [draw.choice([None, text(draw, 6)]) for _ in range(4)]
    found = vote(answers + answers[::-1])
    if found.total != 8 or not 0 <= found.confidence <= 1:
        raise AssertionError(found)


def clustering(draw: random.Random) -> None:
    """Up to eight questions."""
    texts = [text(draw) for _ in range(draw.randint(1, 8))]
    fractions = cluster_fractions(cluster(texts))
    if not (len(fractions) == len(texts) and (fractions > 0).all() and (fractions <= 1).all()):
        raise AssertionError(fractions)


@cache
def _images() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    found = []
    for name, mode in [(n, m) for n in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM") for m in ("RGB", "L")]:
        buffer = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(buffer, name)
        found.append(buffer.getvalue())
    return found


def damage(draw: random.Random, data: bytes) -> bytes:
    """Some bytes changed, most of them in the header, or a part cut out, repeated or appended."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        found[draw.randrange(min(len(found), draw.choice([32, 128, len(found)])))] = draw.choice([0, 1, 127, 128, 255])
    start, end = sorted(draw.randrange(len(found) + 1) for _ in range(2))
    return bytes(draw.choice([found, found, found, found[:start] + found[end:], found[:end] + found[start:]]))


def image_decoding(draw: random.Random) -> None:
    """A damaged file of every format, by itself and as the cell of a table."""
    data = damage(draw, draw.choice(_images()))
    decoded = decode_image(data, ImageLimits(max_pixels=2**20))
    if decoded.mode != "RGB":
        raise AssertionError(decoded)
    read_images({"bytes": data, "path": text(draw, 3)}, limits=ImageLimits(max_pixels=2**20))


@cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    from visplay.tiny import BASE

    return AutoTokenizer.from_pretrained(BASE)


@cache
def _control() -> tuple[frozenset[int], dict[str, list[int]]]:
    special = frozenset(_tokenizer().all_special_ids)
    return special, {"": [i for i in encode_prompt(_tokenizer(), ANSWER, question="x") if i in special]}


def prompts(draw: random.Random) -> None:
    """A question in a prompt: every control token in it is the chat template's."""
    special, own = _control()
    ids = encode_prompt(_tokenizer(), ANSWER, question=_encodable(draw))
    if [i for i in ids if i in special] != own[""]:
        raise AssertionError("a control token in a question")
    JUDGE_PAPER.user.format(gold=text(draw, 3), prediction=text(draw, 3))


_KINDS = (ImageLimits, Curation, Voting, QuestionFormat, Template, SampleLogger)
_VALUES = (0, -1, 1, 2**70, 0.5, float("nan"), float("inf"), True, None, [], {}, [1], {"a": 1}, "1", "null")


def configuration(draw: random.Random) -> None:
    """Settings of a class, of any type and value, as a file would have them."""
    import inspect

    kind = draw.choice(_KINDS)
    names = [name for name in inspect.signature(kind).parameters if draw.random() < 0.5]
    given = {name: draw.choice([*_VALUES, _encodable(draw, 4).replace("${", "$ {")]) for name in names}
    if draw.random() < 0.1:
        given[_encodable(draw, 2).replace("${", "$ {")] = 1
    expand_home(given)
    build(kind, OmegaConf.create(given))


@cache
def _checkpoint() -> bytes:
    buffer = io.BytesIO()
    weights = {f"reasoner.vlm.model.{name}": torch.zeros(3, 2) for name in "ab"}
    torch.save({"state_dict": weights, "callbacks": {"SelfPlay": {"phase": 1}}, "epoch": 1}, buffer)
    return buffer.getvalue()


@cache
def _directory() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


def checkpoints(draw: random.Random) -> None:
    """A damaged checkpoint."""
    path = Path(_directory().name) / "a.ckpt"
    path.write_bytes(damage(draw, _checkpoint()))
    check_checkpoint(str(path))
    read_policy(str(path), "reasoner")


TARGETS: dict[str, tuple[Callable[[random.Random], None], tuple[type[Exception], ...]]] = {
    "parser": (parser, (ValueError,)),
    "equivalence": (equivalence, ()),
    "voting": (voting, ()),
    "clustering": (clustering, ()),
    "image decoding": (image_decoding, (DecodeError,)),
    "prompts": (prompts, ()),
    "configuration": (configuration, (ArgumentError, OmegaConfBaseException, ValueError)),
    "checkpoints": (checkpoints, (ValueError,)),
}


class Found(NamedTuple):
    """What came of a target.

    Args:
        inputs: How many inputs it got.
        rejected: How many of them were rejected with one of its errors.
        seconds: What all of them took.
        slowest_seconds: What the slowest took.
        slowest: Its number.
        failures: Number and error of those that failed.
    """

    inputs: int
    rejected: int
    seconds: float
    slowest_seconds: float
    slowest: int
    failures: list[tuple[int, str]]


class HangError(Exception):
    """An input took too long."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise a ``HangError`` in what takes longer; in the main thread only."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise HangError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(name: str, inputs: int, seed: int = 0, first: int = 0, seconds: float = float("inf")) -> Found:
    """Give a target inputs until there were enough, or the time is over."""
    target, errors = TARGETS[name]
    began, rejected, slowest, failures = time.monotonic(), 0, (0.0, first), []
    number = first
    for number in range(first, first + inputs):
        start = time.monotonic()
        if start - began > seconds:
            break
        try:
            with limited(SECONDS_EACH):
                target(random.Random(f"{name}/{seed}/{number}"))
        except errors:
            rejected += 1
        except Exception as error:  # of a crash nothing is known beforehand
            failures.append((number, f"{type(error).__name__}: {str(error)[:200]!r}"))
        slowest = max(slowest, (time.monotonic() - start, number))
    else:
        number += 1
    return Found(number - first, rejected, time.monotonic() - began, *slowest, failures)


def main() -> None:
    """Print a line per target, and every failure; end with 1 if there is any."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--inputs", type=int, default=100_000, help="inputs of each target")
    options.add_argument("--seconds", type=float, default=float("inf"), help="longest time of a target")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--first", type=int, default=0, help="number of the first input")
    options.add_argument("--only", choices=TARGETS, action="append", help="a target; again for more")
    given = options.parse_args()
    write = partial(print, file=sys.stdout, flush=True)
    write("| target | inputs | rejected | failed | seconds | slowest input, seconds | its number |")
    write("|---|---|---|---|---|---|---|")
    failed = False
    for name in given.only or TARGETS:
        found = fuzz(name, given.inputs, given.seed, given.first, given.seconds)
        figures = f"{found.inputs} | {found.rejected} | {len(found.failures)} | {found.seconds:.0f}"
        write(f"| {name} | {figures} | {found.slowest_seconds:.3f} | {found.slowest} |")
        for number, error in found.failures[:10]:
            write(f"{name} {number}: {error}", file=sys.stderr)
        failed |= bool(found.failures)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
