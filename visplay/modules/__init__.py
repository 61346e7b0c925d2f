"""State: the policies, the learner, the two roles and the module that joins them."""

from visplay.modules.describer import Describer
from visplay.modules.families.causal_lm import CausalLM
from visplay.modules.families.gemma3 import Gemma3
from visplay.modules.families.internvl import InternVL
from visplay.modules.families.llava_onevision import LlavaOnevision
from visplay.modules.families.qwen2_5_vl import Qwen2_5_VL
from visplay.modules.families.qwen3_vl import Qwen3_VL
from visplay.modules.families.smolvlm import SmolVLM
from visplay.modules.learner.grpo import GRPO
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.learner.mismatch import MismatchConfig, PolicyMismatchError
from visplay.modules.learner.skipped_update import NonFiniteUpdateError
from visplay.modules.policy.collation import PromptTooLongError
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.tuning import LoRA, Tuning
from visplay.modules.questioner import Questioner, QuestionFormat, QuestionReward
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import Role
from visplay.modules.second_view import SecondView
from visplay.modules.training import GRPOModule
from visplay.modules.visplay import VisPlay
from visplay.modules.voting import Voting

__all__ = [
    "CausalLM",
    "Describer",
    "MismatchConfig",
    "GRPO",
    "GRPOConfig",
    "GRPOModule",
    "Gemma3",
    "InternVL",
    "LlavaOnevision",
    "LoRA",
    "NonFiniteUpdateError",
    "PolicyMismatchError",
    "PromptTooLongError",
    "QuestionFormat",
    "QuestionReward",
    "Questioner",
    "Qwen2_5_VL",
    "Qwen3_VL",
    "Reasoner",
    "Role",
    "SecondView",
    "SmolVLM",
    "Tuning",
    "VLM",
    "VisPlay",
    "Voting",
]
