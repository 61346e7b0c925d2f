"""VisPlay: vision-language models that improve themselves from unlabeled images."""

import os

# torch's OpenMP threads spin at barriers, for 300,000 turns by default, which costs several times what it saves as soon
# as anything else runs on the machine; the runtime reads this when torch is loaded. docs/log.md has the figures.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "5000"

__version__ = "0.1.0"
__all__ = ["__version__"]
