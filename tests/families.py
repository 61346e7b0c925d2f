"""Tiny models of every family with random weights, each in a directory of its own, with plain transformers beside
it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from PIL.Image import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from visplay.modules import Gemma3, InternVL, LlavaOnevision, Qwen2_5_VL, Qwen3_VL, SmolVLM
from visplay.modules.policy.vlm import VLM
from visplay.tiny import BASE

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "initializer_range": 0.15,
}
GRID = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
CHAT = (  # system messages as parts only, as the checkpoints of both families have it
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


TURNS = (  # as Gemma's: system messages before the image, in the user's turn
    "{% for message in messages %}{% if message.role == 'system' %}<|im_start|>user\n{{ message.content }}\n\n"
    "{% else %}{% if loop.first %}<|im_start|>user\n{% endif %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text | trim }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(*control: str, chat_template: str | None = None, **named: str) -> Any:
    """The embedded base's, with more control tokens, of which some have names."""
    found = hf.AutoTokenizer.from_pretrained(BASE, **named)
    found.add_tokens([hf.AddedToken(token, special=True, normalized=False) for token in control])
    found.chat_template = chat_template or found.chat_template
    return found


def ids(words: Any) -> dict[str, int]:
    """What every text configuration says of a tokenizer."""
    names = {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|im_end|>", "pad_token_id": "<|endoftext|>"}
    return {name: words.convert_tokens_to_ids(token) for name, token in names.items()} | {"vocab_size": len(words)}


def qwen2_5_vl(directory: Path) -> None:
    """The embedded base, its images less alike in size, and less sure: made-up answers are not 17 nats unlikely.

    There one float32 is 2e-6 from the next.
    """
    processor = hf.AutoProcessor.from_pretrained(BASE)
    processor.image_processor.size = {"shortest_edge": 14 * 14 * 2, "longest_edge": 14 * 14 * 20}
    model = hf.AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    model.model.language_model.norm.weight.data.mul_(0.3)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)


def qwen3_vl(directory: Path) -> None:
    """Two of three text layers take features of the vision tower's first two blocks."""
    words = tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    vision = {key: VISION[key] for key in ("hidden_size", "intermediate_size", "patch_size", "initializer_range")}
    name = words.convert_tokens_to_ids
    config = hf.Qwen3VLConfig(
        text_config=TEXT | ids(words) | {"rope_parameters": rope},
        vision_config=vision
        | {
            "depth": 3,
            "num_heads": 2,
            "out_hidden_size": TEXT["hidden_size"],
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=name("<|image_pad|>"),
        video_token_id=name("<|video_pad|>"),
        vision_start_token_id=name("<|vision_start|>"),
        vision_end_token_id=name("<|vision_end|>"),
    )
    size = {"shortest_edge": 14 * 14 * 2, "longest_edge": 14 * 14 * 20}
    patches = {"patch_size": 7, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    processor = hf.Qwen3VLProcessor(
        hf.Qwen2VLImageProcessor(**patches),
        words,
        hf.Qwen3VLVideoProcessor(**patches),
        chat_template=words.chat_template,
    )
    write(directory, hf.Qwen3VLForConditionalGeneration, config, processor)


def idefics3(directory: Path, *, smolvlm2: bool = False) -> None:
    """Images of 84 pixels, in tiles of 28 that are 4 tokens each."""
    control = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *GRID]
    words = tokenizer(*control, chat_template=CHAT)
    architecture = "SmolVLM" if smolvlm2 else "Idefics3"
    text = {"model_type": "llama"} | TEXT | ids(words)
    common = {"image_token_id": words.convert_tokens_to_ids("<image>"), "scale_factor": 2}
    config = getattr(hf, f"{architecture}Config")(
        text_config=text, vision_config=VISION, pad_token_id=text["pad_token_id"], **common
    )
    scaled = {"size": {"longest_edge": 84}, "max_image_size": {"longest_edge": 28}}
    parts = [getattr(hf, f"{architecture}ImageProcessor")(**scaled), words]
    parts += [hf.SmolVLMVideoProcessor(**scaled)] if smolvlm2 else []
    processor = getattr(hf, f"{architecture}Processor")(*parts, image_seq_len=4, chat_template=CHAT)
    write(directory, getattr(hf, f"{architecture}ForConditionalGeneration"), config, processor)


def smolvlm2(directory: Path) -> None:
    """The same with the later processor."""
    idefics3(directory, smolvlm2=True)


def llava_onevision(directory: Path) -> None:
    """Views of 28 pixels and 16 tokens; on the largest canvas features are scaled down."""
    words = tokenizer("<image>", "<video>", chat_template=CHAT)
    canvases = [[28, 28], [28, 56], [56, 28], [56, 56], [28, 84], [112, 112]]
    config = hf.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2"} | TEXT | ids(words),
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False} | VISION,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=canvases,
    )
    size = {"height": 28, "width": 28}
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=canvases),
        words,
        hf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
    )
    write(directory, hf.LlavaOnevisionForConditionalGeneration, config, processor)
    rename(directory, "vision_tower.", "vision_tower.vision_model.")


