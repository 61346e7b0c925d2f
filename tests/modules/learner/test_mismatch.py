import math
from dataclasses import replace

import pytest
import torch
from jsonargparse import ArgumentParser

from helpers import plain_image
from visplay.callbacks import TransformersRollout
from visplay.clock import Clock
from visplay.functional import sequence_sum_weights
from visplay.modules import GRPOConfig, Reasoner
from visplay.modules.learner.mismatch import MismatchCheck, MismatchConfig, PolicyMismatchError, precision
from visplay.tiny import ANSWER
from visplay.types import Example, Judgement

CONFIG = GRPOConfig(
    steps=4,
    prompts_per_step=3,
    prompts_per_update=None,
    group_size=4,
    max_new_tokens=16,
    learning_rate=1e-3,
    kl_weight=0.0,
)


class Odd(Reasoner):
    """Pays the fraction of odd token ids."""

    def judge(self, items, rollout, seed):
        shares = [[sum(t % 2 for t in c.token_ids) / len(c.token_ids) for c in g] for g in rollout.completions]
        return Judgement(torch.tensor(shares), {}, ())


class Faulty(TransformersRollout):
    """Samples from another policy once it has one, and changes what it reports."""

    other = None
    report = staticmethod(lambda logps: logps)

    def sample(self, policy, prompts, sampling):
        groups = super().sample(self.other or policy, prompts, sampling)
        return [[replace(c, logps=tuple(self.report(list(c.logps)))) for c in group] for group in groups]


@pytest.fixture
def learn(fresh_base):
    """Makes a function that takes one step of a seed; engine, learner and policy are its attributes."""
    engine = Faulty()

    def make(config=CONFIG):
        role = Odd(config, ANSWER)
        role.adopt(fresh_base, Clock())
        role.attach_engine(engine)
        optimizer = role.make_optimizer()
        items = [Example(f"e{i}", plain_image(50 * i), f"where is the circle, {i}?", "1") for i in range(3)]

        def step(seed=0):
            return role.learner.step(role, items, optimizer, lambda loss: loss.backward(), seed).statistics

        step.engine, step.learner, step.policy = engine, role.learner, fresh_base
        return step

    return make


def _weights(policy):
    return {name: weight.detach().clone() for name, weight in policy.named_parameters()}


def _rejected(step, message, seed=0):
    """The step raises, and nothing of its update is left."""
    before, version, accepted = _weights(step.policy), step.policy.version, list(step.learner.mismatch.accepted)
    with pytest.raises(PolicyMismatchError, match=message) as raised:
        step(seed)
    assert step.policy.version == version
    assert list(step.learner.mismatch.accepted) == accepted
    for name, weight in step.policy.named_parameters():
        assert torch.equal(before[name], weight), name
        assert weight.grad is None, name
    return str(raised.value)


def test_other_weights_stop_the_run_before_the_update(learn):
    step = learn()
    step.engine.other = step.policy.frozen_copy()
    with torch.no_grad():
        step.engine.other.head_weight.mul_(1.02)
    message = _rejected(step, r"logp_gap_mean is 0\.\d+ nats, above mismatch\.mean_limit=0\.001 \(full precision\)")
    assert "reasoner, version 0" in message
    for hint in ("last load and its checksums", "names that a subclass", "caches", "dtype", "temperature and banned"):
        assert hint in message


def test_other_weights_stop_the_first_update_of_a_split_step(learn):
    step = learn(replace(CONFIG, prompts_per_update=1, tokens_per_micro_batch=1))
    step.engine.other = step.policy.frozen_copy()
    with torch.no_grad():
        step.engine.other.head_weight.mul_(1.02)
    _rejected(step, "above mismatch.mean_limit")


def test_weights_of_one_update_ago_are_a_jump(learn):
    """At a rate of 1e-7 the gap is below the limit, but far from what it was."""
    step = learn(replace(CONFIG, learning_rate=1e-7))
    for seed in range(2):
        step(seed)
    step.engine.other = step.policy.frozen_copy()
    step(2)
    _rejected(
        step, r"above mismatch\.jump=10 times the median .* of the last 3 updates .* mismatch\.jump_floor=1e-05", 3
    )
    step.engine.other = None
    assert step(3)["logp_gap_mean"] < 1e-5


def test_an_engine_that_holds_the_weights_goes_on(learn):
    step = learn(replace(CONFIG, prompts_per_update=1))
    for seed in range(3):
        statistics = step(seed)
    assert statistics["logp_gap_mean"] < 1e-5
    assert len(step.learner.mismatch.accepted) == 9


