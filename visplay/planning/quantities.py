"""How much a run does and writes: steps, rollouts, tokens and votes of an iteration, and bytes on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from visplay.planning.activations import FLOAT
from visplay.planning.settings import RolePlan, Settings

_IMAGE_BYTES_PER_PIXEL = 1.5
"""Of a photograph written as PNG, about."""
_IMAGE_PIXELS = 512 * 512
_LOG_BYTES_PER_STEP = 500_000
"""Scalars are a few kilobytes; panels with images are most of it."""


@dataclass(frozen=True)
class RoleAmounts:
    """What a role does in one phase; tokens are at most.

    Args:
        steps: Rollout batches.
        updates: Steps of the optimizer.
        prompts: Images or questions.
        rollouts: Completions.
        tokens: Tokens sampled.
        votes: Answers that the jury gives to judge them.
        vote_tokens: Their tokens.
    """

    steps: int
    updates: int
    prompts: int
    rollouts: int
    tokens: int
    votes: int = 0
    vote_tokens: int = 0


def phase_amounts(settings: Settings, role: RolePlan) -> RoleAmounts:
    """What a role does in one phase, without refills."""
    c = role.grpo
    prompts = c.steps * c.prompts_per_step
    votes, tokens = 0, 0
    if role.name == "questioner" and settings.voting is not None:
        votes = prompts * c.group_size * settings.voting.votes
        tokens = votes * vote_tokens(settings)
    return RoleAmounts(
        steps=c.steps,
        updates=c.steps * ceil(c.prompts_per_step / role.prompts_per_update),
        prompts=prompts,
        rollouts=prompts * c.group_size,
        tokens=prompts * c.group_size * c.max_new_tokens,
        votes=votes,
        vote_tokens=tokens,
    )


def vote_tokens(settings: Settings) -> int:
    """Most tokens of an answer of a vote."""
    own = [role.grpo.max_new_tokens for role in settings.roles if role.name == "reasoner"]
    longest = own[0] if own else max(role.grpo.max_new_tokens for role in settings.roles)
    return settings.voting.max_new_tokens or longest if settings.voting else longest


def curation_amounts(settings: Settings) -> dict[str, int]:
    """Images, questions and answers of a data set's making; nothing where none is generated."""
    c = settings.curation
    if c is None or settings.voting is None:
        return {}
    votes = (c.voting or settings.voting).votes
    questions = c.images * c.questions_per_image
    return {"images": c.images, "questions": questions, "votes": questions * votes}


def host_bytes(settings: Settings) -> dict[str, int]:
    """Bytes of whole policies that lie in the host's memory while a GPU learns; nothing where none do."""
    idle = settings.idle_weights if settings.hosts_idle else 0
    references = [settings.reference_weights(role) for role in settings.roles if settings.hosts_reference]
    parts = {"idle policy": FLOAT * idle, "reference policy": FLOAT * max(references, default=0)}
    return {name: size for name, size in parts.items() if size}


def disk_bytes(settings: Settings) -> dict[str, int]:
    """Bytes that a whole run leaves behind.

    A checkpoint at a phase's end holds every policy in float32, of adapters not their base; optimizer state and
    reference are gone by then. Of a data set the images are counted, each once, at half a megapixel or less.
    """
    phases = len(settings.roles) * settings.iterations
    kept = phases if settings.kept_checkpoints is None else min(phases, settings.kept_checkpoints)
    steps = settings.iterations * sum(role.grpo.steps for role in settings.roles)
    images = 0 if settings.curation is None else settings.iterations * settings.curation.images
    return {
        "checkpoints": kept * FLOAT * (settings.policy_weights + settings.idle_weights),
        "generated data (estimate)": int(images * _IMAGE_PIXELS * _IMAGE_BYTES_PER_PIXEL),
        "logs (estimate)": steps * _LOG_BYTES_PER_STEP,
    }
