"""A run goes on after a stop, in its own directory, with the phases it has; here it also gets more iterations.

python -m examples.resume DIR        # after examples.own_images has been stopped, or has ended

``--auto_resume`` in the first command does the same after any kill: the command is given again as it was.
"""

import sys
from pathlib import Path

from visplay.cli import run


def main(images: str, *options: str, iterations: int = 6) -> Path:
    """Continue the last run of ``examples.own_images``, and return its directory.

    Args:
        images: The images of that run.
        *options: The options of that run: what would make another one of it is rejected.
        iterations: In all, those of before included.
    """
    more = [f"--self_play.iterations={iterations}", "--ckpt_path=last"]
    done = run(["fit", "--config=tiny", f"--data.images={images}", *options, *more])
    return Path(done.trainer.log_dir)


if __name__ == "__main__":
    main(*sys.argv[1:])
