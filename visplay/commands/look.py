"""``visplay look``: the questions of a run in the terminal, with their images, votes and verdicts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from visplay.viewing.look_app import LookApp
from visplay.viewing.run_reader import RunReader


def run(arguments: Sequence[str]) -> None:
    """Show the run; an error ends the process with its message.

    Args:
        arguments: What follows the command's name.
    """
    parser = argparse.ArgumentParser(prog="visplay look", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="directory of a run, such as runs/tiny/version_0 or runs/tiny")
    parser.add_argument(
        "--iteration", type=int, action="append", help="show the questions of this iteration only; may be repeated"
    )
    options = parser.parse_args(arguments)
    try:
        app = LookApp(RunReader(options.run), options.iteration)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    if not app.rows:
        raise SystemExit(f"error: run: {options.run!r} has no questions of a data set yet")
    app.run()
