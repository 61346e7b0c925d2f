import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from shapes import Shapes
from visplay.modules.policy import attention as module
from visplay.modules.policy.attention import grouped_sdpa
from visplay.modules.policy.packing import Packing

LONG = 135
CASES = {
    "one group": Packing([5], [[3, 3]]),
    "one answer": Packing([4], [[6]]),
    "ragged": Packing([7, 3, 9], [[1, 4, 0], [2, 2, 5], [11, 1, 3]]),
    "nothing to read": Packing([4, 6], [[0, 0], [0, 0]]),
    "one prompt without": Packing([4, 6, 5], [[2, 1], [0, 0], [3, 0]]),
    "equal": Packing([6, 6], [[4, 4, 4], [4, 4, 4]]),
    "long": Packing([LONG, 4, 2 * LONG], [[LONG, 3], [1, LONG], [40, 2 * LONG]]),
}


@pytest.fixture
def fresh_caches():
    """What was found out of the machine before is not known, and what is found out within is not kept."""
    caches = module.many_token_dtype, module.why_not_attended
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def _visible(packing):
    """(L, L) bool, written out token by token."""
    owner = [("prompt", n) for n, tokens in enumerate(packing.prompts) for _ in range(tokens)]
    owner += [
        (n, j) for n, group in enumerate(packing.completions) for j, tokens in enumerate(group) for _ in range(tokens)
    ]
    mask = [
        [(read == reader and j <= i) or read == ("prompt", reader[0]) for j, read in enumerate(owner)]
        for i, reader in enumerate(owner)
    ]
    return torch.tensor(mask)


def _dense(query, key, value, packing, scale):
    """The same by a masked softmax over everything."""
    key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], 1) for states in (key, value))
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~_visible(packing), -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def _states(packing, heads, key_heads, dtype=torch.float64, dimension=8):
    generator = torch.Generator().manual_seed(0)
    tokens = packing.prompt_tokens + packing.completion_tokens
    return [
        torch.randn(1, tokens, h, dimension, generator=generator, dtype=torch.float64)
        .to(dtype)
        .transpose(1, 2)
        .requires_grad_()
        for h in (heads, key_heads, key_heads)
    ]


def _both(packing, states, scale=0.3):
    """Outputs and gradients of the packed function, and of the dense one in float64."""
    shape = (1, states[0].shape[2], *states[0].shape[1::2])
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out, _ = grouped_sdpa(torch.nn.Identity(), *states, None, scaling=scale, packing=packing)
    ours = out, *torch.autograd.grad((out * weights).sum(), states)
    exact = [s.detach().double().requires_grad_() for s in states]
    dense = _dense(*exact, packing, scale)
    return ours, (dense, *torch.autograd.grad((dense * weights).sum(), exact))


@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("case", CASES)
def test_packed_equals_a_dense_masked_softmax(case, heads, key_heads):
    for ours, dense in zip(*_both(CASES[case], _states(CASES[case], heads, key_heads)), strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision(dtype, tolerance):
    for ours, dense in zip(*_both(CASES["long"], _states(CASES["long"], 4, 2, dtype)), strict=True):
        assert ours.dtype == dtype
        assert (ours - dense).norm() < tolerance * dense.norm()


def test_a_worked_example():
    """One prompt of two tokens, two answers of one; every score is 0, so that the output is a mean of what is seen."""
    packing = Packing([2], [[1, 1]])
    query = key = torch.zeros(1, 1, 4, 8)
    value = torch.tensor([1.0, 3.0, 5.0, 11.0]).view(1, 1, 4, 1).expand(1, 1, 4, 8).contiguous()
    out, _ = grouped_sdpa(torch.nn.Identity(), query, key, value, None, scaling=1.0, packing=packing)
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([1.0, 2.0, 3.0, 5.0]))


def test_extreme_scores_stay_finite():
    states = [s.detach().mul(200).requires_grad_() for s in _states(CASES["ragged"], 2, 1)]
    for ours, dense in zip(*_both(CASES["ragged"], states), strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-7, atol=1e-7)


def test_deterministic_and_in_autocast():
    states = _states(CASES["ragged"], 2, 1, torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (_both(CASES["ragged"], states)[0][1:] for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, first, second))
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = grouped_sdpa(torch.nn.Identity(), *states, None, scaling=0.3, packing=CASES["ragged"])
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert states[0].grad.dtype == torch.float32


