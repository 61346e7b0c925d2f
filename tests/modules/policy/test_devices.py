"""Packed rows, the fallback and sampling in bfloat16, on a CPU and, where there is one, on a GPU: the same tests."""

import numpy as np
import pytest
import torch
from PIL import Image

from visplay.callbacks import TransformersRollout
from visplay.modules.policy import attention
from visplay.modules.policy.attention import GROUPED_SDPA, grouped_sdpa
from visplay.modules.policy.packing import Packing
from visplay.tiny import ANSWER
from visplay.types import Sampling

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))
PACKINGS = {
    "one answer": Packing([4], [[6]]),
    "ragged": Packing([7, 3, 9], [[1, 4, 0], [2, 2, 5], [11, 1, 3]]),
    "nothing to read": Packing([4, 6], [[0, 0], [0, 0]]),
    "long": Packing([140, 4, 260], [[129, 3], [1, 130], [40, 100]]),
}
NOISE = np.random.default_rng(0)
IMAGES = [
    Image.fromarray(NOISE.integers(0, 255, size, dtype=np.uint8)) for size in [(56, 56, 3), (40, 80, 3), (90, 30, 3)]
]
LENGTHS = torch.tensor([[3, 40], [1, 17], [25, 25]])


@pytest.fixture(params=["cpu", GPU])
def device(request):
    return request.param


@pytest.fixture
def policy(fresh_base, device):
    """The embedded base in bfloat16."""
    fresh_base.text_model.set_attn_implementation(GROUPED_SDPA)
    for weight in fresh_base.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return fresh_base.to(device)


def _visible(packing):
    """(L, L) bool: a completion sees its prompt and itself, up to each token."""
    owner = [n for n, tokens in enumerate(packing.prompts) for _ in range(tokens)]
    prompts = len(owner)
    sequence, number = list(owner), len(packing.prompts)
    for n, group in enumerate(packing.completions):
        for tokens in group:
            owner += [n] * tokens
            sequence += [number] * tokens
            number += 1
    owner, sequence = torch.tensor(owner), torch.tensor(sequence)
    own_prompt = (owner == owner[:, None]) & (torch.arange(len(owner)) < prompts)
    return ((sequence == sequence[:, None]) | own_prompt).tril()


@pytest.mark.parametrize("dimension", [16, 128])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (16, 2)])
@pytest.mark.parametrize("case", PACKINGS)
def test_packed_attention_and_its_gradients_are_those_of_a_dense_softmax(device, case, heads, key_heads, dimension):
    packing, draw = PACKINGS[case], torch.Generator().manual_seed(0)
    tokens = packing.prompt_tokens + packing.completion_tokens
    shapes = [(1, h, tokens, dimension) for h in (heads, key_heads, key_heads, heads)]
    *states, weights = (torch.randn(shape, generator=draw).bfloat16() for shape in shapes)
    ours = [state.to(device).requires_grad_() for state in states]
    exact = [state.double().requires_grad_() for state in states]
    out = grouped_sdpa(torch.nn.Identity(), *ours, None, scaling=0.1, packing=packing)[0].transpose(1, 2)
    repeated = [exact[0], *(state.repeat_interleave(heads // key_heads, 1) for state in exact[1:])]
    dense = torch.nn.functional.scaled_dot_product_attention(*repeated, attn_mask=_visible(packing), scale=0.1)
    pairs = [(out, dense)]
    pairs += zip(
        torch.autograd.grad(out, ours, weights.to(out)),
        torch.autograd.grad(dense, exact, weights.double()),
        strict=True,
    )
    for mine, expected in pairs:
        assert mine.dtype == torch.bfloat16
        assert (mine.cpu().double() - expected).norm() <= 0.02 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_there_are_kernels(device, dtype):
    assert attention.why_not_attended(torch.device(device), dtype) is None


def _scored(policy):
    """Prompts about images of several sizes, and answers (N, G, T) with their mask."""
    prompts = [policy.encode(str(i), ANSWER, image, question="How many?") for i, image in enumerate(IMAGES)]
    mask = torch.arange(int(LENGTHS.max())) < LENGTHS[..., None]
    ids = torch.randint(1, 400, mask.shape, generator=torch.Generator().manual_seed(1))
    return prompts, ids.to(policy.device), mask.to(policy.device)


def _logps_and_gradient(policy):
    prompts, ids, mask = _scored(policy)
    policy.zero_grad()
    logps, _ = policy.logps(prompts, ids, mask)
    (logps * mask).sum().backward()
    gradient = torch.cat([weight.grad.float().flatten() for weight in policy.parameters()])
    return logps[mask].detach().float(), gradient


def test_packed_rows_learn_what_the_fallback_does(policy):
    assert policy.why_not_packed() is None
    packed, gradient = _logps_and_gradient(policy)
    policy.text_model.set_attn_implementation("sdpa")
    assert policy.why_not_packed() is not None
    plain, expected = _logps_and_gradient(policy)
    assert (packed - plain).abs().mean() < 0.08  # of tokens at -12; what is read amiss is off by 1
    assert (gradient - expected).norm() < 0.05 * expected.norm()


def test_checkpointing_changes_no_gradient(policy):
    plain, expected = _logps_and_gradient(policy.train())
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    again, gradient = _logps_and_gradient(policy)
    assert (again - plain).abs().mean() < 0.01
    assert (gradient - expected).norm() < 0.01 * expected.norm()


def test_what_is_sampled_is_scored_alike_and_repeats(policy):
    prompts, _, _ = _scored(policy)
    prompts += [policy.encode("again", ANSWER, prompts[0].images[0], question="Where is the red circle?")]
    engine, sampling = TransformersRollout(), Sampling(4, 24, seed=3)
    groups = engine.generate(policy, prompts, sampling)
    again = TransformersRollout().generate(policy, prompts, sampling)
    assert [[c.token_ids for c in group] for group in again] == [[c.token_ids for c in group] for group in groups]
    longest = max(len(c.token_ids) for group in groups for c in group)
    ids = torch.zeros(len(prompts), 4, longest, dtype=torch.long)
    sampled, mask = torch.zeros(ids.shape), torch.zeros(ids.shape, dtype=torch.bool)
    for n, group in enumerate(groups):
        for g, completion in enumerate(group):
            length = len(completion.token_ids)
            ids[n, g, :length], mask[n, g, :length] = torch.tensor(completion.token_ids), True
            sampled[n, g, :length] = torch.tensor(completion.logps)
    with torch.no_grad():
        logps, _ = policy.logps(prompts, ids.to(policy.device), mask.to(policy.device))
    assert (logps.cpu().float() - sampled)[mask].abs().mean() < 0.05
