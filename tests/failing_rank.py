"""The command, in which rank 1 raises in its second update while rank 0 waits for it."""

from itertools import count

import torch

from visplay.__main__ import main
from visplay.modules.learner.grpo import GRPO
from visplay.ranks import rank

update, calls = GRPO._update, count()


def raising(self: GRPO, policy: torch.nn.Module, *given: object) -> dict[str, float]:
    if rank() == 1 and next(calls) == 1:
        raise RuntimeError("the memory of this rank is all used")
    return update(self, policy, *given)


if __name__ == "__main__":
    GRPO._update = raising
    main()
