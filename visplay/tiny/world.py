"""What a small world is: scenes whose truth is known, images of them, and questions that can be solved."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from PIL import Image

SceneT = TypeVar("SceneT")
Part = Literal["training", "heldout", "compositional"]
"""What a scene is for: the cold start and self-play, evaluation, or evaluation on combinations that training lacks."""

NUMERICAL, YES_OR_NO, SHORT, CHOICE = "numerical", "yes or no", "short answer", "multiple choice"
NOTHING = "nothing"
"""The content of an empty cell."""


@dataclass(frozen=True)
class Solution:
    """The truth about a question.

    Args:
        answer: The short answer.
        listing: What is written down on the way to it, mostly the cells that matter.
    """

    answer: str
    listing: str


@dataclass(frozen=True)
class Family(Generic[SceneT]):
    """One kind of question.

    Args:
        name: Name of the family.
        kind: The question type that the Questioner states.
        pattern: What the text of such a question matches in full.
        pose: Writes a question about a scene.
        work_out: Solves a question from the parts of its text; None when it has no answer.
        guesses: What a careless annotator draws an answer from.
    """

    name: str
    kind: str
    pattern: re.Pattern[str]
    pose: Callable[[SceneT, np.random.Generator], str]
    work_out: Callable[[SceneT, tuple[str, ...]], Solution | None]
    guesses: tuple[str, ...]


@dataclass(frozen=True)
class Posed:
    """A question with its truth."""

    family: Family[Any]
    text: str
    solution: Solution


class World(ABC):
    """A kind of image on the 4x4 grid, with its questions. Scenes are of a class of its own.

    Attributes:
        name: For file names and the command line.
        base: Directory of its base model, in Hugging Face format.
        summary: What its images show, for the README of a base model.
        families: Kinds of questions; one of them is "What is in a1?", named ``content``.
        search_families: Names of the families whose answers list cells: those to begin with, and all.
        words: Words that the tokenizer meets often.
        contents: Words for what a cell holds, in groups of which one word each fits; the first is for an empty cell.
    """

    name: str
    base: Path
    summary: str
    families: tuple[Family[Any], ...]
    search_families: tuple[tuple[str, ...], tuple[str, ...]]
    words: tuple[str, ...]
    contents: tuple[tuple[str, ...], ...]

    @abstractmethod
    def sample_scene(self, rng: np.random.Generator, part: Part) -> Any:
        """Draw a scene."""

    @abstractmethod
    def blank(self) -> Any:
        """The scene that shows nothing."""

    @abstractmethod
    def part_of(self, scene: Any, cells: Collection[str]) -> Any:
        """The scene without what is outside some cells."""

    @abstractmethod
    def render(self, scene: Any, rng: np.random.Generator) -> Image.Image:
        """Draw a scene as an RGB image of 56x56 pixels; the same generator state gives the same pixels."""

    @abstractmethod
    def full_cells(self, scene: Any) -> tuple[str, ...]:
        """The cells that are not empty, in raster order."""

    @abstractmethod
    def content_of(self, scene: Any, cell: str) -> tuple[int, ...]:
        """What a cell holds: for each group of ``contents`` the index of its word."""

    @abstractmethod
    def caption(self, scene: Any) -> str:
        """Every cell that is not empty with what it holds, in raster order."""

    @abstractmethod
    def write_compositional(self, scene: Any, rng: np.random.Generator) -> str:
        """A question that concerns a combination which training lacks."""

    @abstractmethod
    def write_absent(self, scene: Any, rng: np.random.Generator) -> str:
        """A question about what is not there: the answer is no, 0 or nothing."""

    def family_of(self, question_text: str) -> Family[Any] | None:
        """The family whose grammar a question follows, or None."""
        text = question_text.strip()
        return next((family for family in self.families if family.pattern.fullmatch(text)), None)

    def work_out(self, scene: Any, question_text: str) -> Posed | None:
        """Solve a question, with what is written down on the way; None as in ``solve``."""
        text = question_text.strip()
        family = self.family_of(text)
        match = family.pattern.fullmatch(text) if family else None
        if family is None or match is None:
            return None
        solution = family.work_out(scene, match.groups())
        return None if solution is None else Posed(family, text, solution)

    def solve(self, scene: Any, question_text: str) -> str | None:
        """Answer a question about a scene from its text.

        Returns:
            The answer, or None when the text is none of the families' or has no answer.
        """
        posed = self.work_out(scene, question_text)
        return None if posed is None else posed.solution.answer

    def pose(self, scene: Any, rng: np.random.Generator) -> Posed:
        """Write a question of a random family about a scene, with its truth."""
        family = self.families[int(rng.random() * len(self.families))]
        return self.solved(scene, family.pose(scene, rng))

    def solved(self, scene: Any, question_text: str) -> Posed:
        """Solve a question that is known to follow the grammar and to have an answer."""
        posed = self.work_out(scene, question_text)
        assert posed is not None, f"a family writes questions of its own grammar, not {question_text!r}"
        return posed
