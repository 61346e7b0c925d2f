"""How the Reasoner votes on a question: one setting per stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visplay.prompts import Template


@dataclass(frozen=True)
class Voting:
    """How the Reasoner votes on a question in one stage; what is null is as in its own training.

    Args:
        votes: K, answers sampled per question.
        count_unparsed: Whether the confidence is the winner's fraction of all K answers, as Eq. 4 has it, or of those
            that parsed.
        min_parsed_fraction: A question of whose answers a smaller fraction parsed is invalid; else half-broken answers
            would look like maximal difficulty.
        ties: What becomes of a question of which two answers that differ have the most votes: "reject" takes no label
            from it, "draw" one of the two by a seeded draw. The Questioner is paid for its confidence either way.
        template: The prompt; ``{question}`` is filled in.
        max_new_tokens: Most tokens of an answer.
        top_p: Nucleus of sampling.
        top_k: Most probable tokens kept in sampling; 0 keeps all.
    """

    votes: int = 10
    count_unparsed: bool = False
    min_parsed_fraction: float = 0.8
    ties: Literal["reject", "draw"] = "reject"
    template: Template | None = None
    max_new_tokens: int | None = None
    top_p: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Reject what is no vote."""
        if self.votes < 2:
            raise ValueError(f"votes: {self.votes} must be at least 2, or every vote is unanimous")
        if not 0 <= self.min_parsed_fraction <= 1:
            raise ValueError(f"min_parsed_fraction: {self.min_parsed_fraction} must be in [0, 1]")


@dataclass(frozen=True)
class VotingRounds:
    """How answers are sampled in rounds, until those left can change nothing: see ``visplay.functional.is_settled``.

    Args:
        size: Answers sampled per question in a round.
        low: Lower end of the confidence band.
        high: Upper end of the confidence band.
    """

    size: int
    low: float
    high: float
