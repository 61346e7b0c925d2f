import pytest
import torch
from torch import nn

from visplay.modules.policy import vision_attention
from visplay.modules.policy.vision_attention import segmented_sdpa


def _states(tokens):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, tokens, 16, generator=draw, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize(("lengths", "calls"), [((6, 6, 6), 1), ((4, 9, 4, 1, 9), 3), ((7,), 1), ((5, 0, 5), 2)])
def test_segments_are_attended_to_apart_with_a_call_for_each_length(lengths, calls, monkeypatch):
    states, called, attend = _states(sum(lengths)), [], vision_attention.grouped_sdpa
    monkeypatch.setattr(vision_attention, "grouped_sdpa", lambda *a, **k: called.append(a[1].shape) or attend(*a, **k))
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    out, _ = segmented_sdpa(nn.Identity(), *states, None, scaling=0.3, cu_seq_lens_q=bounds)
    pieces = zip(*(each.split(lengths, dim=2) for each in states), strict=True)
    expected = torch.cat([nn.functional.scaled_dot_product_attention(*each, scale=0.3) for each in pieces], 2)
    expected = expected.transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    weights = torch.rand(out.shape)
    for mine, theirs in zip(
        torch.autograd.grad(out, states, weights), torch.autograd.grad(expected, states, weights), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert len(called) == calls - (0 in lengths)