@pytest.mark.parametrize("native", [False, True])
def test_half_precision_is_computed_in_float32_where_the_processor_has_no_such_products(
    fresh_caches, monkeypatch, native
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native}, raising=False)
    used = torch.bfloat16 if native else torch.float32
    cpu = torch.device("cpu")
    assert module.many_token_dtype(cpu, torch.bfloat16) == used
    assert module.many_token_dtype(cpu, torch.float16) == torch.float32
    assert module.many_token_dtype(cpu, torch.float64) == torch.float64
    assert module.many_token_dtype(torch.device("cuda"), torch.bfloat16) == torch.bfloat16
    seen = []
    attend, plain = module._cpu_forward, torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        module, "_cpu_forward", lambda q, *rest, **more: seen.append(q.dtype) or attend(q, *rest, **more)
    )
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, *rest, **more: seen.append(q.dtype) or plain(q, *rest, **more),
    )
    states = _states(CASES["equal"], 2, 1, torch.bfloat16)
    layer = torch.nn.Identity()
    outs = [grouped_sdpa(layer, *states, None, scaling=0.3, packing=p)[0] for p in (CASES["equal"], None)]
    outs.append(grouped_sdpa(layer, states[0][:, :, -1:], *states[1:], None, scaling=0.3)[0])
    assert [out.dtype for out in outs] == [torch.bfloat16] * 3
    assert set(seen[:-1]) == {used}
    assert seen[-1] == torch.bfloat16


def test_no_gradient_is_kept_without_one():
    states = [s.detach() for s in _states(CASES["ragged"], 2, 1)]
    out, _ = grouped_sdpa(torch.nn.Identity(), *states, None, scaling=0.3, packing=CASES["ragged"])
    assert not out.requires_grad


def test_nothing_of_the_size_of_a_mask_is_made():
    packing = Packing([200, 190], [[20] * 8, [15] * 8])
    states = _states(packing, 2, 1)
    tokens = states[0].shape[2]
    with Shapes() as shapes:
        out, _ = grouped_sdpa(torch.nn.Identity(), *states, None, scaling=0.3, packing=packing)
        out.sum().backward()
    assert 0 < shapes.largest < tokens**2 / 10


def test_without_packing_it_is_the_ordinary_attention():
    query, key, value = (s.detach() for s in _states(Packing([9], [[1]]), 4, 2))
    out, _ = grouped_sdpa(torch.nn.Identity(), query, key, value, None, scaling=0.3, is_causal=True)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), is_causal=True, scale=0.3
    )
    torch.testing.assert_close(out, expected.transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_are_tried_before_they_are_relied_on(dtype, fresh_caches, monkeypatch):
    cpu = torch.device("cpu")
    missing = f"there is no kernel for {dtype} on"
    assert module.why_not_attended(cpu, dtype) is None
    assert module.why_not_attended(torch.device("mps"), dtype) == f"{missing} mps"
    forward = module._cpu_forward

    def in_bits(*arguments, **settings):
        out, logsumexp = forward(*arguments, **settings)
        return out, logsumexp / 0.6931

    def gone(*arguments, **settings):
        raise RuntimeError("no such kernel")

    wrong = f"the kernels for {dtype} on cpu do not agree with a masked softmax"
    for broken, reason in ((in_bits, wrong), (gone, f"{missing} cpu")):
        module.why_not_attended.cache_clear()
        monkeypatch.setattr(module, "_cpu_forward", broken)
        assert module.why_not_attended(cpu, dtype) == reason


def test_what_is_scored_first_in_inference_mode_is_packed(fresh_caches):
    """What is found then is kept, for the training that follows."""
    with torch.inference_mode():
        assert module.why_not_attended(torch.device("cpu"), torch.float32) is None


def test_the_kernels_of_cuda_take_what_they_are_given():
    """Shapes and signatures only, from torch's own descriptions of them: nothing is computed."""
    packing = Packing([5, 3], [[2, 1], [4, 0]])
    tokens = packing.prompt_tokens + packing.completion_tokens
    with FakeTensorMode():
        states = tuple(torch.empty(tokens, h, 64, device="cuda", dtype=torch.bfloat16) for h in (4, 2, 2))
        for segments in (packing.within, packing.across):
            rows = slice(None) if segments.causal else slice(packing.prompt_tokens, None)
            queries, keys = states[0][rows], [s if segments.causal else s[: packing.prompt_tokens] for s in states[1:]]
            out, logsumexp = module._attend((queries, *keys), segments, 0.1)
            assert (out.shape, out.dtype) == (queries.shape, torch.bfloat16)
            assert (logsumexp.shape, logsumexp.dtype) == ((len(queries) + 1, 4), torch.float32)
            gradients = module._differentiate((out, out, logsumexp), (queries, *keys), segments, 0.1)
            assert [g.shape for g in gradients] == [s.shape for s in (queries, *keys)]
