"""A Questioner reward of one's own: any function of three (N, G) tensors, named in the configuration.

PYTHONPATH=. visplay fit --config configs/tiny.yaml \
        --model.questioner.reward.combine=examples.own_reward.difficulty_per_cluster
"""

from torch import Tensor


def difficulty_per_cluster(valid: Tensor, difficulty: Tensor, redundancy: Tensor) -> Tensor:
    """Share a question's difficulty among those that ask the same.

    Args:
        valid: (N, G) bool, whether a question is valid.
        difficulty: (N, G) in [0, 1], 1 where the Reasoner is split in half.
        redundancy: (N, G) in [0, λ], λ times the fraction of the group that asks the same.

    Returns:
        (N, G) rewards.
    """
    return valid * difficulty * (1 - redundancy)
