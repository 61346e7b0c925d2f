import functools
import math

import pytest
import torch

from visplay.functional import cispo_loss, clipped_policy_loss, sequence_policy_loss

LOSSES = pytest.mark.parametrize("policy_loss", [clipped_policy_loss, sequence_policy_loss, cispo_loss])
SURROGATES = pytest.mark.parametrize("policy_loss", [clipped_policy_loss, sequence_policy_loss])

# Three completions of 3, 2 and 0 tokens; 99 stands where nothing is counted.
RATIOS = torch.tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 99.0], [99.0, 99.0, 99.0]])
WEIGHTS = torch.tensor([[0.125, 0.25, 0.125], [0.25, 0.25, 0.0], [0.0, 0.0, 0.0]])
ADVANTAGES = torch.tensor([1.0, -2.0, 3.0])


def _loss(policy_loss, ratios, advantages, weights, **clips):
    """Loss, statistics and gradient by the log-probabilities for given ratios."""
    logps = ratios.log().requires_grad_()
    loss, stats = policy_loss(logps, torch.zeros_like(logps), advantages, weights, **clips)
    loss.backward()
    return loss.item(), {name: value.item() for name, value in stats.items()}, logps.grad


def _batch(rows: int = 5, tokens: int = 7) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    old = -torch.rand(rows, tokens, generator=generator, dtype=torch.float64)
    logps = old + 0.6 * torch.randn(rows, tokens, generator=generator, dtype=torch.float64)
    advantages = torch.randn(rows, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([tokens, 1, 3, 0, 5])[:rows]
    mask = torch.arange(tokens) < lengths[:, None]
    weights = mask.double() / lengths.clamp(min=1)[:, None] / rows  # sequence_mean_weights in float64
    return logps, old, advantages, weights, mask


def test_clipped_by_hand():
    loss, stats, gradient = _loss(clipped_policy_loss, RATIOS, ADVANTAGES, WEIGHTS)
    # min(1.5, 1.2), min(0.5, 0.8), 1 for A = 1; min(-3, -2.4), min(-1, -1.6) for A = -2.
    assert loss == pytest.approx(-(0.125 * 1.2 + 0.25 * 0.5 + 0.125 * 1.0 + 0.25 * -3.0 + 0.25 * -1.6))
    assert stats == pytest.approx(
        {
            "ratio_mean": 0.125 * 1.5 + 0.25 * 0.5 + 0.125 + 0.25 * 1.5 + 0.25 * 0.5,
            "clip_fraction_low": 0.25,
            "clip_fraction_high": 0.125,
            "clip_fraction_dual": 0.0,
            "ratio_max": 1.5,
        }
    )
    # -w A rho, and 0 where the clip was the smaller.
    expected = torch.tensor([[0.0, -0.125, -0.125], [0.75, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(gradient, expected)


def test_clip_higher_by_hand():
    loss, stats, _ = _loss(clipped_policy_loss, RATIOS, ADVANTAGES, WEIGHTS, clip_low=0.5, clip_high=0.28)
    assert loss == pytest.approx(-(0.125 * 1.28 + 0.25 * 0.5 + 0.125 * 1.0 + 0.25 * -3.0 + 0.25 * -1.0))
    assert (stats["clip_fraction_low"], stats["clip_fraction_high"]) == (0.0, 0.125)


def test_dual_clip_by_hand():
    ratios = torch.tensor([[5.0, 0.5], [5.0, 2.0], [5.0, 7.0]])
    weights = torch.tensor([[0.25, 0.25], [0.125, 0.125], [0.25, 0.0]])
    clips = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}
    loss, stats, gradient = _loss(clipped_policy_loss, ratios, torch.tensor([1.0, -1.0, -2.0]), weights, **clips)
    # 1.2, 0.5 as without for A = 1; max(-5, -3), max(-2, -3) for A = -1; max(-10, -6) for A = -2.
    assert loss == pytest.approx(-(0.25 * 1.2 + 0.25 * 0.5 + 0.125 * -3.0 + 0.125 * -2.0 + 0.25 * -6.0))
    assert stats["clip_fraction_dual"] == pytest.approx(0.125 + 0.25)
    assert stats["clip_fraction_high"] == pytest.approx(0.25)
    assert stats["clip_fraction_low"] == 0.0
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.125], [0.0, 0.25], [0.0, 0.0]]))


