"""The Describer, the Reasoner of Vision-SR1 (arXiv 2508.19652): describes, then answers; and answers blind, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from visplay.functional.parsing import has_description, parse_description
from visplay.functional.rewards.rewards import formatted_agreement_rewards
from visplay.modules.reasoner import Reasoner
from visplay.prompts import DESCRIBE, FROM_DESCRIPTION, Template
from visplay.types import Example, Judgement, Prompt, Rollout, derive_seed


class Describer(Reasoner):
    """A Reasoner that is also paid for answers which its description alone leads to.

    r = reward(right, form) + ``description_weight`` · [the answer without the image is right]; a completion without a
    description has no such answer. The other arguments are those of ``Reasoner``.

    Args:
        template: The prompt; ``{question}`` is filled in.
        reward: Agreement and form of answers, each (N, G), to rewards (N, G); the form is a description, a thought and
            a boxed answer.
        from_description: The prompt without the image; ``{description}`` and ``{question}`` are filled in.
        description_weight: Weight of the answer from the description; 0 samples none.
    """

    def __init__(
        self,
        *,
        template: Template = DESCRIBE,
        reward: Callable[[Tensor, Tensor], Any] = formatted_agreement_rewards,
        from_description: Template = FROM_DESCRIPTION,
        description_weight: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(template=template, reward=reward, **settings)
        self.from_description = from_description
        self.description_weight = description_weight

    @property
    def templates(self) -> tuple[Template | None, ...]:
        """Those of a Reasoner, and the one without the image."""
        return (*super().templates, self.from_description)

    def has_form(self, text: str) -> bool:
        """Whether an answer is a description, a thought and a boxed answer, and nothing else."""
        return has_description(text)

    def judge(self, items: Sequence[Example], rollout: Rollout, seed: int) -> Judgement:
        """Reward answers (N, G), and what their descriptions lead to."""
        judgement = super().judge(items, rollout, seed)
        if self.description_weight == 0:
            return judgement
        with self.clock("descriptions"):
            sampling = self.sampling(1, derive_seed(seed, "description"))
            sampled = self.sample_one(self._blind_prompts(items, rollout), sampling)
        self.clock.tokens["descriptions"] += sum(len(completion.token_ids) for completion in sampled.values())
        answers = {key: self.parse(completion) for key, completion in sampled.items()}
        grid = [
            [answers.get(f"{prompt.key}#{g}") for g in range(len(group))]
            for prompt, group in zip(rollout.prompts, rollout.completions, strict=True)
        ]
        right = self.agreement(grid, items)  # (N, G)
        rewards = judgement.rewards + self.description_weight * right
        found = {
            "description_fraction": len(sampled) / right.numel(),
            "description_agreement": float(right.mean()),
        }
        records = tuple(
            replace(record, reward=reward, parts={**record.parts, "description": paid})
            for record, reward, paid in zip(
                judgement.records, rewards.flatten().tolist(), right.flatten().tolist(), strict=True
            )
        )
        return replace(judgement, rewards=rewards, statistics=judgement.statistics | found, records=records)

    def _blind_prompts(self, items: Sequence[Example], rollout: Rollout) -> list[Prompt]:
        """A prompt for each description, by its completion's place."""
        described = (
            (f"{prompt.key}#{g}", item.problem, parse_description(prompt.opened + completion.text))
            for item, prompt, group in zip(items, rollout.prompts, rollout.completions, strict=True)
            for g, completion in enumerate(group)
            if completion.finished
        )
        return [
            self.vlm.encode(key, self.from_description, None, question=problem, description=text)
            for key, problem, text in described
            if text is not None
        ]
