"""A Qwen2.5-VL of 1.3 million parameters, its processor, and how both are saved."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from visplay.tiny.grid import CELL_PIXELS, IMAGE_PIXELS

_MERGE = 2
_INITIAL_SCALE = 0.07
_PIXELS = {
    "patch_size": CELL_PIXELS // _MERGE,
    "merge_size": _MERGE,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": IMAGE_PIXELS**2, "longest_edge": IMAGE_PIXELS**2},
}


def build_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """The configuration: text 128 wide and 4 deep, vision 96 wide and 2 deep, 16 image tokens for a square image."""
    ids = tokenizer.convert_tokens_to_ids
    common = {"initializer_range": _INITIAL_SCALE, "dtype": "float32"}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
    }
    vision = {
        "depth": 2,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 4,
        "patch_size": _PIXELS["patch_size"],
        "spatial_merge_size": _MERGE,
        "temporal_patch_size": _PIXELS["temporal_patch_size"],
        "window_size": IMAGE_PIXELS,
        "out_hidden_size": 128,
        "fullatt_block_indexes": [0, 1],
    }
    return Qwen2_5_VLConfig(
        text_config=text | common,
        vision_config=vision | common,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
        dtype="float32",
    )


def build_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A model with random weights, float32.

    Args:
        tokenizer: Gives the number of entries and the control tokens' ids.
        seed: Seed of the weights; torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))
        _prepare(model)
    ids = tokenizer.convert_tokens_to_ids
    model.generation_config = GenerationConfig(
        do_sample=True,
        bos_token_id=ids("<|endoftext|>"),
        pad_token_id=ids("<|endoftext|>"),
        eos_token_id=[ids("<|im_end|>"), ids("<|endoftext|>")],
    )
    return model


@torch.no_grad()
def _prepare(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Make attention a search for similar content from the first step on.

    Words start large enough not to be drowned by what the first layer adds, and keys start as the queries of their
    group.
    """
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.1)
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        queries = attention.q_proj.weight.unflatten(0, (attention.num_heads, -1))
        attention.k_proj.weight.copy_(queries[:: attention.num_key_value_groups].flatten(0, 1))
        for outward in (attention.o_proj, layer.mlp.down_proj):
            outward.weight.mul_(0.5)


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """The processor; every image is scaled to about 56x56 pixels, 16 merged tokens for a square one."""
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**_PIXELS),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**_PIXELS),
        chat_template=tokenizer.chat_template,
    )


def save(directory: Path, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor) -> None:
    """Write the model and all that ``AutoProcessor.from_pretrained`` needs as a Hugging Face directory."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
