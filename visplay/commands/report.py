"""``visplay report``: a run as one HTML file, to look at anywhere."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from visplay import __version__
from visplay.data.files import replacing
from visplay.terminal import Terminal
from visplay.viewing.report_data import describe_run
from visplay.viewing.report_page import render_report
from visplay.viewing.run_reader import RunReader


def run(arguments: Sequence[str]) -> None:
    """Write the report; an error ends the process with its message.

    Args:
        arguments: What follows the command's name.
    """
    options = _parse(arguments)
    try:
        path = write_report(options.run, options.output, options.iteration or None)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    Terminal().print(f"report: {path}", soft_wrap=True)
    if options.open:
        webbrowser.open(path.resolve().as_uri())


def write_report(directory: str, output: str | None = None, iterations: Sequence[int] | None = None) -> Path:
    """Write the report of a run, and return where it is.

    Args:
        directory: The run's.
        output: The file; None is ``report.html`` in the run's directory.
        iterations: Whose questions and rollouts are shown; None is all.

    Raises:
        FileNotFoundError: There is no run.
        ValueError: The run has no such iteration.
    """
    reader = RunReader(directory)
    known = {phase["iteration"] for phase in reader.phases} | set(reader.curations)
    if unknown := sorted(set(iterations or ()) - known):
        raise ValueError(f"iteration: {str(reader.directory)!r} has the iterations {sorted(known)}, got {unknown}")
    described = describe_run(reader, iterations=iterations)
    path = Path(output) if output else reader.directory / "report.html"
    with replacing(path) as file:
        file.write(render_report(described, f"{reader.directory} · visplay {__version__}").encode())
    return path


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="visplay report", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="directory of a run, such as runs/tiny/version_0 or runs/tiny")
    parser.add_argument("--output", metavar="FILE", help="the file (RUN/report.html)")
    parser.add_argument(
        "--iteration", type=int, action="append", help="show the questions of this iteration only; may be repeated"
    )
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    return parser.parse_args(arguments)
