"""Self-play on a directory of your own images, from Python; the small model shows that the loop runs on them.

python -m examples.own_images DIR
"""

import sys
from pathlib import Path

from visplay.cli import run


def main(images: str, *options: str) -> Path:
    """Train on images.

    Args:
        images: Directory of images, searched recursively.
        *options: Of ``visplay fit``, over those of the configuration.

    Returns:
        The directory of the run: checkpoints, ``summary.json``, the log.
    """
    done = run(["fit", "--config=tiny", f"--data.images={images}", *options])
    return Path(done.trainer.log_dir)


if __name__ == "__main__":
    main(*sys.argv[1:])
