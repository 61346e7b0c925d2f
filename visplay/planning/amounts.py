"""How much a run does and writes: steps, rollouts, tokens and votes of an iteration, and bytes on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from visplay.planning.activations import FLOAT
from visplay.planning.settings import RolePlan, Settings

_IMAGE_BYTES = 1.5 * 512 * 512
"""Of a generated example's image, about: as PNG, at a quarter of a megapixel."""
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
        votes: Answers of the Reasoner that judge them.
        vote_tokens: Their tokens.
        blind: Answers from descriptions alone.
        blind_tokens: Their tokens.
    """

    steps: int
    updates: int
    prompts: int
    rollouts: int
    tokens: int
    votes: int = 0
    vote_tokens: int = 0
    blind: int = 0
    blind_tokens: int = 0


def phase_amounts(settings: Settings, role: RolePlan) -> RoleAmounts:
    """What a role does in one phase, without refills."""
    c, voting = role.grpo, settings.voting
    prompts, votes, vote_tokens = c.steps * c.prompts_per_step, 0, 0
    if role.name == "questioner" and voting is not None:
        votes = prompts * c.group_size * voting.votes
        answers = [each.grpo.max_new_tokens for each in settings.roles if each.name == "reasoner"]
        vote_tokens = votes * (voting.max_new_tokens or (answers or [c.max_new_tokens])[0])
    blind = prompts * c.group_size if role.describes else 0
    return RoleAmounts(
        steps=c.steps,
        updates=c.steps * ceil(c.prompts_per_step / role.prompts_per_update),
        prompts=prompts,
        rollouts=prompts * c.group_size,
        tokens=prompts * c.group_size * c.max_new_tokens,
        votes=votes,
        vote_tokens=vote_tokens,
        blind=blind,
        blind_tokens=blind * c.max_new_tokens,
    )


def curation_amounts(settings: Settings) -> dict[str, int]:
    """Images, questions and votes of a data set's making; nothing where none is generated."""
    c = settings.curation
    if c is None or settings.voting is None:
        return {}
    questions = c.images * c.questions_per_image
    asked = {"images": c.images} if settings.image.most_tokens else {}
    made = asked | {"questions": questions, "votes": questions * (c.voting or settings.voting).votes}
    return made | ({"second votes": questions * settings.second_votes} if settings.second_votes else {})


def host_bytes(settings: Settings) -> dict[str, int]:
    """Bytes of whole policies, and of copies, that are in CPU memory while a GPU learns; nothing where none are."""
    idle = settings.idle_weights if settings.offloads_idle else 0
    references = [settings.reference_weights(role) for role in settings.roles if settings.offloads_reference]
    parts = {"idle policy": FLOAT * idle, "reference policy": FLOAT * max(references, default=0)}
    if settings.device.kind == "cuda":
        parts["copies of Health"] = settings.health_bytes
        parts["base that votes"] = FLOAT * settings.second_voter_weights
    return {name: size for name, size in parts.items() if size}


def disk_bytes(settings: Settings) -> dict[str, int]:
    """Most bytes that a run has on the disk.

    A checkpoint at a phase's end has every policy in float32, of adapters not their base; optimizer states and
    reference are gone by then. One within a phase has them too, but no reference that is the base; the newest is there
    besides those that are kept, until it is complete. Of a data set the images are counted, each once.
    """
    phases = len(settings.roles) * settings.iterations
    kept = phases if settings.kept_checkpoints is None else min(phases, settings.kept_checkpoints)
    steps = settings.iterations * sum(role.grpo.steps for role in settings.roles)
    policies = settings.policy_weights + settings.idle_weights
    references = [settings.reference_weights(role) for role in settings.roles if role.grpo.kl_reference != "base"]
    within = policies + 2 * settings.trained_weights + max(references, default=0)
    several = settings.step_checkpoints + 1 if settings.step_checkpoints else 0
    images = 0
    if settings.curation is not None and settings.image.most_tokens:
        images = settings.iterations * settings.curation.images
    return {
        "checkpoints": kept * FLOAT * policies,
        "checkpoints within a phase": several * FLOAT * within,
        "generated data (estimate)": int(images * _IMAGE_BYTES),
        "logs (estimate)": steps * _LOG_BYTES_PER_STEP,
    }