def test_sequence_by_hand():
    # Geometric means: sqrt(1 * 2.25) = 1.5, 0.5 and sqrt(0.5 * 8) = 2.
    ratios = torch.tensor([[1.0, 2.25, 99.0], [0.5, 99.0, 99.0], [0.5, 8.0, 99.0], [1.1, 1.1, 1.1], [9.0, 9.0, 9.0]])
    weights = torch.tensor([[0.125, 0.125, 0.0], [0.25, 0.0, 0.0], [0.125, 0.125, 0.0], [0.125] * 3, [0.0] * 3])
    advantages = torch.tensor([1.0, -2.0, -1.0, 1.0, 1.0])
    loss, stats, gradient = _loss(sequence_policy_loss, ratios, advantages, weights)
    assert loss == pytest.approx(-(0.25 * 1.2 + 0.25 * -1.6 + 0.25 * -2.0 + 0.375 * 1.1))
    assert stats == pytest.approx(
        {
            "ratio_mean": 0.25 * 1.5 + 0.25 * 0.5 + 0.25 * 2.0 + 0.375 * 1.1,
            "clip_fraction_low": 0.25,
            "clip_fraction_high": 0.25,
            "clip_fraction_dual": 0.0,
            "ratio_max": 2.0,
        }
    )
    # -w_b A s / length for each token of the two rows that no clip reached.
    expected = torch.zeros(5, 3)
    expected[2, :2], expected[3] = 0.25 * 2.0 / 2, -0.375 * 1.1 / 3
    torch.testing.assert_close(gradient, expected)


def test_sequence_dual_clip_by_hand():
    ratios = torch.tensor([[4.0, 4.0], [2.0, 8.0], [4.0, 99.0]])  # all of geometric mean 4
    weights = torch.tensor([[0.25, 0.25], [0.125, 0.125], [0.25, 0.0]])
    loss, stats, gradient = _loss(
        sequence_policy_loss, ratios, torch.tensor([-1.0, -2.0, 1.0]), weights, clip_high=0.5, dual_clip=3.0
    )
    assert loss == pytest.approx(-(0.5 * -3.0 + 0.25 * -6.0 + 0.25 * 1.5))
    assert stats["clip_fraction_dual"] == pytest.approx(0.75)
    assert not gradient.any()


