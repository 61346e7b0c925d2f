"""What a report of very many questions costs: to make, to open, to filter.

    python -m benchmarks.viewing runs/tiny/version_0

The run's questions come again, each with words of its own, until there are ``--questions`` of them; its images are as
they are. The page is opened in a headless Chromium several times, and filtered in the ways that people do: seconds from
the address to the first card, and milliseconds of script and layout after a change of a filter.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from examples.headless import chromium
from visplay.terminal import Terminal
from visplay.viewing.report_data import describe_run
from visplay.viewing.report_page import render_report
from visplay.viewing.run_reader import RunReader

OPENED = 5
FILTERS = (("search", "red"), ("search", ""), ("iteration", "1"), ("verdict", "kept"), ("low", "0.5"))
CHANGE = """([id, value]) => {
    const field = document.getElementById(id), start = performance.now();
    field.value = value;
    field.dispatchEvent(new Event("input"));
    document.body.offsetHeight;
    return performance.now() - start;
}"""


class Repeating(RunReader):
    """A run whose questions come again and again.

    Args:
        directory: The run's.
        questions: How many there are to be.
    """

    def __init__(self, directory: str | Path, questions: int) -> None:
        super().__init__(directory)
        self.questions = questions

    def asked(self, iterations: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
        """So many of them, each with its number."""
        rows = list(super().asked(iterations))
        for number, row in enumerate(islice(cycle(rows), self.questions)):
            yield row | {"question": f"{row['question']} ({number})"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="directory of a finished run")
    parser.add_argument("--questions", type=int, default=10_000)
    options = parser.parse_args()
    terminal = Terminal()
    start = time.perf_counter()
    text = render_report(describe_run(Repeating(options.run, options.questions)))
    made = time.perf_counter() - start
    terminal.print(f"{options.questions} questions: made in {made:.1f} s, {len(text.encode()) / 2**20:.1f} MiB")
    with tempfile.TemporaryDirectory() as directory, chromium() as open_page:
        path = Path(directory, "report.html")
        path.write_text(text, "utf-8")
        opened = []
        for _ in range(OPENED):
            page = open_page()
            start = time.perf_counter()
            page.goto(path.as_uri())
            page.locator("#cards .card").first.wait_for()
            opened.append(time.perf_counter() - start)
        filtered = [page.evaluate(CHANGE, list(change)) for change in FILTERS for _ in range(OPENED)]
    terminal.print(f"opened in {statistics.median(opened):.2f} s, at most {max(opened):.2f} s")
    terminal.print(f"filtered in {statistics.median(filtered):.0f} ms, at most {max(filtered):.0f} ms")


if __name__ == "__main__":
    main()
