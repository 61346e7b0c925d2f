"""Effects: rollout engines, the meta-loop, and what is shown and written of a run."""

from visplay.callbacks.adaptive_kl import AdaptiveKL
from visplay.callbacks.checkpoints import DurableCheckpointIO, StepCheckpoint
from visplay.callbacks.curation.curation import Curation
from visplay.callbacks.curation.curator import TooFewQuestionsError
from visplay.callbacks.curation.gates import Candidate, ConfidenceBand, Gate, Margin, NotAskedBefore, QuantileBand
from visplay.callbacks.curation.view_gates import AgreementOfViews, CalibratedAccuracy, NeedsTheImage
from visplay.callbacks.dashboard import Dashboard
from visplay.callbacks.diagnostics import Diagnostics
from visplay.callbacks.engines.engine import RolloutEngine, RolloutError, WrongWeightsError
from visplay.callbacks.engines.transformers import TransformersRollout
from visplay.callbacks.engines.vllm import VLLMRollout
from visplay.callbacks.engines.vllm_engine import EngineSettings
from visplay.callbacks.engines.vllm_server import VLLMServerRollout
from visplay.callbacks.evaluation import Evaluation
from visplay.callbacks.export.export_callback import Export
from visplay.callbacks.export.export_store import DiskBudgetError, Retention
from visplay.callbacks.export.hub import HubTarget
from visplay.callbacks.health import Health, Limit
from visplay.callbacks.iterations.advance import (
    AdvanceRule,
    EstimatedAccuracyGain,
    RewardGain,
    ValidationGain,
    VoteMargin,
)
from visplay.callbacks.iterations.replay_buffer import ReplayBuffer
from visplay.callbacks.progress import PhaseProgress
from visplay.callbacks.records.recorder import Recorder
from visplay.callbacks.rollout_sink import RolloutSink
from visplay.callbacks.run_record import RunRecord
from visplay.callbacks.samples import SampleLogger
from visplay.callbacks.self_play import SelfPlay
from visplay.callbacks.summary import Summary
from visplay.callbacks.teacher import Teacher

__all__ = [
    "AdaptiveKL",
    "AdvanceRule",
    "AgreementOfViews",
    "CalibratedAccuracy",
    "Candidate",
    "ConfidenceBand",
    "Curation",
    "Dashboard",
    "Diagnostics",
    "DiskBudgetError",
    "DurableCheckpointIO",
    "EngineSettings",
    "EstimatedAccuracyGain",
    "Evaluation",
    "Export",
    "Gate",
    "Health",
    "HubTarget",
    "Limit",
    "Margin",
    "NeedsTheImage",
    "NotAskedBefore",
    "PhaseProgress",
    "QuantileBand",
    "Recorder",
    "ReplayBuffer",
    "Retention",
    "RewardGain",
    "RolloutEngine",
    "RolloutError",
    "RolloutSink",
    "RunRecord",
    "SampleLogger",
    "SelfPlay",
    "StepCheckpoint",
    "Summary",
    "Teacher",
    "TooFewQuestionsError",
    "TransformersRollout",
    "VLLMRollout",
    "VLLMServerRollout",
    "ValidationGain",
    "VoteMargin",
    "WrongWeightsError",
]
