"""Random batches against two independent implementations: the papers' formulas in plain Python, and Liger-Kernel."""

import itertools
import math
import random
import statistics

import pytest
import torch
from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction, LigerFusedLinearGRPOLoss, k3_loss_fn

from visplay.functional import (
    FixedLengthWeights,
    centred_advantages,
    cispo_loss,
    clipped_policy_loss,
    group_advantages,
    k1_kl,
    k2_kl,
    k3_kl,
    leave_one_out_advantages,
    sequence_mean_weights,
    sequence_policy_loss,
    token_logps,
    token_mean_weights,
)

SEEDS = pytest.mark.parametrize("seed", range(20))
CLIPS = {
    "clip": {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None},
    "clip-higher": {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": None},
    "dual-clip": {"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 1.7},
}
WEIGHINGS = {"sequence": sequence_mean_weights, "token": token_mean_weights, "fixed": FixedLengthWeights(9)}
NEAR = {"rtol": 1e-6, "atol": 1e-8}  # the weights are float32


class Batch:
    """Random completions of ragged lengths, as lists and as float64 tensors."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        rows, tokens = draw.randint(1, 6), draw.randint(1, 7)
        self.lengths = [draw.randint(0, tokens) for _ in range(rows - 1)] + [tokens]
        self.old = [[-3 * draw.random() for _ in range(tokens)] for _ in range(rows)]
        self.new = [[x + draw.gauss(0.1, 0.5) for x in row] for row in self.old]
        self.advantages = [draw.choice([0.0, draw.gauss(0, 1), draw.gauss(0, 1)]) for _ in range(rows)]
        self.mask = torch.arange(tokens) < torch.tensor(self.lengths)[:, None]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(torch.tensor(x, dtype=torch.float64) for x in (self.new, self.old, self.advantages))

    def shares(self, weighing: str) -> list[float]:
        """Weight of one token of each row."""
        whole = {"token": sum(self.lengths), "fixed": 9 * len(self.lengths)}
        return [1 / (whole.get(weighing) or max(length, 1) * len(self.lengths)) for length in self.lengths]


def _plain_surrogate(ratio, advantage, *, clip_low, clip_high, dual_clip):
    """PPO's surrogate with a dual clip, and its derivative by the ratio."""
    clipped = min(max(ratio, 1 - clip_low), 1 + clip_high)
    value, slope = ratio * advantage, advantage
    if clipped * advantage < value:
        value, slope = clipped * advantage, 0.0
    if dual_clip is not None and advantage < 0 and value < dual_clip * advantage:
        value, slope = dual_clip * advantage, 0.0
    return value, slope


def _plain_clipped(new, old, advantage, share, clips):
    value, gradient = 0.0, []
    for x, y in zip(new, old, strict=True):
        ratio = math.exp(x - y)
        surrogate, slope = _plain_surrogate(ratio, advantage, **clips)
        value -= share * surrogate
        gradient.append(-share * slope * ratio)
    return value, gradient


def _plain_sequence(new, old, advantage, share, clips):
    if not new:
        return 0.0, []
    ratio = math.prod(math.exp(x) / math.exp(y) for x, y in zip(new, old, strict=True)) ** (1 / len(new))
    surrogate, slope = _plain_surrogate(ratio, advantage, **clips)
    return -share * len(new) * surrogate, [-share * slope * ratio] * len(new)


def _plain_cispo(new, old, advantage, share, clips):
    value, gradient = 0.0, []
    for x, y in zip(new, old, strict=True):
        weight = min(max(math.exp(x - y), 1 - clips["clip_low"]), 1 + clips["clip_high"])
        value -= share * weight * advantage * x
        gradient.append(-share * weight * advantage)
    return value, gradient


PLAIN = {clipped_policy_loss: _plain_clipped, sequence_policy_loss: _plain_sequence, cispo_loss: _plain_cispo}
CASES = [(f, c) for f, c in itertools.product(PLAIN, CLIPS) if (f, c) != (cispo_loss, "dual-clip")]


def _ours(policy_loss, batch, weighing, clips):
    logps, old, advantages = batch.tensors()
    loss, _ = policy_loss(logps.requires_grad_(), old, advantages, WEIGHINGS[weighing](batch.mask), **clips)
    return loss.detach(), torch.autograd.grad(loss, logps)[0]


@SEEDS
@pytest.mark.parametrize("weighing", WEIGHINGS)
@pytest.mark.parametrize(("policy_loss", "clip"), CASES)
def test_policy_losses_are_the_papers_sums(policy_loss, clip, weighing, seed):
    batch, total = Batch(seed), 0.0
    gradients = torch.zeros(batch.mask.shape, dtype=torch.float64)
    for b, (length, share) in enumerate(zip(batch.lengths, batch.shares(weighing), strict=True)):
        row = batch.new[b][:length], batch.old[b][:length], batch.advantages[b]
        value, gradient = PLAIN[policy_loss](*row, share, CLIPS[clip])
        total += value
        gradients[b, :length] = torch.tensor(gradient)
    loss, ours = _ours(policy_loss, batch, weighing, CLIPS[clip])
    assert loss.item() == pytest.approx(total, rel=1e-6, abs=1e-7)
    torch.testing.assert_close(ours, gradients, rtol=1e-6, atol=1e-7)


def _liger(batch, **options):
    logps, old, advantages = batch.tensors()
    mask = batch.mask.double()
    loss, _ = LigerFusedLinearGRPOFunction.ppo_loss_fn(
        logps.requires_grad_(), mask, advantages, mask, old_per_token_logps=old, beta=0.0, **options
    )
    return loss.detach(), torch.autograd.grad(loss, logps)[0]


@SEEDS
@pytest.mark.parametrize(("weighing", "loss_type"), [("sequence", "grpo"), ("token", "bnpo"), ("fixed", "dr_grpo")])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize(("policy_loss", "level"), [(clipped_policy_loss, "token"), (sequence_policy_loss, "sequence")])
def test_clipped_losses_are_those_of_liger(policy_loss, level, clip, weighing, loss_type, seed):
    batch, clips = Batch(seed), CLIPS[clip]
    theirs = _liger(
        batch,
        epsilon_low=clips["clip_low"],
        epsilon_high=clips["clip_high"],
        delta=clips["dual_clip"],
        importance_sampling_level=level,
        loss_type=loss_type,
        max_completion_length=9,
    )
    torch.testing.assert_close(_ours(policy_loss, batch, weighing, clips), theirs, **NEAR)


@SEEDS
def test_cispo_is_that_of_liger(seed):
    """Which has no lower bound, and names the upper bound itself."""
    batch = Batch(seed)
    ours = _ours(cispo_loss, batch, "token", {"clip_low": 1.0, "clip_high": 0.3})
    torch.testing.assert_close(ours, _liger(batch, loss_type="cispo", epsilon_high=1.3), **NEAR)


@SEEDS
def test_one_step_from_hidden_states_is_that_of_liger(seed):
    """Log-probabilities, clipped loss, k3 and aggregation at once, down to the gradients of the head."""
    batch, generator = Batch(seed), torch.Generator().manual_seed(seed)
    (rows, tokens), advantages = batch.mask.shape, torch.tensor(batch.advantages)
    hidden, head = torch.randn(rows, tokens, 4, generator=generator), torch.randn(11, 4, generator=generator)
    ids = torch.randint(11, (rows, tokens), generator=generator)
    logps = token_logps(hidden.flatten(0, 1), head, ids.flatten(), temperature=0.7)[0].view(rows, tokens)
    old, reference = (logps + 0.3 * torch.randn(logps.shape, generator=generator) for _ in range(2))

    def ours(hidden, head):
        logps = token_logps(hidden.flatten(0, 1), head, ids.flatten(), temperature=0.7, chunk_size=3)[0]
        logps, weights = logps.view(rows, tokens), sequence_mean_weights(batch.mask)
        return (
            clipped_policy_loss(logps, old, advantages, weights)[0] + 0.04 * (weights * k3_kl(logps, reference)).sum()
        )

    def theirs(hidden, head):
        liger = LigerFusedLinearGRPOLoss(beta=0.04, loss_type="grpo", temperature=0.7, compiled=False)
        loss, _ = liger(
            hidden, head, ids, batch.mask.float(), advantages, ref_per_token_logps=reference, old_per_token_logps=old
        )
        return loss

    results = []
    for step in (ours, theirs):
        leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = step(*leaves)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


@SEEDS
def test_kl_estimators_are_schulmans(seed):
    batch = Batch(seed)
    formulas = {
        k1_kl: lambda x, y: (math.log(math.exp(x) / math.exp(y)), 1.0),
        k2_kl: lambda x, y: ((x - y) ** 2 / 2, x - y),
        k3_kl: lambda x, y: (math.exp(y) / math.exp(x) - 1 - (y - x), 1 - math.exp(y) / math.exp(x)),
    }
    for estimate, formula in formulas.items():
        logps, reference, _ = batch.tensors()
        kl = estimate(logps.requires_grad_(), reference)
        pairs = [
            [formula(*pair) for pair in zip(*rows, strict=True)] for rows in zip(batch.new, batch.old, strict=True)
        ]
        values, gradients = torch.tensor(pairs, dtype=torch.float64).unbind(-1)
        torch.testing.assert_close(kl.detach(), values)
        torch.testing.assert_close(torch.autograd.grad(kl.sum(), logps)[0], gradients)


@SEEDS
def test_k3_is_that_of_liger(seed):
    results = []
    for estimate in (lambda policy, reference: k3_kl(policy, reference), lambda p, r: k3_loss_fn(r, p)):
        logps, reference, _ = Batch(seed).tensors()
        kl = estimate(logps.requires_grad_(), reference)
        results.append((kl.detach(), torch.autograd.grad(kl.sum(), logps)[0]))
    torch.testing.assert_close(*results)


@SEEDS
def test_advantages_are_the_papers(seed):
    draw = random.Random(seed)
    size = draw.randint(2, 8)
    groups = [[draw.choice([0.0, 1.0, draw.random()]) for _ in range(size)] for _ in range(5)] + [[0.3] * size]
    formulas = {
        group_advantages: lambda r, others, group: (
            (r - statistics.fmean(group)) / (statistics.stdev(group) + 1e-6) if len(set(group)) > 1 else 0.0
        ),
        centred_advantages: lambda r, others, group: r - statistics.fmean(group),
        leave_one_out_advantages: lambda r, others, group: r - sum(others) / len(others),
    }
    for function, formula in formulas.items():
        expected = [[formula(r, g[:i] + g[i + 1 :], g) for i, r in enumerate(g)] for g in groups]
        ours = function(torch.tensor(groups, dtype=torch.float64))
        torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))