@pytest.mark.parametrize(("bad", "shown"), [(math.nan, "nan"), (-math.inf, "inf")])
def test_a_log_probability_that_is_not_finite_stops_the_run(learn, bad, shown):
    step = learn()
    step.engine.report = lambda logps: [*logps[:-1], bad]
    _rejected(step, f"logp_gap_mean is {shown}, so a log-probability .* is not finite")


def test_switched_off_it_only_measures(learn):
    step = learn(replace(CONFIG, mismatch=MismatchConfig(stop=False, token_limit=0.25)))
    step.engine.report = lambda logps: [logp - 0.5 for logp in logps]
    statistics = step()
    assert statistics["logp_gap_mean"] == pytest.approx(0.5, abs=1e-4)
    assert statistics["logp_gap_beyond_fraction"] == 1.0
    assert statistics["effective_sample_size"] == pytest.approx(1.0)
    assert step.policy.version == 1


def test_without_a_token_that_counts_there_is_nothing_to_check(learn):
    step = learn(replace(CONFIG, max_new_tokens=1, mask_truncated=True))
    step.engine.report = lambda logps: [logp - 9.0 for logp in logps]
    statistics = step()
    assert statistics["truncated_fraction"] == 1.0
    assert statistics["logp_gap_mean"] == 0.0
    assert not step.learner.mismatch.accepted


def test_half_precision_has_limits_of_its_own(learn):
    step = learn()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        for seed in range(3):
            assert step(seed)["logp_gap_mean"] < 0.02
        step.engine.other = step.policy.frozen_copy()
        with torch.no_grad():
            step.engine.other.head_weight.mul_(4.0)
        _rejected(step, r"above mismatch\.mean_limit=0\.1 \(half precision\)", 3)


def test_precision_of_the_forward(fresh_base):
    assert precision(fresh_base) == "full"
    with torch.autocast("cpu", torch.bfloat16):
        assert precision(fresh_base) == "half"
    try:
        torch.set_float32_matmul_precision("high")
        assert precision(fresh_base) == "half"
    finally:
        torch.set_float32_matmul_precision("highest")
    next(fresh_base.parameters()).data = next(fresh_base.parameters()).data.bfloat16()
    assert precision(fresh_base) == "half"


def _passes(base, config, gaps):
    """Which of these mean gaps in turn a mismatch accepts."""
    mismatch, passed = MismatchCheck(config), []
    for gap in gaps:
        try:
            mismatch.check(base, gap)
        except PolicyMismatchError:
            passed.append(False)
        else:
            passed.append(True)
    return passed


def test_rules_by_hand(base):
    assert _passes(base, MismatchConfig(), [1e-3, 1.1e-3, 0.0]) == [True, False, True]
    # Floor 1e-5 in float32; a rejected gap does not enter the median of 1e-6, 1e-6, 8e-6.
    assert _passes(base, MismatchConfig(), [1e-6, 1e-6, 8e-6, 1.2e-5, 1.2e-5, 9e-6]) == [True] * 3 + [False] * 2 + [
        True
    ]
    assert _passes(base, MismatchConfig(jump=None), [1e-6, 9e-4]) == [True, True]
    assert _passes(base, MismatchConfig(jump_floor=1e-3), [1e-6, 9e-4]) == [True, True]
    assert _passes(base, MismatchConfig(mean_limit=1.0, jump=2.0), [0.5, 0.9, 1.1]) == [True, True, False]
    # A window of one forgets all but the last.
    assert _passes(base, MismatchConfig(window=1), [1e-5, 5e-5, 4e-4]) == [True, True, True]
    assert _passes(base, MismatchConfig(), [1e-5, 5e-5, 4e-4]) == [True, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_limit": 0.0}, r"token_limit: 0.0 must be above 0, in nats"),
        ({"mean_limit": -1.0}, r"mean_limit: -1.0 must be above 0"),
        ({"jump_floor": math.nan}, r"jump_floor: nan must be above 0"),
        ({"jump": 1.0}, r"jump: 1.0 must be above 1, or null"),
        ({"window": 0}, r"window: 0 must be at least 1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        MismatchConfig(**change)


def test_yaml_names_limits_and_correction():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(GRPOConfig, "grpo")
    grpo = {
        "mismatch": {"mean_limit": 0.05, "jump": None},
        "correction": "visplay.functional.sequence_sum_weights",
        "correction_cap": 3.0,
    }
    config = parser.instantiate_classes(parser.parse_object({"grpo": grpo})).grpo
    assert config.mismatch == MismatchConfig(mean_limit=0.05, jump=None)
    assert config.correction is sequence_sum_weights
    assert config.correction_cap == 3.0
