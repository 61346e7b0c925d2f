"""The command line: ``visplay --help`` answers at once, everything else loads what it needs."""

from __future__ import annotations

import difflib
import gc
import importlib
import re
import sys
from collections.abc import Sequence
from types import ModuleType

from visplay.commands.settings.short_help import PURPOSES, short_help
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
  completion  print the completion of fit, validate and test for a shell: bash, zsh, tcsh or fish

Try it:      visplay fit --config tiny
Your images: visplay fit --config tiny --data.images=DIR
Settings:    visplay fit --help
"""

COMMANDS = tuple(re.findall(r"^  (\w+) {2,}", USAGE, re.MULTILINE))
SHELLS = ("bash", "zsh", "tcsh", "fish")
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


def import_uncollected(name: str) -> ModuleType:
    """Import a module without looking for garbage: imports make none, and what they make is searched again and again.

    What is there afterwards is never searched: it stays for as long as the process.
    """
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: What follows the program's name; None takes it from the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return
    if given[0] in MODULES:
        try:
            importlib.import_module(MODULES[given[0]]).run(given[1:])
        except SystemExit as end:  # an error's words may quote a file or a table
            raise (SystemExit(visible(end.code, "\n")) if isinstance(end.code, str) else end) from end.__cause__
        return
    if not given[0].startswith("-") and given[0] not in COMMANDS:
        near = difflib.get_close_matches(given[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
        raise SystemExit(visible(f"error: there is no command {given[0]!r}; {hint}", "\n"))
    if given[0] in PURPOSES and {"-h", "--help"} & {*given[1:]}:
        sys.stdout.write(short_help(given[0]))
        return
    cli = import_uncollected("visplay.cli")
    if given[0] in ("check", "diagnose", "plan", "play", "predict"):
        importlib.import_module(f"visplay.commands.{given[0]}").run(given[1:], cli.instantiate)
        return
    if given[0] == "completion":
        if given[1:] not in ([shell] for shell in SHELLS):
            raise SystemExit(f"error: completion: name one of {', '.join(SHELLS)}: visplay completion bash")
        given = ["--print_completion", f"shtab-{given[1]}"]
    cli.run(["--help" if argument == "--help=all" else argument for argument in given])


if __name__ == "__main__":
    main()
