"""A model family compared with the checkpoint's own processor and with the model's own forward pass."""

from visplay.checking.deviation import FamilyError
from visplay.checking.family_check import FamilyCheck
from visplay.checking.model_check import ModelCheck

__all__ = ["FamilyCheck", "FamilyError", "ModelCheck"]
