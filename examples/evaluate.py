"""What a run has made of its base: both answer the same questions, and the answers are compared row by row.

python -m examples.evaluate runs/tiny/version_0/checkpoints/phase-05.ckpt
"""

import sys
from pathlib import Path

from visplay.cli import run


def main(checkpoint: str, *options: str) -> Path:
    """Evaluate the base and a checkpoint's Reasoner, and compare them.

    Args:
        checkpoint: That a run wrote.
        *options: Of ``visplay test``, those of the run that change the questions included.

    Returns:
        The comparison as Markdown, next to the Reasoner's answers.
    """
    done = run(["test", "--config=tiny", f"--ckpt_path={checkpoint}", *options])
    directory = Path(done.config["test"]["evaluation"]["directory"])
    return max(directory.glob("reasoner-*/against-base-*.md"), key=lambda path: path.stat().st_mtime)


if __name__ == "__main__":
    main(*sys.argv[1:])
