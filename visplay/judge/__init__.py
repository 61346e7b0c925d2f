"""A judge of answers: a chat model behind any OpenAI-compatible endpoint."""

from visplay.judge.cache import VerdictCache
from visplay.judge.config import JudgeConfig, JudgeItem, JudgeLimits, JudgeUsage, Ruling, Verdict
from visplay.judge.endpoint import JudgeUnavailableError
from visplay.judge.judge import Judge
from visplay.judge.protocols import PROTOCOLS, paper_prediction

__all__ = [
    "PROTOCOLS",
    "Judge",
    "JudgeConfig",
    "JudgeItem",
    "JudgeLimits",
    "JudgeUnavailableError",
    "JudgeUsage",
    "Ruling",
    "Verdict",
    "VerdictCache",
    "paper_prediction",
]