def test_cispo_by_hand():
    loss, stats, gradient = _loss(cispo_loss, RATIOS, ADVANTAGES, WEIGHTS, clip_low=0.25, clip_high=0.2)
    log = math.log
    expected = (
        0.125 * 1.2 * log(1.5) + 0.25 * 0.75 * log(0.5) + 0.25 * 1.2 * -2 * log(1.5) + 0.25 * 0.75 * -2 * log(0.5)
    )
    assert loss == pytest.approx(-expected)
    # Clipped whatever the sign of the advantage.
    assert stats["clip_fraction_low"] == pytest.approx(0.25 + 0.25)
    assert stats["clip_fraction_high"] == pytest.approx(0.125 + 0.25)
    assert (stats["clip_fraction_dual"], stats["ratio_max"]) == (0.0, 1.5)
    # -w A clip(rho): no token is lost.
    expected = torch.tensor([[-0.15, -0.1875, -0.125], [0.6, 0.375, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(gradient, expected)


@LOSSES
def test_on_policy_gradient_is_the_policy_gradient(policy_loss):
    logps, _, advantages, weights, _ = _batch()
    logps.requires_grad_()
    loss, stats = policy_loss(logps, logps.detach(), advantages, weights)
    loss.backward()
    torch.testing.assert_close(logps.grad, -weights * advantages[:, None])
    assert all(stat.ndim == 0 and not stat.requires_grad for stat in stats.values())


@SURROGATES
@pytest.mark.parametrize("dual_clip", [None, 1.4])
def test_gradients_against_finite_differences(policy_loss, dual_clip):
    logps, old, advantages, weights, _ = _batch()
    loss = functools.partial(policy_loss, dual_clip=dual_clip)
    assert torch.autograd.gradcheck(lambda x: loss(x, old, advantages, weights)[0], logps.requires_grad_())


def test_cispo_gradient_against_its_formula():
    logps, old, advantages, weights, _ = _batch()
    loss, _ = cispo_loss(logps.requires_grad_(), old, advantages, weights, clip_low=1.0, clip_high=0.3)
    loss.backward()
    expected = [
        [-w * a * min(math.exp(x - y), 1.3) for w, x, y in zip(*rows, strict=True)]
        for a, *rows in zip(advantages.tolist(), weights.tolist(), logps.tolist(), old.tolist(), strict=True)
    ]
    torch.testing.assert_close(logps.grad, torch.tensor(expected, dtype=torch.float64))


@LOSSES
def test_splitting_the_batch_changes_nothing(policy_loss):
    logps, old, advantages, weights, _ = _batch()
    whole, parts = logps.clone().requires_grad_(), logps.clone().requires_grad_()
    loss, stats = policy_loss(whole, old, advantages, weights)
    loss.backward()
    pieces = []
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):
        pieces.append(policy_loss(parts[rows], old[rows], advantages[rows], weights[rows]))
        pieces[-1][0].backward()
    torch.testing.assert_close(parts.grad, whole.grad)
    torch.testing.assert_close(sum(piece.detach() for piece, _ in pieces), loss.detach())
    for name, stat in stats.items():
        join = max if name.endswith("_max") else sum
        torch.testing.assert_close(join(piece[name] for _, piece in pieces), stat)


@LOSSES
@pytest.mark.parametrize("garbage", [0.0, 1e30, -1e30, math.nan, math.inf, -math.inf])
def test_padding_has_no_influence(policy_loss, garbage):
    logps, old, advantages, weights, mask = _batch()
    expected = policy_loss(logps, old, advantages, weights)
    dirty = torch.where(mask, logps, garbage).requires_grad_()
    loss, stats = policy_loss(dirty, torch.where(mask, old, 0.0), advantages, weights)
    loss.backward()
    assert loss.item() == expected[0].item()
    assert {name: stat.item() for name, stat in stats.items()} == {
        name: stat.item() for name, stat in expected[1].items()
    }
    assert dirty.grad.isfinite().all()
    assert (dirty.grad[~mask] == 0).all()


@LOSSES
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
def test_without_a_token_there_is_nothing(policy_loss, shape):
    logps = torch.full(shape, -1.0, requires_grad=True)
    loss, stats = policy_loss(logps, torch.zeros(shape), torch.ones(shape[0]), torch.zeros(shape))
    loss.backward()
    assert {loss.item(), *(stat.item() for stat in stats.values())} == {0.0}
    assert not logps.grad.any()


@SURROGATES
def test_far_from_the_sampling_policy_all_stays_finite(policy_loss):
    logps = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    loss, stats = policy_loss(logps, torch.zeros(2, 1), torch.tensor([-1.0, -1.0]), torch.ones(2, 1))
    loss.backward()
    assert loss.item() == pytest.approx(math.exp(20) + 0.8)
    assert logps.grad.isfinite().all()
    assert stats["clip_fraction_low"].item() == 1.0
    assert stats["ratio_max"].item() == pytest.approx(math.exp(20))
    assert policy_loss(logps, torch.zeros(2, 1), -torch.ones(2), torch.ones(2, 1), dual_clip=3.0)[
        0
    ].item() == pytest.approx(3.8)


@LOSSES
def test_refuses_shapes_that_do_not_fit(policy_loss):
    two, three = torch.zeros(2, 3), torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"one shape \(B, T\).*'logps': \(2, 3\), 'old_logps': \(2, 4\)"):
        policy_loss(two, three, torch.zeros(2), two)
    with pytest.raises(ValueError, match=r"one shape \(B, T\).*'weights': \(2, 4\)"):
        policy_loss(two, two, torch.zeros(2), three)
    with pytest.raises(ValueError, match=r"one shape \(B, T\), got \{'logps': \(3,\)"):
        policy_loss(torch.zeros(3), torch.zeros(3), torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"advantages: must have shape \(B,\) = \(2,\).*\(2, 3\), got \(2, 1\)"):
        policy_loss(two, two, torch.zeros(2, 1), two)


@LOSSES
@pytest.mark.parametrize(("name", "value"), [("clip_low", -0.1), ("clip_low", 1.1), ("clip_high", -0.1)])
def test_refuses_a_clip_out_of_range(policy_loss, name, value):
    zeros = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=rf"{name}: must .*, got {value}"):
        policy_loss(zeros, zeros, torch.zeros(2), zeros, **{name: value})


@SURROGATES
@pytest.mark.parametrize("value", [1.0, 0.5, -3.0])
def test_refuses_a_dual_clip_that_is_not_above_one(policy_loss, value):
    zeros = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=f"dual_clip: must be above 1 or None, got {value}"):
        policy_loss(zeros, zeros, torch.zeros(2), zeros, dual_clip=value)


def test_cispo_refuses_a_dual_clip():
    zeros = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"dual_clip: must be None, got 3\.0: cispo_loss bounds the weight"):
        cispo_loss(zeros, zeros, torch.zeros(2), zeros, dual_clip=3.0)
