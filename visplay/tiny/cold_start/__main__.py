"""Train a base model: ``python -m visplay.tiny.cold_start --world digits --seed 0 --out DIR``.

Stages: the vision tower names cells; the language model describes them, then searches them; both roles, truthfully; and
both roles with careless answers, which leaves head-room for self-play. All scenes are drawn afresh, none of them holds
a held-out combination. Bases that are careless otherwise share all stages but the last: ``--keep DIR`` writes the model
before it, and ``--start DIR`` goes on from there.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from visplay.tiny.cold_start.accuracy import Sampler, measure, write_report
from visplay.tiny.cold_start.batches import Packer
from visplay.tiny.cold_start.curriculum import (
    Carelessness,
    Lesson,
    describe,
    perceive,
    relax,
    search,
    search_simply,
    study,
)
from visplay.tiny.cold_start.model import build_model, build_processor, save
from visplay.tiny.cold_start.naming import Naming, match_scale
from visplay.tiny.cold_start.tokenizer import build_tokenizer
from visplay.tiny.digits import DigitWorld
from visplay.tiny.shapes import SHAPES
from visplay.tiny.world import World
from visplay.types import derive_seed

_log = logging.getLogger(__name__)
_NAMING_WEIGHT = 0.3
_WARM_UP_STEPS = 20
_LOG_EVERY = 20
_WORLDS: dict[str, World] = {world.name: world for world in (SHAPES, DigitWorld())}


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
DESCRIBE = Stage("describe", 320, 32, 1.2e-3, describe)
"""The last stage of a Describer's base, in place of the last one."""


class ColdStart:
    """The model, trained stage by stage.

    Args:
        seed: Seed of the weights, of the tokenizer's texts and of every scene.
        world: The world.
        start: Directory of a model to go on with; None builds one.
    """

    def __init__(self, seed: int, world: World = SHAPES, start: Path | None = None) -> None:
        if start is None:
            tokenizer = build_tokenizer(seed, world)
            self.model, self.processor = build_model(tokenizer, seed), build_processor(tokenizer)
        else:
            self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(start).train()
            self.processor = Qwen2_5_VLProcessor.from_pretrained(start)
        self._packer = Packer(self.model, self.processor)
        self._naming = Naming(world, self.model.get_input_embeddings(), self.processor.tokenizer)
        self._image = self.model.config.image_token_id
        self._seed = seed
        self._world = world

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

    def _look(self, images: int, rng: np.random.Generator) -> tuple[list[Any], Tensor]:
        """Fresh scenes and the merged tokens of their images, (16 B, H)."""
        scenes = [self._world.sample_scene(rng, "training") for _ in range(images)]
        pixels = self._packer.images([self._world.render(scene, rng) for scene in scenes])
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
        batch = self._packer.pack([lesson(self._world, scene, rng) for scene in scenes])
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
    """Train and write a base model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--world", choices=_WORLDS, default="shapes")
    parser.add_argument("--out", type=Path, help="directory to write; the world's base if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="directory for the model before the last stage")
    parser.add_argument("--start", type=Path, help="such a directory: train the last stage alone")
    parser.add_argument("--listed-fraction", type=float, default=Carelessness.listed_fraction)
    parser.add_argument("--careless-fraction", type=float, default=Carelessness.careless_fraction)
    parser.add_argument("--systematic", action="store_true", help="a guess is the same for all questions of a family")
    parser.add_argument(
        "--describes", action="store_true", help="it describes an image before it answers: a Describer's"
    )
    arguments = parser.parse_args()
    if arguments.start and not (arguments.start / "config.json").is_file():
        parser.error(f"--start: {arguments.start} holds no model; give a directory that --keep wrote")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    world, began = _WORLDS[arguments.world], time.monotonic()
    out = arguments.out or world.base
    carelessness = Carelessness(arguments.listed_fraction, arguments.careless_fraction, arguments.systematic)
    cold_start = ColdStart(arguments.seed, world, arguments.start)
    if arguments.start is None:
        cold_start.run(STAGES[:-1])
        if arguments.keep:
            save(arguments.keep, cold_start.model, cold_start.processor)
    last, lesson = (DESCRIBE, describe) if arguments.describes else (STAGES[-1], relax)
    cold_start.run([replace(last, lesson=partial(lesson, carelessness=carelessness))])
    save(out, cold_start.model, cold_start.processor)
    seconds = time.monotonic() - began
    measured = measure(Sampler(cold_start.model, cold_start.processor), world)
    command = shlex.join(["python", "-m", "visplay.tiny.cold_start", *sys.argv[1:]])
    (out / "README.md").write_text(write_report(world, carelessness, command, seconds, measured))
    _log.info("trained in %.0f s; %s", seconds, measured)


if __name__ == "__main__":
    main()
