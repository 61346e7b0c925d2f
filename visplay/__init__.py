"""VisPlay: vision-language models that improve themselves from unlabeled images."""

import os

# torch's OpenMP threads would spin at barriers, which costs several times what it saves as soon as anything else runs
# on the machine; the runtime reads this when torch is loaded. docs/log.md has the figures.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["__version__"]
