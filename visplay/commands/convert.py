"""``visplay convert``: what ``visplay predict`` wrote, in the format of another tool."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from visplay.data.files import write_whole
from visplay.data_engine.exports.llama_factory import write_llama_factory
from visplay.data_engine.exports.lmms_eval import write_lmms_eval
from visplay.data_engine.exports.trl import write_trl
from visplay.data_engine.exports.verl import write_easyr1, write_verl
from visplay.data_engine.exports.vlmevalkit import write_vlmevalkit
from visplay.data_engine.pairs import Pair, Pairs
from visplay.terminal import Terminal

FORMATS: Mapping[str, Callable[[Iterable[Pair], Path, str], None]] = {
    "trl": write_trl,
    "verl": write_verl,
    "easyr1": write_easyr1,
    "llama_factory": write_llama_factory,
    "lmms_eval": write_lmms_eval,
    "vlmevalkit": write_vlmevalkit,
}
"""Writers by format: of pairs, a directory and the name of the data set."""


def run(arguments: Sequence[str]) -> None:
    """Write the directory; an error ends the process with its message.

    Args:
        arguments: What follows the command's name.
    """
    options = _parse(arguments)
    output = Path(options.output)
    write: Callable[..., Any] = FORMATS[options.to]
    if options.to == "lmms_eval":
        write = partial(write_lmms_eval, place=output)
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise FileExistsError(f"output: {str(output)!r} is there already; give another directory, or remove it")
        pairs = Pairs(Path(options.directory), options.images and Path(options.images), rejected=options.all)
        write_whole(output, lambda directory: write(pairs, directory, options.name))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    Terminal().print(f"{options.to}: {output}", soft_wrap=True)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="visplay convert", description=__doc__)
    parser.add_argument("directory", type=os.path.expanduser, help="the --output of visplay predict")
    parser.add_argument("--to", choices=FORMATS, required=True, help="the tool")
    parser.add_argument(
        "--output",
        type=os.path.expanduser,
        required=True,
        metavar="DIR",
        help="the directory to write; must not be there",
    )
    parser.add_argument(
        "--images", type=os.path.expanduser, metavar="DIR", help="where the images are now, if rows name them alone"
    )
    parser.add_argument("--all", action="store_true", help="questions that a gate rejected, too")
    parser.add_argument("--name", type=_name, default="visplay", help="of the data set (visplay)")
    return parser.parse_args(arguments)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} must be letters, digits, - and _")
    return text
