"""The command line: ``visplay --help`` answers at once, everything else loads what it needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from visplay.foreign_text import visible

USAGE = """\
usage: visplay COMMAND [options]

Vision-language models that improve themselves from unlabeled images.

commands:
  check       whether a model family computes what its checkpoint says
  diagnose    will self-play help this model on these images? in minutes, without labels
  plan        what a run needs, before anything is loaded; what cannot fit is rejected
  predict     images in, question-answer pairs with confidence out; nothing is trained
  convert     what predict wrote, for TRL, verl, EasyR1, LLaMA-Factory, lmms-eval or VLMEvalKit
  fit         self-play: train Questioner and Reasoner in turns
  validate    score the Reasoner on the benchmarks to validate on
  test        score models on all benchmarks, and compare them: base against evolved
  compare     compare what two evaluations have answered, row by row
  report      a run as one HTML file: curves, questions, answers, where the time went
  look        the questions of a run in the terminal, with images, votes and verdicts
  play        models ask, vote and answer about one image, side by side
  export      write a role of a run as a Hugging Face directory
  replay      do a recorded step of a run again, and compare it bit by bit
  prepare     download the benchmarks, and check every file by its hash

Try it:      visplay fit --config configs/tiny.yaml
Your images: visplay fit --config configs/tiny.yaml --data.images=DIR
All options: visplay fit --help
"""

MODULES = {
    "compare": "visplay.commands.compare",
    "convert": "visplay.commands.convert",
    "export": "visplay.commands.export",
    "look": "visplay.commands.look",
    "prepare": "visplay.commands.prepare",
    "replay": "visplay.commands.replay",
    "report": "visplay.commands.report",
}
"""Commands whose options are their own, not those of ``fit``."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: What follows the program's name; None takes it from the process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return
    if given[0] in MODULES:
        try:
            importlib.import_module(MODULES[given[0]]).run(given[1:])
        except SystemExit as end:  # an error's words may quote a file or a table
            raise (SystemExit(visible(end.code, "\n")) if isinstance(end.code, str) else end) from end.__cause__
        return
    from visplay import cli

    if given[0] in ("check", "diagnose", "plan", "play", "predict"):
        importlib.import_module(f"visplay.commands.{given[0]}").run(given[1:], cli.instantiate)
        return
    cli.run(arguments)


if __name__ == "__main__":
    main()
