import pytest
import torch

from visplay.functional.grpo.sampling import draw_tokens, truncate_logits, uniform_stream


def test_inverts_the_cumulative_distribution_by_hand():
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log().expand(6, 3)
    uniforms = torch.tensor([0.0, 0.199, 0.201, 0.499, 0.501, 1 - 2**-53], dtype=torch.float64)
    assert draw_tokens(logits, uniforms).tolist() == [0, 0, 1, 1, 2, 2]


def test_never_draws_an_excluded_token():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(1000, 5)
    uniforms = uniform_stream([5], 1000)[0]
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-53])
    assert set(draw_tokens(logits, uniforms).tolist()) == {1, 3}


def test_frequencies_are_the_probabilities():
    torch.manual_seed(0)
    logits = torch.randn(1, 20)
    drawn = draw_tokens(logits.expand(50_000, -1), uniform_stream([11], 50_000)[0])
    expected = logits.softmax(-1)[0] * 50_000
    chi_square = ((drawn.bincount(minlength=20) - expected) ** 2 / expected).sum()
    assert chi_square < 43.8  # 99.9 % quantile at 19 degrees of freedom


def test_a_stream_depends_on_its_own_seed_alone():
    both = uniform_stream([3, 2**62], 8)
    assert torch.equal(both[1:], uniform_stream([2**62], 8))
    assert torch.equal(both[:, :4], uniform_stream([3, 2**62], 4))
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (1.0, 0, [0, 1, 2, 3]),
        (1.0, 2, [0, 1]),
        (0.5, 0, [0, 1]),
        (0.39, 0, [0]),
        (1.0, 9, [0, 1, 2, 3]),
        (0.8, 3, [0, 1, 2]),
    ],
)
def test_truncation_by_hand(top_p, top_k, kept):
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert truncate_logits(logits, top_p, top_k)[0].isfinite().nonzero().flatten().tolist() == kept
