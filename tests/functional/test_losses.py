import math

import pytest
import torch

from visplay.functional import clipped_policy_loss, k3_kl, sequence_mean_weights, token_mean_weights

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


def _batch(rows: int = 5, tokens: int = 7) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    old = -torch.rand(rows, tokens, generator=generator, dtype=torch.float64)
    logps = old + 0.6 * torch.randn(rows, tokens, generator=generator, dtype=torch.float64)
    advantages = torch.randn(rows, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([tokens, 1, 3, 0, 5])[:rows]
    mask = torch.arange(tokens) < lengths[:, None]
    weights = mask.double() / lengths.clamp(min=1)[:, None] / rows  # sequence_mean_weights in float64
    return logps, old, advantages, weights, mask


def _plain_loss(logps, old, advantages, mask, low, high):
    """Eq. 3 as it is written: the mean over completions of the mean over their tokens."""
    total = 0.0
    for b in range(len(logps)):
        terms = []
        for t in range(logps.shape[1]):
            if mask[b, t]:
                ratio = math.exp(logps[b, t] - old[b, t])
                clipped = min(max(ratio, 1 - low), 1 + high)
                terms.append(min(ratio * advantages[b].item(), clipped * advantages[b].item()))
        total += sum(terms) / len(terms) if terms else 0.0
    return -total / len(logps)


def test_loss_and_statistics_by_hand():
    ratios = torch.tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 99.0]])
    weights = torch.tensor([[0.125, 0.25, 0.125], [0.25, 0.25, 0.0]])
    loss, stats = clipped_policy_loss(ratios.log(), torch.zeros(2, 3), torch.tensor([1.0, -2.0]), weights)
    # min(1.5, 1.2), min(0.5, 0.8), 1 for A = 1; min(-3, -2.4), min(-1, -1.6) for A = -2.
    gain = 0.125 * 1.2 + 0.25 * 0.5 + 0.125 * 1.0 + 0.25 * -3.0 + 0.25 * -1.6
    assert loss.item() == pytest.approx(-gain)
    assert stats["clip_fraction_high"].item() == pytest.approx(0.125)
    assert stats["clip_fraction_low"].item() == pytest.approx(0.25)
    assert stats["ratio_mean"].item() == pytest.approx(0.125 * 1.5 + 0.25 * 0.5 + 0.125 + 0.25 * 1.5 + 0.25 * 0.5)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.3), (0.0, 0.0), (1.0, 5.0)])
def test_loss_is_the_papers_sum(low, high):
    logps, old, advantages, weights, mask = _batch()
    loss, stats = clipped_policy_loss(logps, old, advantages, weights, clip_low=low, clip_high=high)
    assert loss.item() == pytest.approx(_plain_loss(logps, old, advantages, mask, low, high), rel=1e-12)
    assert all(stat.ndim == 0 and not stat.requires_grad for stat in stats.values())


def test_on_policy_gradient_is_the_policy_gradient():
    logps, _, advantages, weights, _ = _batch()
    logps.requires_grad_()
    loss, _ = clipped_policy_loss(logps, logps.detach(), advantages, weights)
    loss.backward()
    torch.testing.assert_close(logps.grad, -weights * advantages[:, None])


def test_gradients_against_finite_differences():
    logps, old, advantages, weights, _ = _batch()
    logps.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_policy_loss(x, old, advantages, weights)[0], logps)
    assert torch.autograd.gradcheck(lambda x: (weights * k3_kl(x, old)).sum(), logps)


def test_a_token_beyond_the_clip_has_no_gradient():
    logps = torch.tensor([[1.5, 0.5], [1.5, 0.5]]).log().requires_grad_()
    clipped_policy_loss(logps, torch.zeros(2, 2), torch.tensor([1.0, -1.0]), torch.ones(2, 2))[0].backward()
    torch.testing.assert_close(logps.grad, torch.tensor([[0.0, -0.5], [1.5, 0.0]]))


def test_splitting_the_batch_changes_nothing():
    logps, old, advantages, weights, _ = _batch()
    whole, parts = logps.clone().requires_grad_(), logps.clone().requires_grad_()
    loss, stats = clipped_policy_loss(whole, old, advantages, weights)
    loss.backward()
    pieces = []
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):
        pieces.append(clipped_policy_loss(parts[rows], old[rows], advantages[rows], weights[rows]))
        pieces[-1][0].backward()
    torch.testing.assert_close(parts.grad, whole.grad)
    torch.testing.assert_close(sum(piece.detach() for piece, _ in pieces), loss.detach())
    for name, stat in stats.items():
        torch.testing.assert_close(sum(piece[name] for _, piece in pieces), stat)


