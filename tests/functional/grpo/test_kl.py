import math

import pytest
import torch

from visplay.functional import k1_kl, k2_kl, k3_kl

LOGPS, REFERENCE = torch.tensor([[-1.0, -2.0], [-0.5, -5.0]]), torch.tensor([[-1.0, -1.0], [-2.5, -0.5]])
ESTIMATORS = pytest.mark.parametrize("estimate", [k1_kl, k2_kl, k3_kl])


def _distributions() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a policy and log-probabilities of a reference, both over six tokens."""
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), reference.log_softmax(0)


def _expected_gradient(estimate, logits, reference):
    """Mean over the policy's samples of an estimate's gradient: the samples' probabilities are constants."""
    logps = logits.log_softmax(0)
    mean = (logps.exp().detach() * estimate(logps[None], reference[None], clamp=None)[0]).sum()
    return torch.autograd.grad(mean, logits)[0]


def test_k1_by_hand():
    assert k1_kl(LOGPS, REFERENCE).tolist() == [[0.0, -1.0], [2.0, -4.5]]


def test_k2_by_hand():
    assert k2_kl(LOGPS, REFERENCE).tolist() == [[0.0, 0.5], [2.0, 10.0]]  # 4.5 squared / 2 is 10.125, clamped
    assert k2_kl(LOGPS, REFERENCE, clamp=None)[1, 1].item() == 10.125


def test_k3_by_hand():
    expected = [[0.0, math.e - 2], [math.exp(-2) + 1, 10.0]]  # exp(4.5) - 5.5 is 84.5, clamped
    torch.testing.assert_close(k3_kl(LOGPS, REFERENCE), torch.tensor(expected))
    assert k3_kl(LOGPS, REFERENCE, clamp=None)[1, 1].item() == pytest.approx(math.exp(4.5) - 5.5)


def test_the_log_ratio_is_held_and_then_the_estimate():
    policy, reference = torch.zeros(2, 3), torch.tensor([[100.0, 15.0, -100.0], [-12.0, -8.0, 0.0]])
    assert k1_kl(policy, reference).tolist() == [[-10.0, -10.0, 10.0], [10.0, 8.0, 0.0]]
    assert k1_kl(policy, reference, clamp=None).tolist() == [[-20.0, -15.0, 20.0], [12.0, 8.0, 0.0]]
    assert k2_kl(policy, reference, clamp=None).tolist() == [[200.0, 112.5, 200.0], [72.0, 32.0, 0.0]]
    expected = torch.tensor([[10.0, 10.0, 10.0], [10.0, math.exp(-8) + 7, 0.0]])
    torch.testing.assert_close(k3_kl(policy, reference), expected)
    wide = k3_kl(policy, reference, clamp=None)
    torch.testing.assert_close(wide[0], torch.tensor([math.exp(20) - 21, math.exp(15) - 16, math.exp(-20) + 19]))


def test_the_clamp_of_k3_ends_the_gradient_at_2_6_nats():
    """Of a token that became less probable than under the reference; 11 nats of one that became more probable."""
    logps = torch.tensor([[-2.6, -2.62, 10.9, 11.1]], requires_grad=True)
    (gradient,) = torch.autograd.grad(k3_kl(logps, torch.zeros(1, 4)).sum(), logps)
    assert (gradient[0] != 0).tolist() == [True, False, True, False]


def test_gradients_by_hand():
    # d k1 = 1, d k2 = logps - reference, d k3 = 1 - exp(reference - logps), and 0 beyond the clamp.
    expected = {
        k1_kl: [[1.0, 1.0], [1.0, 1.0]],
        k2_kl: [[0.0, -1.0], [2.0, 0.0]],
        k3_kl: [[0.0, 1 - math.e], [1 - math.exp(-2), 0.0]],
    }
    for estimate, gradient in expected.items():
        logps = LOGPS.clone().requires_grad_()
        estimate(logps, REFERENCE).sum().backward()
        torch.testing.assert_close(logps.grad, torch.tensor(gradient))


@ESTIMATORS
def test_gradients_against_finite_differences(estimate):
    logps = LOGPS.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: estimate(x, REFERENCE.double()), logps)


@pytest.mark.parametrize("estimate", [k1_kl, k3_kl])
def test_unbiased_in_value(estimate):
    logits, reference = _distributions()
    logps = logits.detach().log_softmax(0)
    mean = (logps.exp() * estimate(logps[None], reference[None], clamp=None)[0]).sum()
    torch.testing.assert_close(mean, (logps.exp() * (logps - reference)).sum())


def test_k1_teaches_nothing_as_a_loss():
    gradient = _expected_gradient(k1_kl, *_distributions())
    torch.testing.assert_close(gradient, torch.zeros(6, dtype=torch.float64))


def test_k2_teaches_the_divergence():
    logits, reference = _distributions()
    logps = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((logps.exp() * (logps - reference)).sum(), logits)
    torch.testing.assert_close(_expected_gradient(k2_kl, logits, reference), exact)


def test_k3_teaches_the_opposite_divergence():
    logits, reference = _distributions()
    (exact,) = torch.autograd.grad((reference.exp() * (reference - logits.log_softmax(0))).sum(), logits)
    torch.testing.assert_close(_expected_gradient(k3_kl, logits, reference), exact)


@ESTIMATORS
@pytest.mark.parametrize(("ours", "theirs"), [((2, 3), (2, 4)), ((3,), (3,)), ((2, 3), (2, 1))])
def test_refuses_shapes_that_do_not_fit(estimate, ours, theirs):
    with pytest.raises(ValueError, match=r"logps, reference_logps: must have one shape \(B, T\), got \{'logps': \("):
        estimate(torch.zeros(ours), torch.zeros(theirs))


@ESTIMATORS
@pytest.mark.parametrize("clamp", [0.0, -1.0])
def test_refuses_a_clamp_that_is_not_positive(estimate, clamp):
    with pytest.raises(ValueError, match=f"clamp: must be positive or None, got {clamp}"):
        estimate(torch.zeros(2, 3), torch.zeros(2, 3), clamp=clamp)
