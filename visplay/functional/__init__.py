"""The mathematics of self-play: pure functions of numbers and texts, without state or effects."""

from visplay.functional.advantages import group_advantages, zero_variance_groups
from visplay.functional.clustering import bleu_distances, cluster, cluster_shares
from visplay.functional.curation import confidence_histogram, in_band, keep_in_band
from visplay.functional.grading import equivalent, normalise_answer
from visplay.functional.logps import token_logps
from visplay.functional.losses import clipped_policy_loss, k3_kl, sequence_mean_weights, token_mean_weights
from visplay.functional.parsing import DEFAULT_KINDS, parse_boxed, parse_question
from visplay.functional.phases import FIRST_PHASE, Phase, next_phase, permuted_indices
from visplay.functional.rewards import (
    agreement,
    difficulty,
    questioner_rewards,
    redundancy,
    signed_questioner_rewards,
)
from visplay.functional.voting import is_valid_vote, vote

__all__ = [
    "DEFAULT_KINDS",
    "FIRST_PHASE",
    "Phase",
    "agreement",
    "bleu_distances",
    "clipped_policy_loss",
    "cluster",
    "cluster_shares",
    "confidence_histogram",
    "difficulty",
    "equivalent",
    "group_advantages",
    "in_band",
    "is_valid_vote",
    "k3_kl",
    "keep_in_band",
    "next_phase",
    "normalise_answer",
    "parse_boxed",
    "parse_question",
    "permuted_indices",
    "questioner_rewards",
    "redundancy",
    "sequence_mean_weights",
    "signed_questioner_rewards",
    "token_logps",
    "token_mean_weights",
    "vote",
    "zero_variance_groups",
]
