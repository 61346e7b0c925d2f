import math

import pytest
import torch

from visplay.functional import token_logps
from visplay.functional.grpo import logps as module


def _inputs(rows: int = 7, width: int = 4, vocabulary: int = 11, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, width, generator=generator, dtype=dtype)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype)
    return hidden, weight, torch.randint(vocabulary, (rows,), generator=generator)


def _plain(hidden, weight, targets, temperature=1.0):
    """The definition, with all logits at once."""
    logps = torch.log_softmax(hidden @ weight.T / temperature, 1)
    return logps[torch.arange(len(targets)), targets], -(logps.exp() * logps).sum(1)


def test_by_hand():
    hidden, weight = torch.eye(2), torch.tensor([[math.log(1.0), math.log(2.0)], [math.log(3.0), math.log(2.0)]])
    logps, entropies = token_logps(hidden, weight, torch.tensor([1, 0]))
    torch.testing.assert_close(logps.exp(), torch.tensor([0.75, 0.5]))
    expected = [0.25 * math.log(4) + 0.75 * math.log(4 / 3), math.log(2)]
    torch.testing.assert_close(entropies, torch.tensor(expected))


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 1024])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_is_the_definition_whatever_the_chunk(chunk_size, temperature):
    hidden, weight, targets = _inputs()
    logps, entropies = token_logps(hidden, weight, targets, temperature=temperature, chunk_size=chunk_size)
    expected, expected_entropies = _plain(hidden, weight, targets, temperature)
    torch.testing.assert_close(logps, expected)
    torch.testing.assert_close(entropies, expected_entropies)


def test_gradients_are_those_of_the_definition():
    hidden, weight, targets = _inputs()
    gradients = []
    for score in (lambda h, w: token_logps(h, w, targets, chunk_size=3)[0], lambda h, w: _plain(h, w, targets)[0]):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        gradients.append(torch.autograd.grad((score(*leaves) * torch.arange(7)).sum(), leaves))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_gradients_against_finite_differences():
    hidden, weight, targets = _inputs(rows=4)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    banned = torch.tensor([index for index in range(11) if index not in targets][:2])
    score = lambda h, w: token_logps(h, w, targets, temperature=0.7, banned=banned, chunk_size=2)[0]  # noqa: E731
    assert torch.autograd.gradcheck(score, leaves)


def test_entropy_is_a_diagnosis():
    hidden, weight, targets = _inputs()
    logps, entropies = token_logps(hidden.requires_grad_(), weight, targets)
    assert logps.requires_grad
    assert not entropies.requires_grad


@pytest.mark.parametrize("chunk_size", [1, 3, 1024])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_entropy_gradients_are_those_of_the_definition(chunk_size, temperature):
    hidden, weight, targets = _inputs()
    options = {"temperature": temperature, "chunk_size": chunk_size, "entropy_gradient": True}
    gradients = []
    for score in (lambda h, w: token_logps(h, w, targets, **options), lambda h, w: _plain(h, w, targets, temperature)):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        logps, entropies = score(*leaves)
        loss = (logps * torch.arange(7)).sum() - (entropies * torch.arange(7).flip(0)).sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


def test_entropy_gradients_against_finite_differences():
    hidden, weight, targets = _inputs(rows=4)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    banned = torch.tensor([index for index in range(11) if index not in targets][:2])
    score = lambda h, w: token_logps(  # noqa: E731
        h, w, targets, temperature=0.7, banned=banned, chunk_size=2, entropy_gradient=True
    )
    assert torch.autograd.gradcheck(score, leaves)


def test_entropy_gradient_changes_no_value():
    hidden, weight, targets = _inputs()
    hidden.requires_grad_()
    with_gradient = token_logps(hidden, weight, targets, entropy_gradient=True)
    assert all(value.requires_grad for value in with_gradient)
    for ours, theirs in zip(with_gradient, token_logps(hidden, weight, targets), strict=True):
        assert ours.equal(theirs)
    with torch.no_grad():
        assert not any(v.requires_grad for v in token_logps(hidden, weight, targets, entropy_gradient=True))


