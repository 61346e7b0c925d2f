"""The mathematics of self-play: pure functions of numbers and texts, without state or effects."""

from visplay.functional.advantages import (
    centred_advantages,
    group_advantages,
    leave_one_out_advantages,
    zero_variance_groups,
)
from visplay.functional.clustering import bleu_distances, cluster, cluster_fractions, cluster_groups
from visplay.functional.confidence_band import confidence_histogram, in_band, keep_in_band, relax_band
from visplay.functional.corrections import (
    sequence_geometric_weights,
    sequence_sum_weights,
    token_truncated_weights,
)
from visplay.functional.diagnosis import (
    describe_votes,
    fold_question,
    mean_margin,
    own_answer_agreement,
    repeated_fraction,
)
from visplay.functional.gaps import effective_sample_size, gap_statistics, logp_gaps
from visplay.functional.kl import k1_kl, k2_kl, k3_kl
from visplay.functional.logps import token_logps
from visplay.functional.losses import cispo_loss, clipped_policy_loss, sequence_policy_loss
from visplay.functional.majority_vote import is_valid_vote, vote
from visplay.functional.parsing import DEFAULT_KINDS, has_thought, parse_boxed, parse_question
from visplay.functional.phases import FIRST_PHASE, Phase, next_phase, permuted_indices
from visplay.functional.rewards import (
    agreement,
    agreement_rewards,
    batch_redundancy,
    difficulty,
    formatted_agreement_rewards,
    group_redundancy,
    minority_difficulty,
    questioner_rewards,
    signed_questioner_rewards,
)
from visplay.functional.weights import FixedLengthWeights, sequence_mean_weights, token_mean_weights
from visplay.grading.equivalence import equivalent, normalise_answer
from visplay.statistics.averages import ScoredRows, average_benchmarks
from visplay.statistics.breakdown import (
    NO_FIGURE,
    all_right_fraction,
    hallusion_accuracies,
    link_rows,
    mean_by_group,
    mmmu_discipline,
)
from visplay.statistics.intervals import (
    DEFAULT_BOOTSTRAP,
    Bootstrap,
    Estimate,
    bootstrap_means,
    estimate_mean,
    format_estimate,
    percentile_interval,
)
from visplay.statistics.paired import Comparison, compare_paired, mcnemar_p_value
from visplay.statistics.raters import (
    RaterAgreement,
    agreement_table,
    cohen_kappa,
    compare_all_raters,
    compare_raters,
    final_score,
    judge_score,
)

__all__ = [
    "Bootstrap",
    "Comparison",
    "DEFAULT_BOOTSTRAP",
    "DEFAULT_KINDS",
    "Estimate",
    "FIRST_PHASE",
    "FixedLengthWeights",
    "NO_FIGURE",
    "Phase",
    "RaterAgreement",
    "ScoredRows",
    "agreement",
    "agreement_rewards",
    "agreement_table",
    "all_right_fraction",
    "average_benchmarks",
    "batch_redundancy",
    "bleu_distances",
    "bootstrap_means",
    "centred_advantages",
    "cispo_loss",
    "clipped_policy_loss",
    "cluster",
    "cluster_groups",
    "cluster_fractions",
    "cohen_kappa",
    "compare_all_raters",
    "compare_paired",
    "compare_raters",
    "confidence_histogram",
    "describe_votes",
    "difficulty",
    "effective_sample_size",
    "equivalent",
    "estimate_mean",
    "final_score",
    "fold_question",
    "format_estimate",
    "formatted_agreement_rewards",
    "gap_statistics",
    "group_advantages",
    "group_redundancy",
    "hallusion_accuracies",
    "has_thought",
    "in_band",
    "is_valid_vote",
    "judge_score",
    "k1_kl",
    "k2_kl",
    "k3_kl",
    "keep_in_band",
    "leave_one_out_advantages",
    "link_rows",
    "logp_gaps",
    "mcnemar_p_value",
    "mean_by_group",
    "mean_margin",
    "minority_difficulty",
    "mmmu_discipline",
    "next_phase",
    "normalise_answer",
    "own_answer_agreement",
    "parse_boxed",
    "parse_question",
    "percentile_interval",
    "permuted_indices",
    "questioner_rewards",
    "relax_band",
    "repeated_fraction",
    "sequence_geometric_weights",
    "sequence_mean_weights",
    "sequence_policy_loss",
    "sequence_sum_weights",
    "signed_questioner_rewards",
    "token_logps",
    "token_mean_weights",
    "token_truncated_weights",
    "vote",
    "zero_variance_groups",
]
