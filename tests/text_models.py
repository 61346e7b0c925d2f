"""Tiny language models without images, with random weights, each in a directory of its own; and a script for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import transformers as hf

from families import TEXT, ids, tokenizer, write
from visplay.types import Prompt

CHATML = (  # as SmolLM2's: text alone, and a system message of its own
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def llama(directory: Path) -> None:
    """Tied weights, as SmolLM2 has them."""
    words = tokenizer(chat_template=CHATML)
    write(directory, hf.LlamaForCausalLM, hf.LlamaConfig(**TEXT | ids(words) | {"tie_word_embeddings": True}), words)


def llama_without_padding(directory: Path) -> None:
    """A tokenizer without a padding token, as Llama 3's."""
    words = tokenizer(chat_template=CHATML, pad_token=None)
    write(directory, hf.LlamaForCausalLM, hf.LlamaConfig(**TEXT | ids(words)), words)


def qwen3(directory: Path) -> None:
    """Norms of queries and keys; a template that passes over a message that is no string."""
    words = tokenizer(
        chat_template=CHATML.replace("message['content']", "(message.content if message.content is string else '')")
    )
    write(directory, hf.Qwen3ForCausalLM, hf.Qwen3Config(**TEXT | ids(words)), words)


def gemma3_text(directory: Path) -> None:
    """Two of three layers see windows; embeddings are scaled."""
    words = tokenizer(chat_template=CHATML)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    text = TEXT | ids(words) | {"query_pre_attn_scalar": 32, "sliding_window": 24, "layer_types": kinds}
    write(directory, hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(**text), words)


TEXT_MODELS: dict[str, Callable[[Path], None]] = {
    "Llama": llama,
    "Llama without padding": llama_without_padding,
    "Qwen3": qwen3,
    "Gemma 3": gemma3_text,
}


def sums(policy: str, prompt: Prompt, text: str, sample: int) -> str:
    """What a scripted engine says: a sum is asked for, by every third in no form; a third of the answers are wrong."""
    if policy == "questioner":
        first, second = int(prompt.key.partition("@")[0]) % 7, sample
        asked = f"<question>What is {first} + {second}?</question>"
        return f"Let us see. {asked} \\boxed{{{first + second}}}" if sample % 3 else asked
    first, second = map(int, re.findall(r"(\d+) \+ (\d+)", text)[-1])
    return f"\\boxed{{{first + second + (sample % 3 == 1)}}}"