@pytest.mark.parametrize("garbage", [0.0, 1e30, -1e30, math.nan, math.inf])
def test_padding_has_no_influence(garbage):
    logps, old, advantages, weights, mask = _batch()
    expected = clipped_policy_loss(logps, old, advantages, weights)
    dirty = torch.where(mask, logps, garbage).requires_grad_()
    loss, stats = clipped_policy_loss(dirty, torch.where(mask, old, 0.0), advantages, weights)
    loss.backward()
    assert loss.item() == expected[0].item()
    assert {name: stat.item() for name, stat in stats.items()} == {
        name: stat.item() for name, stat in expected[1].items()
    }
    assert dirty.grad.isfinite().all()
    assert (dirty.grad[~mask] == 0).all()


def test_far_from_the_sampling_policy_all_stays_finite():
    logps = torch.tensor([[300.0, -300.0]], requires_grad=True)
    loss, stats = clipped_policy_loss(logps, torch.zeros(1, 2), torch.tensor([-1.0]), torch.ones(1, 2))
    loss.backward()
    assert loss.item() == pytest.approx(math.exp(20) + 0.8)
    assert logps.grad.isfinite().all()
    assert stats["clip_fraction_low"].item() == 1.0


def test_k3_by_hand():
    logps, reference = torch.tensor([[-1.0, -2.0], [-0.5, -5.0]]), torch.tensor([[-1.0, -1.0], [-2.5, -0.5]])
    expected = [[0.0, math.e - 2], [math.exp(-2) + 1, 10.0]]  # exp(4.5) - 5.5 is 84.5, clamped
    torch.testing.assert_close(k3_kl(logps, reference), torch.tensor(expected))
    assert k3_kl(logps, reference, clamp=None)[1, 1].item() == pytest.approx(math.exp(4.5) - 5.5)


def test_k3_is_clamped_as_released():
    difference = torch.tensor([[100.0, 15.0, -100.0], [-12.0, -8.0, 0.0]])
    kl = k3_kl(torch.zeros(2, 3), difference)
    torch.testing.assert_close(kl, torch.tensor([[10.0, 10.0, 10.0], [10.0, math.exp(-8) + 7, 0.0]]))
    wide = k3_kl(torch.zeros(2, 3), difference, clamp=None)
    torch.testing.assert_close(wide[0], torch.tensor([math.exp(20) - 21, math.exp(15) - 16, math.exp(-20) + 19]))


def test_k3_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 6, generator=generator, dtype=torch.float64).log_softmax(1)
    mean = (policy.exp() * k3_kl(policy[None], reference[None], clamp=None)[0]).sum()
    torch.testing.assert_close(mean, (policy.exp() * (policy - reference)).sum())


def test_weights_by_hand():
    third = 1 / 3
    expected = torch.tensor([[third / 3] * 3 + [0.0], [third, 0.0, 0.0, 0.0], [0.0] * 4])
    torch.testing.assert_close(sequence_mean_weights(MASK), expected)
    torch.testing.assert_close(sequence_mean_weights(MASK.bool()), expected)
    assert token_mean_weights(MASK).tolist() == [[0.25] * 3 + [0.0], [0.25, 0.0, 0.0, 0.0], [0.0] * 4]
    assert token_mean_weights(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


def test_refuses_shapes_that_do_not_fit():
    two, three = torch.zeros(2, 3), torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"one shape \(B, T\).*'logps': \(2, 3\), 'old_logps': \(2, 4\)"):
        clipped_policy_loss(two, three, torch.zeros(2), two)
    with pytest.raises(ValueError, match=r"advantages: must have shape \(B,\) = \(2,\).*\(2, 3\), got \(2, 1\)"):
        clipped_policy_loss(two, two, torch.zeros(2, 1), two)
    with pytest.raises(ValueError, match=r"'logps': \(2, 3\), 'reference_logps': \(2, 4\)"):
        k3_kl(two, three)
    for weigh in (sequence_mean_weights, token_mean_weights):
        with pytest.raises(ValueError, match=r"mask: must have one shape \(B, T\), got \{'mask': \(3,\)\}"):
            weigh(torch.ones(3))


@pytest.mark.parametrize(("name", "value"), [("clip_low", -0.1), ("clip_low", 1.1), ("clip_high", -0.1)])
def test_refuses_a_clip_out_of_range(name, value):
    zeros = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=rf"{name}: must .*, got {value}"):
        clipped_policy_loss(zeros, zeros, torch.zeros(2), zeros, **{name: value})


def test_refuses_a_clamp_that_is_not_positive():
    with pytest.raises(ValueError, match="clamp: must be positive or None, got 0"):
        k3_kl(torch.zeros(2, 3), torch.zeros(2, 3), clamp=0.0)
