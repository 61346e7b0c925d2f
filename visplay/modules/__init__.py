"""State: the policies, the learner, the two roles and the module that joins them."""

from visplay.modules.canary import CanaryConfig, PolicyMismatchError
from visplay.modules.collation import PromptTooLongError
from visplay.modules.grpo import GRPO
from visplay.modules.grpo_config import GRPOConfig
from visplay.modules.llava_onevision import LlavaOnevision
from visplay.modules.questioner import Questioner, QuestionFormat, QuestionReward
from visplay.modules.qwen2_5_vl import Qwen2_5_VL
from visplay.modules.qwen3_vl import Qwen3_VL
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import Role
from visplay.modules.smolvlm import SmolVLM
from visplay.modules.training import GRPOModule
from visplay.modules.tuning import LoRA, Tuning
from visplay.modules.visplay import VisPlay
from visplay.modules.vlm import VLM
from visplay.modules.voting import Voting

__all__ = [
    "CanaryConfig",
    "GRPO",
    "GRPOConfig",
    "GRPOModule",
    "LlavaOnevision",
    "LoRA",
    "PolicyMismatchError",
    "PromptTooLongError",
    "QuestionFormat",
    "QuestionReward",
    "Questioner",
    "Qwen2_5_VL",
    "Qwen3_VL",
    "Reasoner",
    "Role",
    "SmolVLM",
    "Tuning",
    "VLM",
    "VisPlay",
    "Voting",
]
