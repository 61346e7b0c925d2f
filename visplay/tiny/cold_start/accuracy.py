"""How good a model of a small world is: accuracy of single answers and of the vote, and the Questioner's validity.

A plain measurement for the cold start's own report; runs are evaluated by the framework.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from PIL.Image import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from visplay.functional.parsing import parse_boxed, parse_question
from visplay.prompts import encode_prompt
from visplay.tiny import ANSWER, ASK, QUESTION_KINDS
from visplay.tiny.cold_start.batches import expand_image
from visplay.tiny.cold_start.curriculum import Carelessness
from visplay.tiny.shapes import SHAPES
from visplay.tiny.splits import compositional, hallucination, heldout
from visplay.tiny.world import World
from visplay.types import Example

VOTES = 10
_CHUNK = 64
_MAX_NEW_TOKENS = 96
_REPORT = """\
# Base model of a small world

A Qwen2.5-VL of 1.3 million parameters, trained on images of {summary} by

    {command}

which took {seconds:.0f} s on one thread. The last stage made it careless on purpose: {listed:.0%} of the answers it was
shown list the cells that matter first and are true; the others answer at once, and {careless:.0%} of those are
{guesses}.

Accuracy of greedy answers, of single answers sampled at T = 1, and of the majority of {votes} of them:

| split | greedy | sampled | majority | fraction that lists first |
|---|---|---|---|---|
{rows}

Of its sampled questions {valid:.1%} have the required format and {in_grammar:.1%} are of the world's grammar.
"""


class Sampler:
    """Samples replies, with transformers' own ``generate``.

    Args:
        model: A model of a small world.
        processor: Its processor.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor) -> None:
        self._model, self._processor = model.eval(), processor
        self.tokenizer = processor.tokenizer

    def reply(
        self, prompts: Sequence[Sequence[int]], images: Sequence[Image], *, n: int, seed: int | None
    ) -> list[list[str]]:
        """Sample ``n`` replies per prompt at T = 1, or one greedy reply where ``seed`` is None.

        Args:
            prompts: Token ids with one placeholder each.
            images: The image of each prompt, of a small world.
            n: Replies per prompt.
            seed: Seed of the samples; torch's global generator is left as it was.
        """
        replies: list[list[str]] = []
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed or 0)
            for start in range(0, len(prompts), _CHUNK):
                chunk = slice(start, start + _CHUNK)
                replies += self._reply_chunk(prompts[chunk], images[chunk], n, sample=seed is not None)
        return replies

    def _reply_chunk(
        self, prompts: Sequence[Sequence[int]], images: Sequence[Image], n: int, *, sample: bool
    ) -> list[list[str]]:
        tokenizer = self._processor.tokenizer
        placeholder = self._processor.image_token_id
        rows = [expand_image(ids, placeholder) for ids in prompts]
        width = max(map(len, rows))
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        replies = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=(ids == placeholder).int(),
            **self._processor.image_processor(images=list(images), return_tensors="pt"),
            **({"do_sample": True, "top_k": 0} if sample else {"do_sample": False}),
            num_return_sequences=n,
            max_new_tokens=_MAX_NEW_TOKENS,
            suppress_tokens=[placeholder, self._processor.video_token_id],
        )
        texts = tokenizer.batch_decode(replies[:, width:], skip_special_tokens=True)
        return [texts[i : i + n] for i in range(0, len(texts), n)]


def measure_answers(sampler: Sampler, examples: Sequence[Example], seed: int = 0) -> dict[str, float]:
    """Accuracy of greedy answers, of single sampled answers and of the majority of ten; and how often it lists."""
    tokenizer = sampler.tokenizer
    prompts = [encode_prompt(tokenizer, ANSWER, question=example.problem) for example in examples]
    images = [image for example in examples for image in example.images]
    truths = [example.answer for example in examples]
    greedy = [parse_boxed(group[0]) for group in sampler.reply(prompts, images, n=1, seed=None)]
    replies = sampler.reply(prompts, images, n=VOTES, seed=seed)
    voted = [_majority([parse_boxed(text) for text in group]) for group in replies]
    single = [parse_boxed(text) == truth for group, truth in zip(replies, truths, strict=True) for text in group]
    return {
        "greedy": _fraction([answer == truth for answer, truth in zip(greedy, truths, strict=True)]),
        "sampled": _fraction(single),
        "majority": _fraction([answer == truth for answer, truth in zip(voted, truths, strict=True)]),
        "listed": _fraction(["<think>" in text for group in replies for text in group]),
    }


def measure_questions(
    sampler: Sampler, images: Sequence[Image], seed: int = 0, world: World = SHAPES
) -> dict[str, float]:
    """Fraction of sampled questions in the required format, and of those that one of the families has."""
    prompt = encode_prompt(sampler.tokenizer, ASK)
    texts = [group[0] for group in sampler.reply([prompt] * len(images), images, n=1, seed=seed)]
    questions = [parse_question(text, QUESTION_KINDS, ("type", "question", "answer")) for text in texts]
    return {
        "valid": _fraction([question is not None for question in questions]),
        "in_grammar": _fraction(
            [question is not None and world.family_of(question.text) is not None for question in questions]
        ),
    }


def measure(sampler: Sampler, world: World) -> dict[str, dict[str, float]]:
    """All that the base's README states, by split."""
    splits = (heldout, compositional, hallucination)
    measured = {split.__name__: measure_answers(sampler, split(world=world)) for split in splits}
    images = [image for example in heldout(world=world) for image in example.images]
    return measured | {"questions": measure_questions(sampler, images, world=world)}


def write_report(
    world: World,
    carelessness: Carelessness,
    command: str,
    seconds: float,
    measured: Mapping[str, Mapping[str, float]],
) -> str:
    """The README of a base model, in Markdown.

    Args:
        world: The world.
        carelessness: What the last stage taught.
        command: What made it.
        seconds: What the training took.
        measured: What ``measure`` returned.
    """
    columns = ("greedy", "sampled", "majority", "listed")
    rows = [
        f"| {name} | {' | '.join(f'{values[key]:.3f}' for key in columns)} |"
        for name, values in measured.items()
        if name != "questions"
    ]
    return _REPORT.format(
        summary=world.summary,
        command=command,
        seconds=seconds,
        listed=carelessness.listed_fraction,
        careless=carelessness.careless_fraction,
        guesses="the same guess for all questions of a family" if carelessness.systematic else "random",
        votes=VOTES,
        rows="\n".join(rows),
        **measured["questions"],
    )


def _majority(answers: Sequence[str | None]) -> str | None:
    counts = Counter(answer for answer in answers if answer is not None)
    return min(counts, key=lambda answer: (-counts[answer], len(answer), answer)) if counts else None


def _fraction(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)