def test_entropy_gradient_stays_finite_in_float32_beside_banned_tokens():
    hidden, weight, targets = _inputs(dtype=torch.float32)
    _, entropies = token_logps(hidden.requires_grad_(), weight, targets, banned=targets[:1], entropy_gradient=True)
    entropies.sum().backward()
    kept = [index for index in range(11) if index != targets[0]]
    leaf = hidden.detach().clone().requires_grad_()
    _plain(leaf, weight[kept], torch.zeros(7, dtype=torch.long))[1].sum().backward()
    torch.testing.assert_close(hidden.grad, leaf.grad)


def test_banned_tokens_leave_the_distribution():
    hidden, weight, _ = _inputs(rows=2)
    kept = [0, 1, 2, 5]
    banned = torch.tensor([index for index in range(11) if index not in kept])
    logps, entropies = token_logps(hidden, weight, torch.tensor([5, 2]), banned=banned)
    expected, expected_entropies = _plain(hidden, weight[kept], torch.tensor([3, 2]))
    torch.testing.assert_close(logps, expected)
    torch.testing.assert_close(entropies, expected_entropies)
    assert (
        token_logps(hidden, weight, torch.tensor([5, 2]), banned=torch.tensor([], dtype=torch.long))[0].isfinite().all()
    )


def test_a_banned_target_is_very_unlikely_and_finite():
    hidden, weight, targets = _inputs(dtype=torch.float32)
    logps, _ = token_logps(hidden.requires_grad_(), weight, targets, banned=targets[:1])
    logps.sum().backward()
    assert logps.isfinite().all()
    assert logps[0] < -1e6
    assert hidden.grad.isfinite().all()


def test_softmax_runs_in_float32_under_autocast():
    hidden, weight, targets = _inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps, entropies = token_logps(hidden.requires_grad_(), weight, targets, chunk_size=3)
    logps.sum().backward()
    assert logps.dtype == entropies.dtype == hidden.grad.dtype == torch.float32
    torch.testing.assert_close(logps, _plain(hidden, weight, targets)[0], atol=0.1, rtol=0.0)
    low = token_logps(hidden.detach().bfloat16(), weight.bfloat16(), targets)[0]
    torch.testing.assert_close(low, logps.detach(), atol=1e-2, rtol=0.0)


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_never_more_than_a_chunk_of_logits(monkeypatch, entropy_gradient):
    seen, kept = [], []
    linear = module.F.linear
    monkeypatch.setattr(module.F, "linear", lambda h, w: seen.append(len(h)) or linear(h, w))
    hidden, weight, targets = _inputs()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        logps, entropies = token_logps(
            hidden.requires_grad_(), weight, targets, chunk_size=3, entropy_gradient=entropy_gradient
        )
    assert seen == [3, 3, 1]
    assert all(size <= weight.numel() for size in kept)
    (logps + entropies).sum().backward()
    assert sorted(seen) == [1, 1, 3, 3, 3, 3]


def test_no_rows():
    hidden, weight, targets = _inputs()
    logps, entropies = token_logps(hidden[:0].requires_grad_(), weight, targets[:0])
    assert logps.shape == entropies.shape == (0,)


def test_refuses_what_does_not_fit():
    hidden, weight, targets = _inputs()
    with pytest.raises(ValueError, match=r"\(R, H\) and \(V, H\), got \(7, 4\) and \(4, 11\)"):
        token_logps(hidden, weight.T, targets)
    with pytest.raises(ValueError, match=r"targets: must have shape \(R,\) for hidden of shape \(7, 4\), got \(6,\)"):
        token_logps(hidden, weight, targets[:6])
    with pytest.raises(ValueError, match="temperature: must be positive, got 0"):
        token_logps(hidden, weight, targets, temperature=0.0)
    with pytest.raises(ValueError, match="chunk_size: must be at least 1, got 0"):
        token_logps(hidden, weight, targets, chunk_size=0)
