"""What the two roles are taught to write."""

from __future__ import annotations

from visplay.tiny.questions import Posed, Solution
from visplay.tiny.world import Scene

CAPTION = "List."
"""What a model is told in the captions of the cold start."""


def question_target(posed: Posed) -> str:
    """The Questioner's reply: type, question, and the answer it believes in.

    Example:
        ``<type>numerical</type><question>How many red circles are there?</question><answer>3</answer>``
    """
    answer = posed.solution.answer
    return f"<type>{posed.family.kind}</type><question>{posed.text}</question><answer>{answer}</answer>"


def answer_target(solution: Solution, *, listed: bool) -> str:
    r"""The Reasoner's reply, at once or after what it listed.

    Example:
        >>> answer_target(Solution("2", "a1 c2"), listed=True)
        '<think>a1 c2</think>\\boxed{2}'
    """
    thought = f"<think>{solution.listing}</think>" if listed else ""
    return f"{thought}\\boxed{{{solution.answer}}}"


def caption_target(scene: Scene) -> str:
    """Every cell that is not empty with what it holds, in raster order."""
    return " ".join(f"{shape.cell} {shape.size} {shape.colour} {shape.kind}" for shape in scene.shapes)
