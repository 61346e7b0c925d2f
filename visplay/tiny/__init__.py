"""The embedded default: small visual worlds, a small Qwen2.5-VL and the cold start that makes it a base model.

Only what a command line or a configuration needs is named here. Self-play gets images from ``self_play_images``; the
truth about them stays with the cold start and the evaluation.
"""

from __future__ import annotations

from pathlib import Path

from visplay.prompts import Template

BASE = Path(__file__).parent / "base"
"""Directory of the base model of the shapes world, in Hugging Face format."""

ASK = Template(user="Ask.")
"""What the Questioner is told."""

ANSWER = Template(user="{question}")
"""What the Reasoner is told."""

FROM_DESCRIPTION = Template(user="{description} {question}")
"""What a Describer is told without the image."""

QUESTION_KINDS = ("numerical", "yes or no", "short answer", "multiple choice")
"""The question types that the Questioner states."""

__all__ = ["ANSWER", "ASK", "BASE", "FROM_DESCRIPTION", "QUESTION_KINDS"]
