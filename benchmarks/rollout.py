"""Tokens per second of the rollout engines and of transformers' ``generate``; votes on an image; seconds of a load.

Run it alone: ``python -m benchmarks.rollout``. No completion ends before its limit, so that all sample as much.
``--model 3b`` needs CUDA. The rounds of all engines alternate; medians count.

Figures: for each model, for each label that ends in a unit, for each engine a ``Spread``. The headline keys compare the
engine that is the default of the embedded configuration with ``generate``, on the last model given.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.measure import Spread, alternate
from benchmarks.models import SHAPES, make_policy
from benchmarks.results import make_parser, parse, publish
from benchmarks.workload import ban_stops, make_images, plain_generate
from visplay.callbacks import EngineSettings, RolloutEngine, TransformersRollout, VLLMRollout
from visplay.modules import Qwen2_5_VL
from visplay.tiny import ANSWER
from visplay.types import Prompt, Sampling

logger = logging.getLogger(__name__)

GROUP, VOTES = 8, 10
SEQUENCES, LENGTHS = (8, 64), (16, 128)
ENGINE, YARDSTICK = "TransformersRollout", "generate"
KEY_LABEL, VOTES_LABEL = "64 x 128, tokens/s", f"votes, {GROUP} x {VOTES} x {LENGTHS[0]}, images/hour"

Figures = dict[str, dict[str, Spread]]


def make_prompts(policy: Qwen2_5_VL, side: int, images: int, questions: int = 1) -> list[Prompt]:
    """Prompts about random images, ``questions`` about each."""
    return [
        policy.encode(f"{i}/{j}", ANSWER, image, question=f"Where are the {j + 2} red circles?")
        for i, image in enumerate(make_images(images, side))
        for j in range(questions)
    ]


def measure(name: str, rounds: int, many: Sequence[int], directory: Path) -> Figures:
    """All figures of one model, for as many sequences at once."""
    policy = make_policy(name, directory, "cuda" if torch.cuda.is_available() else "cpu")
    side = SHAPES[name].side
    ban_stops(policy)
    vllm = VLLMRollout(EngineSettings(cache_gib=2.0, max_sequences=256))
    engines: dict[str, RolloutEngine] = {"TransformersRollout": TransformersRollout(256), "VLLMRollout": vllm}
    figures: Figures = {}
    for sequences in many:
        for tokens in LENGTHS:
            prompts = make_prompts(policy, side, sequences // GROUP)
            seconds = alternate(_samplers(policy, engines, prompts, GROUP, tokens), rounds)
            figures[f"{sequences} x {tokens}, tokens/s"] = {n: s.rate(sequences * tokens) for n, s in seconds.items()}
            logger.info("%s, %d x %d: %s", name, sequences, tokens, seconds)
    prompts = make_prompts(policy, side, 1, questions=GROUP)
    seconds = alternate(_samplers(policy, engines, prompts, VOTES, LENGTHS[0]), rounds)
    figures[VOTES_LABEL] = {n: s.rate(3600) for n, s in seconds.items()}
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


def _load_seconds(engine: VLLMRollout, policy: Qwen2_5_VL, rounds: int) -> Spread:
    def load() -> None:
        policy.version += 1
        engine.load(policy)

    return alternate({"load": load}, rounds)["load"]


def headline(figures: Figures) -> dict[str, float]:
    """How many times as fast as ``generate`` a rollout and votes are."""
    speedups = {label: row[ENGINE].median / row[YARDSTICK].median for label, row in figures.items() if YARDSTICK in row}
    return {
        "rollout_speedup_vs_generate": speedups[KEY_LABEL],
        "votes_speedup_vs_generate": speedups[VOTES_LABEL],
    }


def main() -> None:
    """Measure, print, and record where it is asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", action="append", choices=SHAPES, help="a shape; may be repeated; tiny and 20m")
    parser.add_argument("--sequences", type=int, nargs="+", default=SEQUENCES, help=f"multiples of {GROUP}")
    options = parse(parser)
    logging.basicConfig(level=logging.INFO)
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        for name in options.model or ["tiny", "20m"]:
            results[name] = measure(name, options.rounds, options.sequences, Path(directory))
    publish("rollout", {"models": results}, headline(results[name]), options)


if __name__ == "__main__":
    main()
