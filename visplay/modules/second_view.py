"""A second vote on each question, from another view of it: what both votes say is seldom wrong by chance."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from PIL.Image import Image

from visplay.functional.votes.views import LabelAccuracy
from visplay.modules.voting import Voting
from visplay.types import Question, UnlabeledImage, Vote, derive_seed

Questions = Sequence[Sequence[Question | None]]
Votes = list[list[Vote | None]]
VoteOn = Callable[[Sequence[UnlabeledImage], Questions, int], Votes]


@dataclass(frozen=True)
class SecondView:
    """How each question is voted on a second time; what is null is as in the first vote.

    Another voter errs elsewhere, and so may the same one that reads another prompt or another image. ``base`` is the
    checkpoint that the run started from: it has not learned from its own answers, so that its votes stay as good in
    later iterations as they were in the first (docs/gates.md).

    Args:
        voter: Who votes: "base", "reasoner", "teacher" (see ``Teacher``), or "questioner", whose single vote is
            the answer that it wrote beside its question.
        voting: How: votes, and with ``template`` another style of prompt.
        image: Changes the image: takes and returns a PIL image, as the transforms of torchvision do; what it draws at
            random it draws from torch, which is seeded for each image.
        unless: Regular expression; a question in which it is found is about the image as it is. A mirror image, for
            example, changes what is left and right.
        label: Which answer is the silver answer: that of the "first" vote, or the "harmonic" one, which both support
            (``visplay.functional.harmonic_vote``).
        accuracy: How likely a silver answer is right, by what both votes give it.
    """

    voter: Literal["base", "reasoner", "teacher", "questioner"] = "base"
    voting: Voting | None = None
    image: Callable[[Image], Any] | None = None
    unless: str | None = None
    label: Literal["first", "harmonic"] = "first"
    accuracy: LabelAccuracy = LabelAccuracy()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        """Reject what changes nothing, or is no pattern."""
        if self.unless is not None:
            try:
                re.compile(self.unless)
            except re.error as error:
                raise ValueError(f"unless: {self.unless!r} is no regular expression: {error}") from error
            if self.image is None:
                raise ValueError(f"image: without a change of it, unless={self.unless!r} excepts nothing; got null")
        if self.voter == "questioner" and (self.image or self.voting):
            raise ValueError("voter: the Questioner's answer is there already; leave image and voting null")

    def vote(self, images: Sequence[UnlabeledImage], questions: Questions, seed: int, vote_on: VoteOn) -> Votes:
        """Vote on every question.

        Args:
            images: N images.
            questions: (N, G); None is not voted on.
            seed: Root of all draws; the first vote has others.
            vote_on: Takes images, questions and a seed, and votes with the policy of ``voter``.

        Returns:
            (N, G) votes; None where there is no question, or one too long for the context.
        """
        seed = derive_seed(seed, "second view")
        if self.image is None:
            return vote_on(images, questions, seed)
        changed = [[each if self._changes(each) else None for each in group] for group in questions]
        as_it_is = [[None if self._changes(each) else each for each in group] for group in questions]
        votes = vote_on([self._change(each, seed) for each in images], changed, seed)
        if not any(each for group in as_it_is for each in group):
            return votes
        others = vote_on(images, as_it_is, seed)
        return [[a or b for a, b in zip(*groups, strict=True)] for groups in zip(votes, others, strict=True)]

    def _changes(self, question: Question | None) -> bool:
        return question is not None and (self.unless is None or not re.search(self.unless, question.text))

    def _change(self, item: UnlabeledImage, seed: int) -> UnlabeledImage:
        assert self.image is not None
        if item.image is None:
            raise ValueError(f"second_view.image: {item.key!r} has no image that could be changed; give null")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, item.key))
            changed = self.image(item.image)
        if not isinstance(changed, Image):
            raise TypeError(f"image: must return a PIL image, got {type(changed).__name__}; end with ToPILImage")
        return replace(item, image=changed.convert("RGB"))


def own_votes(questions: Questions, normalise: Callable[[str], str]) -> Votes:
    """The answers that the Questioner wrote beside its questions, each as a vote of one; (N, G)."""

    def own(question: Question | None) -> Vote | None:
        if question is None or question.answer is None or not question.answer.strip():
            return None
        answer = normalise(question.answer)
        return Vote(answer, 1.0, ((answer, 1),), 1, 1)

    return [[own(each) for each in group] for group in questions]
