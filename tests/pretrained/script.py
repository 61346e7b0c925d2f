"""What a scripted engine says in place of a pretrained model."""

from __future__ import annotations

from examples.pretrained.arithmetic import FAMILIES, solve
from visplay.types import Prompt


def say(policy: str, prompt: Prompt, text: str, sample: int) -> str:
    """A sum or a product is asked for, or nothing; every third answer is wrong, the first one right."""
    if policy == "questioner":
        number = int(prompt.key.partition("@")[0])
        question = FAMILIES[("sum", "product")[number % 2]][0].format(100 + number, sample)
        return f"<question>{question}</question> \\boxed{{1}}" if (number + sample) % 4 else "no question"
    question = next(line for line in reversed(text.split("\n")) if line.endswith("?<|im_end|>"))
    answer = int(solve(question.removesuffix("<|im_end|>")))
    return f"\\boxed{{{answer + (sample % 3 == 1)}}}"
