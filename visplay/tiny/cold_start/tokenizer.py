"""A byte-pair tokenizer of a small world, with the control tokens and the chat format of Qwen2.5-VL."""

from __future__ import annotations

import json

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from visplay.tiny.cold_start.curriculum import CAPTION, answer_target, question_target
from visplay.tiny.grid import CELLS
from visplay.tiny.shapes import SHAPES
from visplay.tiny.world import World

ENTRIES = 488
CONTROL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
TAGS = ("<type>", "</type>", "<question>", "</question>", "<answer>", "</answer>", "<think>", "</think>", "\\boxed{")
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
_SCENES = 2000


def build_tokenizer(seed: int, world: World = SHAPES) -> Qwen2Tokenizer:
    """Learn the byte pairs of a small world's texts.

    Args:
        seed: Seed of the scenes whose texts are used.
        world: The world.

    Returns:
        A tokenizer of at most 488 entries: 256 bytes, merges, the tags as one token each, and the control tokens.
    """
    blank = Qwen2Tokenizer()
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=ENTRIES - len(CONTROL_TOKENS) - len(TAGS) - len(CELLS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(_corpus(world, np.random.default_rng(seed)), trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab = learned["vocab"] | {token: len(learned["vocab"]) + i for i, token in enumerate(CONTROL_TOKENS)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(CONTROL_TOKENS),
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.add_tokens([AddedToken(cell, special=False, normalized=False, single_word=True) for cell in CELLS])
    return tokenizer


def _corpus(world: World, rng: np.random.Generator) -> list[str]:
    fixed = ("user", "assistant", "system", "Ask.", CAPTION, "none", "nothing")
    lines = [*fixed, *world.words] * _SCENES
    for _ in range(_SCENES):
        scene = world.sample_scene(rng, "training")
        posed = world.pose(scene, rng)
        answer = answer_target(posed.solution, listed=True)
        lines += [posed.text, question_target(posed), answer, world.caption(scene)]
    return lines
