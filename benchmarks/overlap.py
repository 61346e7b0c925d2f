"""What it saves to do two things at a time: a rollout and an update, or the stages of a curation.

``python -m benchmarks.overlap ahead`` takes steps on one core, with a server of vLLM on another, with ``staleness`` 0
and 1 in turn. ``python -m benchmarks.overlap curation`` has the seconds that each stage of a curation takes for an
image: no stage can hide more of another than that one takes. docs/scaling.md has what was measured.
"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import ROUNDS, Spread, alternate
from benchmarks.models import make_policy
from benchmarks.tables import number
from benchmarks.workload import ban_stops, make_images
from visplay.callbacks import TransformersRollout
from visplay.callbacks.engines.vllm_server import VLLMServerRollout
from visplay.clock import Clock
from visplay.data.draws import Draws
from visplay.data.generated import PngEncoder, write_examples
from visplay.data.images.image_folder import ImageFolder
from visplay.functional import token_truncated_weights
from visplay.modules import GRPOConfig, Questioner, Qwen2_5_VL, Reasoner, Voting
from visplay.modules.learner.sampling_ahead import NextStep
from visplay.tiny import ANSWER, ASK
from visplay.types import Engine, Example, Judgement, Question, Rollout

PER_IMAGE = 8
KEPT = 4
PNG = "of that, PNG encoded"
SERVER = [
    *("--enforce-eager", "--block-size", "32", "--dtype", "float32", "--kv-cache-memory-bytes", "1073741824"),
    *("--distributed-executor-backend", "uni"),
]
ENVIRONMENT = {"TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


class LikesEvenTokens(Reasoner):
    """Paid for the fraction of even token ids, so that weights without any sense have something to learn."""

    def judge(self, items: list[Example], rollout: Rollout, seed: int) -> Judgement:
        """Reward every completion."""
        even = [[[t % 2 == 0 for t in c.token_ids] for c in group] for group in rollout.completions]
        return Judgement(torch.tensor([[sum(tokens) / len(tokens) for tokens in group] for group in even]), {}, ())


@contextmanager
def serving(engine: VLLMServerRollout, policy: Qwen2_5_VL, log: Path) -> Iterator[None]:
    """Have a server fit for the policy at the engine's address; it has the cores that this process has now."""
    words = shlex.split(engine.start_command(policy))
    variables = dict(word.split("=", 1) for word in words[:2])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", policy.path, *words[5:], *SERVER]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=os.environ | ENVIRONMENT | variables, stdout=output, stderr=output)
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
            try:
                urllib.request.urlopen(f"{engine.urls[0]}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure_ahead(options: argparse.Namespace, directory: Path) -> dict[int, dict[str, Spread]]:
    """Seconds of steps and of what the trainer does in them, by staleness; the first of a phase does not count."""
    policy = make_policy(options.model, directory, "cpu").train()
    ban_stops(policy)
    port, (trainer, *elsewhere) = free_port(), sorted(os.sched_getaffinity(0))
    engine = VLLMServerRollout(f"http://127.0.0.1:{port}")
    os.sched_setaffinity(0, elsewhere)
    with serving(engine, policy, directory / "log"):
        os.sched_setaffinity(0, [trainer])
        torch.set_num_threads(1)
        seconds: dict[int, dict[str, list[float]]] = {0: {}, 1: {}}
        for _ in range(options.rounds):
            for staleness, found in seconds.items():
                for each in take_steps(policy, engine, staleness, options):
                    for name, value in each.items():
                        found.setdefault(name, []).append(value)
        engine.close()
    return {staleness: {n: Spread.of(v) for n, v in found.items()} for staleness, found in seconds.items()}


def take_steps(
    policy: Qwen2_5_VL, engine: Engine, staleness: int, options: argparse.Namespace
) -> list[dict[str, float]]:
    """Seconds of the steps of a phase after its first."""
    config = GRPOConfig(
        prompts_per_step=options.prompts,
        prompts_per_update=None,
        group_size=options.group,
        max_new_tokens=options.tokens,
        kl_weight=0.0,
        correction=token_truncated_weights,
        staleness=1 if staleness else 0,
    )
    role, clock = LikesEvenTokens(config, ANSWER), Clock()
    role.adopt(policy, clock)
    role.attach_engine(engine)
    optimizer = role.make_optimizer()
    role.learner.begin_phase(policy, optimizer)
    images = make_images(options.prompts, options.side)
    items = [Example(str(i), image, "How many circles?", "3") for i, image in enumerate(images)]
    found = []
    for seed in range(1 + options.steps):
        start, _ = time.perf_counter(), clock.drain()
        role.learner.step(
            role,
            items,
            optimizer,
            lambda loss: loss.backward(),
            seed,
            next_step=lambda seed=seed: NextStep(items, seed + 1),
        )
        if seed:
            found.append(clock.drain() | {"step": time.perf_counter() - start})
    role.learner.end_phase(optimizer)
    return found


def measure_curation(options: argparse.Namespace, directory: Path) -> dict[str, Spread]:
    """Seconds for an image of each stage of a curation."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    policy = make_policy(options.model, directory, "cpu")
    ban_stops(policy)
    config = GRPOConfig(max_new_tokens=options.tokens)
    questioner, reasoner = Questioner(config, ASK), Reasoner(config, ANSWER, Voting(votes=10))
    for role in (questioner, reasoner):
        role.adopt(policy, Clock())
        role.attach_engine(TransformersRollout())
    (directory / "images").mkdir()
    write_photos(directory / "images", options.prompts, options.pixels)
    folder = ImageFolder(directory / "images")
    images = Draws(folder, 0).draw(options.prompts)
    asked = [[Question(f"How many circles are left of line {n}?", "numerical") for n in range(PER_IMAGE)]] * len(images)
    kept = [
        Example(f"{i.key}/{n}", i.image, q.text, "3", image_id=i.key)
        for i, questions in zip(images, asked, strict=True)
        for n, q in enumerate(questions[:KEPT])
    ]
    seconds = alternate(
        {
            "images decoded": lambda: Draws(folder, 0).draw(len(images)),
            "prompts written": lambda: (
                [questioner.why_not_asked(image) for image in images],
                questioner.prompts(images),
                reasoner.prompts([Example(str(n), i.image, asked[0][0].text, "") for i in images for n in range(8)]),
            ),
            "questions": lambda: questioner.rollout(images, PER_IMAGE, 0),
            "votes": lambda: reasoner.vote_on(images, asked, 0),
            "data set written": lambda: write_examples(directory / "data.parquet", kept),
            PNG: lambda: [PngEncoder()(image.image) for image in images],
        },
        options.rounds,
    )
    return {name: spread.scaled(1 / len(images)) for name, spread in seconds.items()}


def write_photos(directory: Path, count: int, side: int) -> None:
    """JPEG files that are about as hard to encode as photographs: smooth, with a camera's noise."""
    draw = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(draw.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
        noisy = np.clip(smooth + draw.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(directory / f"{index}.jpg", quality=90)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ahead", "curation"])
    parser.add_argument("--model", default="8m", help="a shape of benchmarks.models")
    parser.add_argument("--prompts", type=int, default=8, help="of a step, or images of a curation")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="of a completion")
    parser.add_argument("--side", type=int, default=112, help="of an image of a step, in pixels")
    parser.add_argument("--pixels", type=int, default=1024, help="of the side of an image of a curation")
    parser.add_argument("--steps", type=int, default=3, help="of a phase, after its first")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="visplay-overlap-") as name:
        if options.what == "ahead":
            for staleness, found in measure_ahead(options, Path(name)).items():
                print(f"staleness {staleness}:", ", ".join(f"{n} {number(s._asdict())} s" for n, s in found.items()))
        else:
            found = measure_curation(options, Path(name))
            whole = sum(spread.median for stage, spread in found.items() if stage != PNG)
            for stage, spread in found.items():
                print(f"{stage}: {number(spread._asdict())} s an image, {spread.median / whole:.1%} of all")


if __name__ == "__main__":
    main()