def gemma3(directory: Path) -> None:
    """Two of three text layers see windows, images have 16 tokens, and line breaks merge into one token."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = tokenizer(chat_template=TURNS, **named)
    words.add_tokens([hf.AddedToken("\n" * n, special=False, normalized=False) for n in (1, 2, 3, 4)])
    text = TEXT | ids(words) | {"query_pre_attn_scalar": 32, "sliding_window": 24}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = hf.Gemma3Config(
        text_config=text | {"layer_types": kinds},
        vision_config=VISION | {"image_size": 56, "vision_use_head": False},
        mm_tokens_per_image=16,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
        tie_word_embeddings=False,
    )
    images = hf.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    processor = hf.Gemma3Processor(images, words, image_seq_length=16, chat_template=TURNS)
    write(directory, hf.Gemma3ForConditionalGeneration, config, processor)
    rename(directory, "vision_tower.", "vision_tower.vision_model.")


def internvl(directory: Path) -> None:
    """At most six tiles of 28 pixels and 4 tokens each."""
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    words = tokenizer(chat_template=CHAT.replace("<image>", "<IMG_CONTEXT>\n"), video_token="<video>", **named)
    config = hf.InternVLConfig(
        text_config={"model_type": "qwen2"} | TEXT | ids(words),
        vision_config=VISION,
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    size = {"height": 28, "width": 28}
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(size=size, max_patches=6),
        words,
        hf.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=words.chat_template,
    )
    write(directory, hf.InternVLForConditionalGeneration, config, processor)


def llava(directory: Path, **text: Any) -> None:
    """LLaVA 1.5, the family of examples/, on a text model of some kind."""
    words = tokenizer("<image>", chat_template=CHAT)
    config = hf.LlavaConfig(
        text_config={"model_type": "llama"} | TEXT | ids(words) | text,
        vision_config={"model_type": "clip_vision_model"} | VISION,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    square = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessor(**square),
        words,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    write(directory, hf.LlavaForConditionalGeneration, config, processor)


def rename(directory: Path, *change: str) -> None:
    """Have a checkpoint call its weights as the released ones do."""
    weights = load_file(directory / "model.safetensors")
    save_file({k.replace(*change): w for k, w in weights.items()}, directory / "model.safetensors", {"format": "pt"})


@torch.no_grad()
def write(directory: Path, architecture: Any, config: Any, processor: Any) -> None:
    """Save a model with random weights, also where they begin at zero, and its processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(config)
        for name, weight in model.named_parameters():
            if name.endswith("bias") or not weight.any():
                weight.normal_(std=0.1)
    text = config.get_text_config()
    stops = [text.eos_token_id, text.pad_token_id]
    model.generation_config = hf.GenerationConfig(eos_token_id=stops, pad_token_id=text.pad_token_id)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)


@dataclass(frozen=True)
class Tiny:
    """A tiny model of a family.

    Args:
        family: Its class here.
        write: Writes it to a directory.
        settings: Of its processor, beside text and images.
    """

    family: type[VLM]
    write: Callable[[Path], None]
    settings: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "Qwen2.5-VL": Tiny(Qwen2_5_VL, qwen2_5_vl, {"return_mm_token_type_ids": True}),
    "Qwen3-VL": Tiny(Qwen3_VL, qwen3_vl, {"return_mm_token_type_ids": True}),
    "Idefics3": Tiny(SmolVLM, idefics3),
    "SmolVLM2": Tiny(SmolVLM, smolvlm2),
    "LLaVA-OneVision": Tiny(LlavaOnevision, llava_onevision),
    "Gemma 3": Tiny(Gemma3, gemma3),
    "InternVL": Tiny(InternVL, internvl),
}


def processed(vlm: VLM, tiny: Tiny, token_ids: Sequence[int], images: Sequence[Image]) -> dict[str, Any]:
    """A prompt through the checkpoint's own processor, from its text on, placeholders and all."""
    text = vlm.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)
    given = [list(images)] if images and tiny.family is Gemma3 else list(images) or None
    out = vlm.processor(text=[text], images=given, return_tensors="pt", **tiny.settings)
    out.pop("batch_num_images", None)
    return dict(out)


def plain_logps(vlm: VLM, inputs: dict[str, Any], token_ids: Tensor) -> Tensor:
    """One completion (T,) as one row through transformers' own forward: nothing shared, banned tokens excluded."""
    prompt_tokens = inputs["input_ids"].shape[1]
    whole = dict(inputs, input_ids=torch.cat([inputs["input_ids"], token_ids[None]], 1))
    whole.pop("attention_mask")
    for name in {"mm_token_type_ids", "token_type_ids"} & whole.keys():
        kinds = whole[name]
        whole[name] = torch.cat([kinds, kinds.new_zeros(1, len(token_ids))], 1)
    logits = vlm.model(**whole, use_cache=False).logits[0, prompt_tokens - 1 : -1]
    logits = logits.index_fill(-1, vlm.banned_token_ids, -1e30)
    return logits.log_softmax(-1).gather(-1, token_ids[:, None]).squeeze(-1)
