"""An update whose loss or gradient is not finite leaves no trace but in the log; several in a row end the run."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from helpers import plain_image
from visplay.callbacks import TransformersRollout
from visplay.clock import Clock
from visplay.modules import GRPOConfig, NonFiniteUpdateError, Reasoner
from visplay.tiny import ANSWER
from visplay.types import Example, Judgement

CONFIG = GRPOConfig(
    steps=4,
    prompts_per_step=3,
    prompts_per_update=None,
    group_size=4,
    max_new_tokens=8,
    learning_rate=1e-3,
    tokens_per_micro_batch=1,  # one completion: the gradient of an update is the sum of twelve
    max_skipped_updates=3,
)
NAN, INF = math.nan, math.inf


class Odd(Reasoner):
    """Pays the fraction of odd token ids."""

    def judge(self, items, rollout, seed):
        shares = [[sum(t % 2 for t in c.token_ids) / len(c.token_ids) for c in g] for g in rollout.completions]
        return Judgement(torch.tensor(shares), {}, ())


class Learner:
    """Takes steps of a seed; ``spoil`` changes the loss of each micro-batch, counted over all of them."""

    def __init__(self, vlm, config=CONFIG, scaler=None):
        self.role = Odd(config, ANSWER)
        self.role.adopt(vlm, Clock())
        self.role.attach_engine(TransformersRollout())
        self.optimizer = self.role.make_optimizer()
        self.grpo, self.vlm, self.scaler = self.role.learner, vlm, scaler
        self.spoil = lambda loss, count: loss
        self.count = 0
        self.told = []
        self.grpo.on_skipped = self.told.append

    def backward(self, loss):
        loss = self.spoil(loss, self.count)
        self.count += 1
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, seed):
        items = [Example(f"e{i}", plain_image(50 * i), f"where is the circle, {i}?", "1") for i in range(3)]
        self.count = 0
        optimizer = self.optimizer if self.scaler is None else Scaling(self.optimizer, self.scaler)
        return self.grpo.step(self.role, items, optimizer, self.backward, seed, scaler=self.scaler).statistics

    def state(self):
        return copy.deepcopy([self.vlm.state_dict(), self.optimizer.state_dict()])


class Scaling:
    """Steps as Lightning's precision plugin does."""

    def __init__(self, optimizer, scaler):
        self.optimizer, self.scaler = optimizer, scaler
        self.param_groups, self.zero_grad = optimizer.param_groups, optimizer.zero_grad

    def step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("where", [0, 7, 11])
def test_one_micro_batch_spoils_the_update_and_the_state_is_as_it_was(fresh_base, bad, where):
    learner = Learner(fresh_base)
    learner.step(0)
    before, version = learner.state(), fresh_base.version
    learner.spoil = lambda loss, count: loss * bad if count == where else loss
    statistics = learner.step(1)
    assert learner.count == 12
    assert statistics["skipped_updates"] == 1.0
    assert not math.isfinite(statistics["grad_norm"])
    assert _same(learner.state(), before)
    assert fresh_base.version == version
    assert all(weight.grad is None for weight in fresh_base.parameters())


def test_a_skipped_update_does_not_change_the_ones_after_it(fresh_base):
    twin = copy.deepcopy(fresh_base)
    disturbed, plain = Learner(fresh_base), Learner(twin)
    for learner in (disturbed, plain):
        learner.step(0)
    disturbed.spoil = lambda loss, count: loss * NAN
    disturbed.step(1)
    disturbed.spoil = lambda loss, count: loss
    for learner in (disturbed, plain):
        learner.step(2)
    assert _same(disturbed.state(), plain.state())


def test_a_loss_that_is_not_finite_is_enough(fresh_base, monkeypatch):
    learner = Learner(fresh_base)
    inner = learner.grpo._loss

    def spoil(*args):
        loss, statistics = inner(*args)
        return loss + NAN * torch.zeros(()), statistics  # the gradient is that of the loss

    monkeypatch.setattr(learner.grpo, "_loss", spoil)
    before = learner.state()
    statistics = learner.step(0)
    assert math.isfinite(statistics["grad_norm"])
    assert statistics["skipped_updates"] == 1.0
    assert _same(learner.state(), before)


