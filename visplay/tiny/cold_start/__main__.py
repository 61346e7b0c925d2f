"""Train the embedded base model: ``python -m visplay.tiny.cold_start --out visplay/tiny/base --seed 0``.

Stages: the vision tower names cells; the language model describes them, then searches them; both roles, truthfully; and
both roles with careless answers, which leaves head-room for self-play. All scenes are drawn afresh, none of them holds
a held-out combination.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from visplay.tiny import BASE
from visplay.tiny.cold_start.accuracy import Sampler, measure, write_report
from visplay.tiny.cold_start.batches import Packer
from visplay.tiny.cold_start.curriculum import Lesson, perceive, relax, search, search_simply, study
from visplay.tiny.cold_start.model import build_model, build_processor, save
from visplay.tiny.cold_start.naming import Naming, match_scale
from visplay.tiny.cold_start.tokenizer import build_tokenizer
from visplay.tiny.world import Scene, render, sample_scene
from visplay.types import derive_seed

_log = logging.getLogger(__name__)
_NAMING_WEIGHT = 0.3
_WARM_UP_STEPS = 20
_LOG_EVERY = 20


@dataclass(frozen=True)
class Stage:
    """One stage of the cold start.

    Args:
        name: For the log, and part of the seed of the stage's scenes.
        steps: Optimizer steps.
        images: Images in a step.
        learning_rate: Peak; it warms up for 20 steps and falls to a twentieth over the last half.
        lesson: What is taught; None trains the vision tower alone.
    """

    name: str
    steps: int
    images: int
    learning_rate: float
    lesson: Lesson | None = None


STAGES = (
    Stage("see", 160, 64, 2e-3),
    Stage("perceive", 200, 16, 2e-3, perceive),
    Stage("search simply", 150, 16, 2e-3, search_simply),
    Stage("search", 300, 16, 2e-3, search),
    Stage("study", 350, 32, 1.5e-3, study),
    Stage("relax", 160, 32, 1.2e-3, relax),
)


class ColdStart:
    """The model, trained stage by stage.

    Args:
        seed: Seed of the weights, of the tokenizer's texts and of every scene.
    """

    def __init__(self, seed: int) -> None:
        tokenizer = build_tokenizer(seed)
        self.model = build_model(tokenizer, seed)
        self.processor = build_processor(tokenizer)
        self._packer = Packer(self.model, self.processor)
        self._naming = Naming(self.model.get_input_embeddings(), tokenizer)
        self._image = self.model.config.image_token_id
        self._seed = seed

    def run(self, stages: Iterable[Stage] = STAGES) -> None:
        """Train through the stages."""
        for stage in stages:
            rng = np.random.default_rng(derive_seed(self._seed, "cold start", stage.name))
            if stage.lesson is None:
                self._train(stage, partial(self._see, stage, rng))
                self._match_scale(rng)
            else:
                self._train(stage, partial(self._teach, stage, stage.lesson, rng))

    def _train(self, stage: Stage, loss_of_step: Callable[[], Tensor]) -> None:
        parameters = list(self.model.parameters())
        optimizer = AdamW(parameters, lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.02)
        began, losses = time.monotonic(), []
        for step in range(stage.steps):
            optimizer.param_groups[0]["lr"] = stage.learning_rate * _schedule(step, stage.steps)
            loss = loss_of_step()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
            if step % _LOG_EVERY == _LOG_EVERY - 1:
                mean, seconds = np.mean(losses[-_LOG_EVERY:]), time.monotonic() - began
                _log.info("%s: step %d, loss %.3f, %.0f s", stage.name, step + 1, mean, seconds)

    def _look(self, images: int, rng: np.random.Generator) -> tuple[list[Scene], Tensor]:
        """Fresh scenes and the merged tokens of their images, (16 B, H)."""
        scenes = [sample_scene(rng, held_out=False) for _ in range(images)]
        pixels = self._packer.images([render(scene, rng) for scene in scenes])
        tokens = self.model.model.visual(pixels["pixel_values"], pixels["image_grid_thw"]).pooler_output
        return scenes, tokens

    def _see(self, stage: Stage, rng: np.random.Generator) -> Tensor:
        scenes, tokens = self._look(stage.images, rng)
        return self._naming.loss(tokens, scenes)

    def _match_scale(self, rng: np.random.Generator) -> None:
        _, tokens = self._look(32, rng)
        match_scale(self.model.model.visual.merger.mlp[-1], tokens, self.model.get_input_embeddings().weight)

    def _teach(self, stage: Stage, lesson: Lesson, rng: np.random.Generator) -> Tensor:
        """Loss of the replies, and of naming in the background: without it the tower forgets what it was not asked."""
        scenes, tokens = self._look(stage.images, rng)
        batch = self._packer.pack([lesson(scene, rng) for scene in scenes])
        inputs = self.model.get_input_embeddings()(batch.ids)
        inputs = inputs.masked_scatter((batch.ids == self._image)[:, :, None], tokens)
        hidden = self.model.model.language_model(
            inputs_embeds=inputs, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
        ).last_hidden_state
        learned = batch.targets >= 0
        loss = F.cross_entropy(self.model.lm_head(hidden[learned]), batch.targets[learned])
        return loss + _NAMING_WEIGHT * self._naming.loss(tokens, scenes)


def _schedule(step: int, steps: int) -> float:
    """Fraction of the peak learning rate: linear warm-up, a plateau, and a fall to a twentieth over the last half."""
    return min(1.0, (step + 1) / _WARM_UP_STEPS, 0.05 + 1.9 * (1 - step / steps))


def main() -> None:
    """Train and write the base model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=BASE, help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    began = time.monotonic()
    cold_start = ColdStart(arguments.seed)
    for stage in STAGES:
        cold_start.run([stage])
        save(arguments.out, cold_start.model, cold_start.processor)
    seconds = time.monotonic() - began
    measured = measure(Sampler(cold_start.model, cold_start.processor))
    (arguments.out / "README.md").write_text(write_report(arguments.seed, seconds, measured))
    _log.info("trained in %.0f s; %s", seconds, measured)


if __name__ == "__main__":
    main()
