"""Effects: rollout engines, the meta-loop, and what is shown and written of a run."""

from visplay.callbacks.advance import AdvanceRule, RewardGain, ValidationGain, VoteMargin
from visplay.callbacks.curation import Curation, TooFewQuestionsError
from visplay.callbacks.diagnostics import Diagnostics
from visplay.callbacks.progress import PhaseProgress
from visplay.callbacks.rollout import RolloutEngine
from visplay.callbacks.samples import SampleLogger
from visplay.callbacks.self_play import SelfPlay
from visplay.callbacks.summary import Summary
from visplay.callbacks.transformers_rollout import TransformersRollout

__all__ = [
    "AdvanceRule",
    "Curation",
    "Diagnostics",
    "PhaseProgress",
    "RewardGain",
    "RolloutEngine",
    "SampleLogger",
    "SelfPlay",
    "Summary",
    "TooFewQuestionsError",
    "TransformersRollout",
    "ValidationGain",
    "VoteMargin",
]
