"""``python -m examples.study FILE``: run what is not finished, then write the page from the logs."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from examples.study.curves import draw_curves
from examples.study.logs import read_rows
from examples.study.plan import read_study
from examples.study.runs import is_finished, run_all
from examples.study.tables import Results, write_page


def main() -> None:
    """Run and tabulate the study of a file; exit status 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m examples.study", description=__doc__, allow_abbrev=False)
    parser.add_argument("study", type=Path, help="the study's file, such as examples/study/study.yaml")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread (2)")
    parser.add_argument("--page", type=Path, help="write the page here, and its picture next to it")
    parser.add_argument("--arms", nargs="+", help="only these, and what compares them; all without")
    parser.add_argument("--no-runs", action="store_true", help="start none; tabulate those that are finished")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    study = read_study(options.study)
    if options.arms:
        try:
            study = study.only(options.arms)
        except ValueError as error:
            parser.error(str(error))
    failures = [] if options.no_runs else run_all(study, options.jobs)
    finished = [(arm, seed) for arm in study.arms for seed in study.seeds if is_finished(study, arm, seed)]
    if options.page is not None and finished:
        rows = {(a.name, s): read_rows(study.version(a, s), study.worlds[a.world]) for a, s in finished}
        results, picture = Results(study, rows), options.page.with_suffix(".svg")
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(write_page(results, f"python -m examples.study {options.study}", picture.name))
        draw_curves(results, picture)
    sys.exit("\n".join(failures) or None)


if __name__ == "__main__":
    main()
