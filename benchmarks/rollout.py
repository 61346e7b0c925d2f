"""Tokens per second of the rollout engines and of transformers' ``generate``; votes on a picture; seconds of a load.

Run it alone: ``python -m benchmarks.rollout``. No completion ends before its limit, so that all sample as much.
``--model 3b`` needs CUDA. The rounds of all engines alternate; medians count.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.generate import plain_generate
from benchmarks.models import SHAPES, make_policy
from visplay.callbacks import EngineSettings, RolloutEngine, TransformersRollout, VLLMRollout
from visplay.modules import Qwen2_5_VL
from visplay.tiny import ANSWER
from visplay.types import Prompt, Sampling

logger = logging.getLogger(__name__)

GROUP, VOTES = 8, 10
SEQUENCES, LENGTHS = (8, 64, 256), (16, 128)


def make_prompts(policy: Qwen2_5_VL, side: int, pictures: int, questions: int = 1) -> list[Prompt]:
    """Prompts about random pictures, ``questions`` about each."""
    noise = np.random.default_rng(pictures)
    images = [Image.fromarray(noise.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(pictures)]
    return [
        policy.encode(f"{i}/{j}", ANSWER, image, question=f"Where are the {j + 2} red circles?")
        for i, image in enumerate(images)
        for j in range(questions)
    ]


def alternate(parts: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each part; a round that does not count warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds + 1):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def measure(name: str, rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """All figures of one model."""
    policy = make_policy(name, folder, "cuda" if torch.cuda.is_available() else "cpu")
    side = SHAPES[name].side
    never = torch.cat([policy.banned_token_ids, torch.tensor(policy.stop_token_ids, device=policy.device)])
    policy.banned_token_ids = never  # no completion ends by itself
    vllm = VLLMRollout(EngineSettings(cache_gib=2.0, max_sequences=256))
    engines: dict[str, RolloutEngine] = {"TransformersRollout": TransformersRollout(256), "VLLMRollout": vllm}
    figures: dict[str, dict[str, float]] = {}
    for sequences in SEQUENCES:
        for tokens in LENGTHS:
            prompts = make_prompts(policy, side, sequences // GROUP)
            seconds = alternate(_samplers(policy, engines, prompts, GROUP, tokens), rounds)
            figures[f"{sequences} x {tokens}, tokens/s"] = {n: sequences * tokens / s for n, s in seconds.items()}
            logger.info("%s, %d x %d: %s", name, sequences, tokens, seconds)
    prompts = make_prompts(policy, side, 1, questions=GROUP)
    seconds = alternate(_samplers(policy, engines, prompts, VOTES, LENGTHS[0]), rounds)
    figures[f"votes, {GROUP} x {VOTES} x {LENGTHS[0]}, images/hour"] = {n: 3600 / s for n, s in seconds.items()}
    figures["load, seconds"] = {"VLLMRollout": _load_seconds(vllm, policy, rounds)}
    vllm.verify = False
    figures["load without checksums, seconds"] = {"VLLMRollout": _load_seconds(vllm, policy, rounds)}
    vllm.close()
    return figures


def _samplers(
    policy: Qwen2_5_VL, engines: dict[str, RolloutEngine], prompts: Sequence[Prompt], n: int, tokens: int
) -> dict[str, Callable[[], object]]:
    sampling = Sampling(n, tokens)
    parts: dict[str, Callable[[], object]] = {
        name: lambda engine=engine: engine.generate(policy, prompts, sampling) for name, engine in engines.items()
    }
    return parts | {"generate": lambda: plain_generate(policy, prompts, n, tokens, at_least=tokens)}


def _load_seconds(engine: VLLMRollout, policy: Qwen2_5_VL, rounds: int) -> float:
    def load() -> None:
        policy.version += 1
        engine.load(policy)

    return alternate({"load": load}, rounds)["load"]


def show(name: str, figures: dict[str, dict[str, float]], rounds: int) -> None:
    """Print a table."""
    columns = ["TransformersRollout", "VLLMRollout", "generate"]
    table = Table("", *columns, title=f"{name}: sequences x tokens, median of {rounds}")
    for label, row in figures.items():
        digits = 3 if "seconds" in label else 0
        table.add_row(label, *(f"{row[column]:,.{digits}f}" if column in row else "" for column in columns))
    Console().print(table)


def main() -> None:
    """Measure, print, and write where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=SHAPES, help="a shape; may be repeated; tiny and 20m")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one more warms up")
    parser.add_argument("--write", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.model or ["tiny", "20m"]:
            results[name] = measure(name, options.rounds, Path(folder))
            show(name, results[name], options.rounds)
    if options.write:
        options.write.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
