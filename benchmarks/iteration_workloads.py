"""What ``benchmarks.whole_iteration`` measures on: configurations of ``visplay fit``, each of one iteration.

``default`` is ``configs/tiny.yaml``. ``fixed`` is a model of random weights, none of whose completions ends before its
limit of T tokens; as nothing that it says could be parsed, every completion stands for a question or an answer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback, LightningModule, Trainer

from benchmarks.models import make_policy
from benchmarks.workload import Size, ban_stops, make_images
from visplay.cli import instantiate
from visplay.data.generated import write_examples
from visplay.modules import Questioner, Qwen2_5_VL, Reasoner
from visplay.modules.policy.vlm import VLM
from visplay.types import Completion, Example, Question

CONFIG = Path(__file__).parents[1] / "configs" / "tiny.yaml"


@dataclass(frozen=True)
class Amounts:
    """How much is done in ``fixed``.

    Args:
        size: N prompts of a step, G, T, and the side of an image.
        steps: Of each role.
        images: Asked about in curation, G questions each.
        votes: K.
        validated: Questions of the benchmark, each answered greedily and K times.
    """

    size: Size
    steps: int = 2
    images: int = 1
    votes: int = 10
    validated: int = 2

    @property
    def asked_images(self) -> int:
        """Images asked about in an iteration."""
        return self.steps * self.size.prompts + self.images


class FixedLength(Qwen2_5_VL):
    """A policy whose completions have as many tokens as they may."""

    def load(self, shares_with: VLM | None = None, processor_path: str | None = None, *, weights: bool = True) -> None:
        """Load, and ban what ends a completion, once."""
        if self.model is None:
            super().load(shares_with, processor_path, weights=weights)
            ban_stops(self)


class FormalQuestioner(Questioner):
    """Takes every completion for a question, and counts it."""

    @cached_property
    def work(self) -> Counter[str]:
        """Completions and tokens so far."""
        return Counter()

    def parse(self, completion: Completion, opened: str = "") -> Question:
        """One of eight questions, all as long."""
        self.work.update(completions=1, tokens=len(completion.token_ids))
        return Question(f"Where are the {completion.token_ids[0] % 8 + 2} red circles?", "numerical")


class FormalReasoner(Reasoner):
    """Takes every completion for an answer, and counts it."""

    @cached_property
    def work(self) -> Counter[str]:
        """Completions and tokens so far."""
        return Counter()

    def parse(self, completion: Completion) -> str:
        """One of three answers."""
        self.work.update(completions=1, tokens=len(completion.token_ids))
        return str(completion.token_ids[0] % 3)


class ValidationTimer(Callback):
    """Adds up the seconds of validations.

    Attributes:
        began: When the first one did, in seconds of the clock on the wall and of the processor.
        seconds: Of all, on the wall.
    """

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.seconds = 0.0
        self._since = 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self.began = self.began or self.now()
        self._since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End to count."""
        self.seconds += time.perf_counter() - self._since

    @staticmethod
    def now() -> tuple[float, float]:
        """Seconds of both clocks."""
        return time.perf_counter(), time.process_time()


def write_fixed(name: str, amounts: Amounts, directory: Path) -> Path:
    """Write model, images, benchmark and configuration of ``fixed``.

    Args:
        name: Of the model, one of ``SHAPES``.
        amounts: How much is done.
        directory: Where they are written.

    Returns:
        Path of the configuration.
    """
    size = amounts.size
    images, heldout = directory / "images", directory / "heldout.parquet"
    images.mkdir()
    for number, image in enumerate(make_images(amounts.asked_images, size.side)):
        image.save(images / f"{number}.png")
    pictured = enumerate(make_images(amounts.validated, size.side))
    write_examples(heldout, [Example(str(n), image, f"How many circles are {n}?", "1") for n, image in pictured])
    grpo = {
        "steps": amounts.steps,
        "prompts_per_step": size.prompts,
        "prompts_per_update": None,
        "group_size": size.group,
        "max_new_tokens": size.tokens,
        "kl_weight": 0.0,
        "mismatch": {"stop": False},
    }
    roles = {
        "questioner": _made("FormalQuestioner", template={"system": None, "user": "Ask."}, grpo=grpo),
        "reasoner": _made(
            "FormalReasoner",
            template={"system": None, "user": "{question}"},
            voting={"votes": amounts.votes, "ties": "draw"},
            grpo=grpo,
        ),
    }
    vlm = _made("FixedLength", path=make_policy(name, directory, "cpu").path, max_context_tokens=1024)
    benchmark = {"name": "heldout", "path": str(heldout), "votes": amounts.votes, "columns": {"key": "key"}}
    settings = {
        "model": {"class_path": "visplay.modules.VisPlay", "init_args": {"seed": 0, "vlm": vlm, **roles}},
        "data": {
            "class_path": "visplay.data.module.SelfPlayData",
            "init_args": {"images": str(images), "benchmarks": {"sources": [benchmark]}},
        },
        "rollout": {"class_path": "visplay.callbacks.TransformersRollout", "init_args": {"max_sequences": 640}},
        "self_play": {
            "curation": {"images": amounts.images, "questions_per_image": size.group, "low": 0.0, "high": 1.0}
        },
        "trainer": {"accelerator": "cpu", "deterministic": True, "callbacks": [_made("ValidationTimer")]},
    }
    path = directory / "fixed.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def write_default(directory: Path) -> Path:
    """Write the configuration of ``default``, with the images and the questions of its world."""
    settings = yaml.safe_load(CONFIG.read_text())
    settings["data"]["init_args"]["cache"] = str(directory / "tiny-images")
    settings["trainer"]["callbacks"] = [_made("ValidationTimer")]
    path = directory / "default.yaml"
    path.write_text(yaml.safe_dump(settings))
    instantiate(arguments(path, directory, seed=0)).data.prepare_data()
    return path


def arguments(config: Path, directory: Path, seed: int) -> list[str]:
    """Of ``visplay fit`` for one iteration that writes into a directory."""
    settings: Mapping[str, Any] = {
        "self_play.iterations": 1,
        "model.init_args.seed": seed,
        "trainer.default_root_dir": directory,
    }
    return ["--config", str(config), *(f"--{name}={value}" for name, value in settings.items())]


def _made(name: str, **settings: Any) -> dict[str, Any]:
    return {"class_path": f"{__name__}.{name}", "init_args": settings}
