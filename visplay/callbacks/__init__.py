"""Effects: rollout engines, the meta-loop, and what is shown and written of a run."""

from visplay.callbacks.progress import PhaseProgress
from visplay.callbacks.rollout import RolloutEngine
from visplay.callbacks.samples import SampleLogger
from visplay.callbacks.self_play import Curation, NoQuestionKeptError, SelfPlay
from visplay.callbacks.summary import Summary
from visplay.callbacks.transformers_rollout import TransformersRollout

__all__ = [
    "Curation",
    "NoQuestionKeptError",
    "PhaseProgress",
    "RolloutEngine",
    "SampleLogger",
    "SelfPlay",
    "Summary",
    "TransformersRollout",
]
