"""Stand-ins for the checkpoints that configurations name: of their heads, and saying what the embedded base says.

A model with random weights asks nothing that parses, so that no question would be left for the Reasoner's phase. The
embedded base is widened with zeros instead: its hidden states, and heads that nothing reads, up to another ratio of
heads to heads of keys.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from visplay.tiny import BASE

CHECKPOINTS = {  # heads, heads of keys, and whether the head is the embedding
    "Qwen/Qwen2.5-VL-3B-Instruct": (16, 2, True),
    "Qwen/Qwen2.5-VL-7B-Instruct": (28, 4, False),
    "XiaomiMiMo/MiMo-VL-7B-SFT": (32, 8, False),
}


@torch.no_grad()
def write_stand_in(checkpoint: str, directory: Path) -> Path:
    """Write the stand-in for a checkpoint to a directory, with its processor."""
    heads, keys, tied = CHECKPOINTS[checkpoint]
    small = hf.AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    wide = type(small)(_widened(small.config, heads // keys, tied))
    text, narrow = wide.config.text_config, small.config.text_config
    weights = small.state_dict()
    for name, weight in wide.state_dict().items():
        old = weights[name]
        if name.endswith("norm.weight") and "language_model" in name:
            old = old * math.sqrt(narrow.hidden_size / text.hidden_size)  # the mean of squares is of more of them
        if "q_proj" in name:
            old = _spread(old, narrow, text)
        if "o_proj" in name:
            old = _spread(old.T, narrow, text).T
        weight.zero_()
        weight[tuple(map(slice, old.shape))] = old
    wide.generation_config = small.generation_config
    wide.save_pretrained(directory)
    hf.AutoProcessor.from_pretrained(BASE).save_pretrained(directory)
    return directory


def _widened(config: Any, ratio: int, tied: bool) -> Any:
    """The same configuration with ``ratio`` heads for each head of keys, each as wide as before."""
    wide = copy.deepcopy(config)
    text, before = wide.text_config, config.text_config
    text.num_attention_heads = ratio * before.num_key_value_heads
    text.hidden_size = before.hidden_size // before.num_attention_heads * text.num_attention_heads
    text.rms_norm_eps = before.rms_norm_eps * before.hidden_size / text.hidden_size
    wide.vision_config.out_hidden_size = text.hidden_size
    wide.tie_word_embeddings = text.tie_word_embeddings = tied
    return wide


def _spread(old: Tensor, narrow: Any, text: Any) -> Tensor:
    """Rows of heads, each after the heads that read the same keys; zeros for the heads that are new."""
    size, keys = narrow.hidden_size // narrow.num_attention_heads, narrow.num_key_value_heads
    of_keys = old.reshape(keys, -1, size, *old.shape[1:])
    wide = of_keys.new_zeros(keys, text.num_attention_heads // keys, *of_keys.shape[2:])
    wide[:, : of_keys.shape[1]] = of_keys
    return wide.reshape(-1, *old.shape[1:])
