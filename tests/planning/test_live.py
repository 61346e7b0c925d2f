"""The formulas of memory against the tensors that a real forward and backward pass keep alive."""

import gc

import pytest
import torch

from benchmarks.models import SHAPES, RandomPolicy, Shape
from benchmarks.workload import Size, autocast, make_batch
from live_bytes import LiveBytes
from visplay.modules.policy.attention import GROUPED_SDPA, many_token_dtype
from visplay.modules.policy.weights.tuning import LoRA, Tuning
from visplay.planning.activations import Precision
from visplay.planning.memory import Micro, Training, activations
from visplay.planning.shapes import build_empty, measure_shape

TEXT = SHAPES["3b"].text | {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 1376,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
VISION = SHAPES["3b"].vision | {
    "depth": 3,
    "hidden_size": 160,
    "intermediate_size": 428,
    "num_heads": 2,
    "out_hidden_size": 256,
    "fullatt_block_indexes": [1],
}
SIZE = Size(prompts=1, group=4, tokens=64, side=280)
FP32, BF16 = torch.float32, torch.bfloat16


def _policy(directory, tied, checkpointed, tuning):
    shape = Shape(SIZE.side, TEXT | {"tie_word_embeddings": tied}, VISION)
    settings = {"gradient_checkpointing": checkpointed, "tuning": tuning, "attn_implementation": GROUPED_SDPA}
    pixels = {"min_pixels": SIZE.side**2, "max_pixels": 2 * SIZE.side**2, "max_context_tokens": 4096}
    return RandomPolicy(shape, directory, "cpu", FP32, **settings, **pixels)


def _pass(policy, batch, entropy):
    """Bytes kept after the forward pass, and at the peak of the backward pass."""
    live = LiveBytes([*policy.parameters(), *policy.buffers()])
    with live:
        logps, entropies = policy.logps(batch.prompts, batch.token_ids, batch.mask, entropy_gradient=entropy)
        loss = logps.sum() + entropies.sum() if entropy else logps.sum()
        del entropies, logps
        gc.collect()
        kept, live.peak = live.now, live.now
        loss.backward()
    return kept, live.peak


NOTHING, TEXT_ONLY = Tuning(), ("vision_tower", "projector")


@pytest.mark.parametrize(
    ("dtype", "tied", "checkpointed", "tuning", "entropy"),
    [
        (FP32, True, False, NOTHING, True),
        (FP32, False, True, NOTHING, False),
        (BF16, False, False, NOTHING, False),
        (BF16, True, True, NOTHING, False),
        (FP32, False, False, Tuning(("language_model",)), False),
        (BF16, True, True, Tuning(TEXT_ONLY), False),
        (FP32, True, False, Tuning(TEXT_ONLY, LoRA(rank=16)), False),
        (BF16, True, False, Tuning(TEXT_ONLY, LoRA(rank=16)), False),
        (FP32, True, True, Tuning(TEXT_ONLY, LoRA(rank=16)), False),
        (BF16, True, True, Tuning(TEXT_ONLY, LoRA(rank=16)), False),
        (BF16, True, False, Tuning((), LoRA(rank=16)), False),
        (FP32, True, False, Tuning(("vision_tower",), LoRA(rank=16)), False),
        (FP32, True, False, Tuning((), LoRA(rank=16, targets=("q_proj", "v_proj"))), False),
    ],
)
def test_formulas_give_what_autograd_keeps(tmp_path, dtype, tied, checkpointed, tuning, entropy):
    policy = _policy(tmp_path, tied, checkpointed, tuning)
    shape = measure_shape(build_empty(policy, policy.model.config))
    batch = make_batch(policy, SIZE)
    rows = int(batch.mask.sum())
    tokens = int(batch.prompt_tokens.sum()) + rows - SIZE.group  # the last of an answer is not read
    micro = Micro(tokens, rows, 4 * policy.image_tokens(batch.prompts[0].images[0]))
    precision = Precision(dtype.itemsize, many_token_dtype(torch.device("cpu"), dtype).itemsize)
    for accumulated in (False, True):  # the first pass leaves its gradients
        with autocast(policy, dtype):
            kept, peak = _pass(policy, batch, entropy)
        planned = activations(
            shape, micro, Training(precision, checkpointed, accumulated, frozenset(tuning.freeze), entropy)
        )
        assert planned.kept == pytest.approx(kept, rel=0.01)
        assert planned.peak == pytest.approx(peak, rel=0.05)