def test_log_probabilities_of_the_policy_that_are_not_finite_are_no_mismatch(fresh_base, monkeypatch):
    learner = Learner(fresh_base)
    logps = type(fresh_base).logps
    monkeypatch.setattr(type(fresh_base), "logps", lambda *args, **named: tuple(s * NAN for s in logps(*args, **named)))
    before = learner.state()
    assert learner.step(0)["skipped_updates"] == 1.0
    assert _same(learner.state(), before)
    assert not learner.grpo.mismatch.accepted


def test_only_one_of_several_updates_is_skipped(fresh_base):
    learner = Learner(fresh_base, replace(CONFIG, prompts_per_update=1))
    learner.spoil = lambda loss, count: loss * NAN if count == 5 else loss  # of the second prompt
    statistics = learner.step(0)
    assert statistics["skipped_updates"] == pytest.approx(1 / 3)
    assert fresh_base.version == 2
    (told,) = learner.told
    assert [prompt.key for prompt in told.batch.prompts] == ["e1"]
    assert told.in_a_row == 1


def test_what_is_told(fresh_base):
    learner = Learner(fresh_base)
    learner.spoil = lambda loss, count: loss * INF
    learner.step(0)
    (told,) = learner.told
    assert told.policy is fresh_base
    assert math.isfinite(told.loss)
    assert not math.isfinite(told.grad_norm)
    batch = told.batch
    shape = (3, 4, int(batch.mask.sum(-1).max()))
    assert batch.rewards.shape == batch.advantages.shape == (3, 4)
    assert batch.token_ids.shape == batch.old_logps.shape == batch.sampled_logps.shape == shape
    assert torch.allclose(batch.old_logps, batch.sampled_logps, atol=1e-4)
    assert (batch.rewards - batch.rewards.mean(1, keepdim=True)).sign().equal(batch.advantages.sign())


def test_the_run_stops_after_so_many_in_a_row(fresh_base):
    learner = Learner(fresh_base)
    bad = {1, 2, 4, 5, 6}
    before = None
    for seed in range(6):
        learner.spoil = lambda loss, count, seed=seed: loss * NAN if seed in bad else loss
        learner.step(seed)
        before = learner.state()
    learner.spoil = lambda loss, count: loss * NAN
    with pytest.raises(NonFiniteUpdateError, match="reasoner, version 2: .* not finite in 3 updates in a row"):
        learner.step(6)
    assert [told.in_a_row for told in learner.told] == [1, 2, 1, 2, 3]
    assert _same(learner.state(), before)
    assert all(weight.grad is None for weight in fresh_base.parameters())


def test_float16_lowers_its_scale_and_does_not_count_that(fresh_base):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=1000)
    learner = Learner(fresh_base, replace(CONFIG, max_skipped_updates=1), scaler)
    before = learner.state()
    learner.spoil = lambda loss, count: loss * (INF if count == 3 else 1.0)
    assert learner.step(0)["skipped_updates"] == 1.0
    assert scaler.get_scale() == 2.0**15
    assert _same(learner.state(), before)
    assert not learner.told
    learner.spoil = lambda loss, count: loss
    assert learner.step(0)["skipped_updates"] == 0.0
    assert fresh_base.version == 1
    assert scaler.get_scale() == 2.0**15


def test_the_norm_is_that_of_the_unscaled_gradient(fresh_base):
    scaled = Learner(copy.deepcopy(fresh_base), CONFIG, torch.amp.GradScaler("cpu", init_scale=2.0**10))
    plain = Learner(fresh_base)
    assert scaled.step(0)["grad_norm"] == pytest.approx(plain.step(0)["grad_norm"], rel=1e-6)
    for weight, other in zip(plain.vlm.parameters(), scaled.vlm.parameters(), strict=True):
        assert torch.allclose(weight, other, atol=1e-6)


def test_bad_setting():
    with pytest.raises(ValueError, match="max_skipped_updates: 0 must be at least 1"):
        replace(CONFIG, max_skipped_updates=0)
