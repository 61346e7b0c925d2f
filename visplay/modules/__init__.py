"""State: the policies, the learner, the two roles and the module that joins them."""

from visplay.modules.grpo import GRPO, GRPOConfig
from visplay.modules.questioner import Questioner
from visplay.modules.qwen2_5_vl import Qwen2_5_VL
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import Role
from visplay.modules.visplay import VisPlay
from visplay.modules.vlm import VLM, PromptTooLongError

__all__ = [
    "GRPO",
    "GRPOConfig",
    "PromptTooLongError",
    "Questioner",
    "Qwen2_5_VL",
    "Reasoner",
    "Role",
    "VLM",
    "VisPlay",
]
