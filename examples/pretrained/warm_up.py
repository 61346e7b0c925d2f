r"""``python -m examples.pretrained.warm_up``: teach a language model the two forms, and no arithmetic.

The Questioner's form is shown by generated questions, the Reasoner's by answers that the model itself sampled when it
was shown a few solved questions as plain text: right or wrong, in ``\boxed{}``. No true answer is learned but those of
the few examples.
"""

from __future__ import annotations

import argparse
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW

from examples.pretrained import prepare
from examples.pretrained.arithmetic import pose_many, solve
from visplay.callbacks import TransformersRollout
from visplay.commands.export import read_role
from visplay.commands.settings.configuration import read_config
from visplay.modules import VLM, CausalLM
from visplay.types import Prompt, Sampling, derive_seed

logger = logging.getLogger(__name__)

CONFIGS = ("configs/r_zero.yaml", "examples/pretrained/r_zero.yaml")
OUT = Path("runs/smollm2-135m-warm")
_SHOTS = 10
_ANSWER_TOKENS = 5
_AT_ONCE = 100
_ANSWER = re.compile(r" *(-?\d+)\n")


@dataclass(frozen=True)
class Lesson:
    """What is to be written where.

    Args:
        prompt: The prompt.
        reply: What follows it, without its end token.
    """

    prompt: Prompt
    reply: str


def own_answers(policy: VLM, questions: Sequence[str], seed: int) -> list[str | None]:
    """Sample one answer per question, shown a few solved ones as plain text; None where it is no number.

    Args:
        policy: The model.
        questions: What is asked.
        seed: Of the examples and of the samples.
    """
    shots = pose_many(_SHOTS, np.random.default_rng(derive_seed(seed, "shots")))
    shown = "".join(f"Question: {shot} Answer: {solve(shot)}\n" for shot in shots)
    texts = [f"{shown}Question: {question} Answer:" for question in questions]
    prompts = [Prompt(str(n), tuple(policy.tokenizer.encode(text)), ()) for n, text in enumerate(texts)]
    engine, sampling = TransformersRollout(), Sampling(1, _ANSWER_TOKENS, seed=seed)
    answers: list[str | None] = []
    for start in range(0, len(prompts), _AT_ONCE):
        for (completion,) in engine.generate(policy, prompts[start : start + _AT_ONCE], sampling):
            match = _ANSWER.match(policy.decode(completion.token_ids))
            answers.append(match and match[1])
    return answers


def write_lessons(policy: VLM, questions: Sequence[str], answers: Sequence[str | None]) -> list[Lesson]:
    """One of the Questioner's and one of the Reasoner's for each question that has an answer."""
    roles = {name: read_role(read_config(CONFIGS), name) for name in ("questioner", "reasoner")}
    lessons = []
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        if answer is not None:
            asked = policy.encode(f"asks/{number}", roles["questioner"].template, None)
            answered = policy.encode(f"answers/{number}", roles["reasoner"].template, None, question=question)
            lessons.append(Lesson(asked, f"<question>{question}</question> \\boxed{{{answer}}}"))
            lessons.append(Lesson(answered, f"\\boxed{{{answer}}}"))
    return lessons


def teach(policy: VLM, lessons: Sequence[Lesson], learning_rate: float, batch: int, seed: int) -> None:
    """One epoch of supervised learning, each reply and its end token.

    Args:
        policy: What learns.
        lessons: In any order; they are shuffled.
        learning_rate: Peak; it falls to zero.
        batch: Lessons per step.
        seed: Of the order.
    """
    order = np.random.default_rng(derive_seed(seed, "order")).permutation(len(lessons))
    optimizer = AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    steps = -(-len(lessons) // batch)
    for step in range(steps):
        chosen = [lessons[index] for index in order[step * batch : (step + 1) * batch]]
        token_ids, mask = _pad(policy, [lesson.reply for lesson in chosen])
        logps, _ = policy.logps([lesson.prompt for lesson in chosen], token_ids, mask)
        loss = -logps.sum() / mask.sum()
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        logger.info("step %d of %d: loss %.2f", step + 1, steps, loss.item())


def _pad(policy: VLM, replies: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask of the replies, (N, 1, T)."""
    end = policy.stop_token_ids[0]
    rows = [torch.tensor([*policy.tokenizer.encode(each, add_special_tokens=False), end]) for each in replies]
    ids, mask = (pad_sequence(each, batch_first=True) for each in (rows, [torch.ones_like(row) for row in rows]))
    return ids[:, None], mask[:, None].bool()


def main() -> None:
    """Warm a model up and write it."""
    parser = argparse.ArgumentParser(prog="python -m examples.pretrained.warm_up", description=__doc__)
    parser.add_argument("--model", default=str(prepare.OUT), help="the directory (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="the directory to write (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=400, help="(default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="lessons per step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.out.exists():
        parser.error(f"--out: {str(arguments.out)!r} is there already; delete it, or give another one")
    began = time.monotonic()
    policy = CausalLM(arguments.model)
    policy.load()
    rng = np.random.default_rng(derive_seed(arguments.seed, "warm up"))
    questions = pose_many(arguments.questions, rng)
    answers = own_answers(policy.eval(), questions, arguments.seed)
    numbers = sum(answer is not None for answer in answers)
    right = sum(answer == solve(question) for question, answer in zip(questions, answers, strict=True))
    logger.info("%d of %d answers are numbers, %d are right", numbers, len(questions), right)
    teach(
        policy.train(),
        write_lessons(policy, questions, answers),
        arguments.learning_rate,
        arguments.batch,
        arguments.seed,
    )
    policy.save(arguments.out)
    logger.info("%s: %.0f s", arguments.out, time.monotonic() - began)


if __name__ == "__main__":
    main()
