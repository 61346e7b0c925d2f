"""Every setting of GRPO changes what it says, seen in a step of the real learner on the embedded base."""

from dataclasses import replace

import pytest
import torch

from helpers import Scripted, plain_image
from visplay.callbacks import TransformersRollout
from visplay.clock import Clock
from visplay.functional import (
    FixedLengthWeights,
    centred_advantages,
    cispo_loss,
    group_advantages,
    k1_kl,
    k2_kl,
    leave_one_out_advantages,
    sequence_geometric_weights,
    sequence_mean_weights,
    sequence_policy_loss,
    sequence_sum_weights,
    token_mean_weights,
    token_truncated_weights,
)
from visplay.modules import GRPOConfig, Reasoner
from visplay.modules.learner.group_batch import GroupBatch
from visplay.modules.learner.mismatch import MismatchConfig
from visplay.tiny import ANSWER
from visplay.types import Completion, Example, Judgement, Prompt, Rollout

CONFIG = GRPOConfig(
    steps=4,
    prompts_per_step=3,
    prompts_per_update=None,
    group_size=4,
    max_new_tokens=10,
    learning_rate=1e-3,
    weight_decay=0.0,
    max_grad_norm=1e9,
    kl_weight=0.0,
    mismatch=MismatchConfig(stop=False),  # a scripted engine's log-probabilities are made up
)
CORRECTIONS = pytest.mark.parametrize(
    "correction", [token_truncated_weights, sequence_sum_weights, sequence_geometric_weights]
)
TEXTS = ["\\boxed{1}", "\\boxed{2}", "<think>a1</think>\\boxed{1}", "\\boxed{red circle}"]


class Counted(Reasoner):
    """Pays the fraction of odd token ids, but 0 for every completion about a plain 'flat' question."""

    def judge(self, items, rollout, seed):
        shares = [
            [0.0 if "flat" in item.problem else sum(t % 2 for t in c.token_ids) / len(c.token_ids) for c in group]
            for item, group in zip(items, rollout.completions, strict=True)
        ]
        return Judgement(torch.tensor(shares), {"seen": float(len(items))}, ())


@pytest.fixture
def base(fresh_base):
    return fresh_base


def _examples(*problems):
    problems = problems or ("how many?", "which one is it?", "where?")
    return [Example(f"e{i}", plain_image(50 * i), problem, "1") for i, problem in enumerate(problems)]


def _role(vlm, config, script=lambda policy, prompt, text, sample: TEXTS[sample], kind=Counted):
    role = kind(config, ANSWER)
    role.adopt(vlm, Clock())
    role.attach_engine(Scripted(script))
    return role, role.make_optimizer()


def _step(vlm, config, *, items=None, refill=None, apply=False, seed=0, **role_settings):
    """Gradients and result of one step."""
    role, optimizer = _role(vlm, config, **role_settings)
    gradients, take = {}, optimizer.step
    names = dict(vlm.named_parameters())
    optimizer.step = lambda: (gradients.update({n: p.grad.clone() for n, p in names.items()}), apply and take())
    role.learner.begin_phase(vlm, optimizer)
    result = role.learner.step(role, items or _examples(), optimizer, lambda loss: loss.backward(), seed, refill)
    return gradients, result


def _flat(gradients):
    return torch.cat([g.flatten() for g in gradients.values()])


def _same(one, other, tolerance=1e-4):
    one, other = _flat(one), _flat(other)
    return bool((one - other).norm() <= tolerance * one.norm())


@pytest.mark.parametrize(
    "change",
    [
        {"advantage": centred_advantages},
        {"advantage": leave_one_out_advantages},
        {"aggregation": token_mean_weights},
        {"aggregation": FixedLengthWeights(tokens=10)},
    ],
)
def test_another_advantage_or_aggregation_gives_another_gradient(base, change):
    assert not _same(_step(base, CONFIG)[0], _step(base, replace(CONFIG, **change))[0], 1e-2)


def test_on_policy_every_loss_has_the_gradient_of_the_policy(base):
    """At ratio 1 clipping, and CISPO's weight, are idle; GSPO's ratio of a sequence averages its tokens likewise."""
    plain = _step(base, CONFIG)[0]
    assert _same(plain, _step(base, replace(CONFIG, policy_loss=cispo_loss))[0])
    assert _same(plain, _step(base, replace(CONFIG, policy_loss=sequence_policy_loss))[0])


def test_leave_one_out_is_centred_scaled_by_the_group(base):
    centred = _step(base, replace(CONFIG, advantage=centred_advantages))[0]
    others = _step(base, replace(CONFIG, advantage=leave_one_out_advantages))[0]
    assert _same({n: g * 4 / 3 for n, g in centred.items()}, others)


@pytest.mark.parametrize("aggregation", [FixedLengthWeights(tokens=10), token_mean_weights])
def test_no_aggregation_depends_on_the_split_into_micro_batches(base, aggregation):
    config = replace(CONFIG, aggregation=aggregation, entropy_weight=0.01)
    (whole, one), (pieces, other) = _step(base, config), _step(base, replace(config, tokens_per_micro_batch=1))
    assert _same(whole, pieces)
    assert one.statistics == pytest.approx(other.statistics, rel=1e-3, abs=1e-5)


def test_statistics_are_means_over_tokens_whatever_the_aggregation(base):
    for aggregation in (token_mean_weights, FixedLengthWeights(tokens=10)):
        statistics = _step(base, replace(CONFIG, aggregation=aggregation))[1].statistics
        assert statistics["ratio_mean"] == pytest.approx(1.0)
        assert statistics["ratio_max"] == pytest.approx(1.0)
        assert statistics["advantage_mean"] == pytest.approx(0.0, abs=1e-6)
        assert statistics["advantage_std"] > 0.5


def test_the_entropy_bonus_is_the_gradient_of_the_mean_entropy(fresh_base):
    before = _step(fresh_base, CONFIG)[1].statistics["entropy"]
    raised = replace(CONFIG, entropy_weight=100.0)
    for _ in range(3):
        _step(fresh_base, raised, apply=True)
    assert _step(fresh_base, CONFIG)[1].statistics["entropy"] > before + 0.05


def test_kl_estimators_agree_where_the_policy_is_the_reference(base):
    for estimator in (k2_kl, CONFIG.kl_estimator):
        gradients, result = _step(base, replace(CONFIG, kl_weight=1.0, kl_estimator=estimator))
        assert _same(gradients, _step(base, CONFIG)[0])
        assert result.statistics["kl"] == pytest.approx(0.0, abs=1e-6)
    score_function, _ = _step(base, replace(CONFIG, kl_weight=1.0, kl_estimator=k1_kl))
    assert not _same(score_function, _step(base, CONFIG)[0], 1e-2)


def test_kl_to_the_base_survives_the_phase(fresh_base):
    with torch.no_grad():
        for weight in fresh_base.parameters():
            weight.add_(0.01 * torch.randn_like(weight) if weight.dim() > 1 else 0.0)
    to_start = _step(fresh_base, replace(CONFIG, kl_weight=0.1))[1].statistics["kl"]
    to_base = _step(fresh_base, replace(CONFIG, kl_weight=0.1, kl_reference="base"))[1].statistics["kl"]
    assert to_start == pytest.approx(0.0, abs=1e-6)
    assert to_base > 1e-3


def test_kl_to_the_policy_that_sampled_acts_from_the_second_update_on(fresh_base):
    config = replace(CONFIG, kl_weight=0.1, kl_reference="old")
    role, _ = _role(fresh_base, config)
    assert role.learner.reference is None
    assert _step(fresh_base, config)[1].statistics["kl"] == pytest.approx(0.0, abs=1e-7)
    off_policy = replace(config, prompts_per_update=1, learning_rate=1e-2)
    assert _step(fresh_base, off_policy, apply=True)[1].statistics["kl"] > 1e-5


def test_kl_in_the_reward_charges_the_whole_completion(fresh_base):
    config = replace(CONFIG, kl_weight=0.5, kl_reference="base", kl_in="reward", kl_estimator=k1_kl)
    with torch.no_grad():
        fresh_base.head_weight.add_(0.02 * torch.randn_like(fresh_base.head_weight))
    role, optimizer = _role(fresh_base, config)
    role.learner.begin_phase(fresh_base, optimizer)
    rollout = role.rollout(_examples(), 4, 0)
    batch = role.learner._score_before(fresh_base, role.collate(rollout))
    rewards = torch.arange(12.0).view(3, 4)
    charged = role.learner._charge_kl(rewards, batch)
    by_hand = ((batch.old_logps - batch.reference_logps) * batch.mask).sum(-1)
    assert by_hand.abs().max() > 1e-2
    torch.testing.assert_close(rewards - charged, 0.5 * by_hand)
    in_loss = replace(config, kl_in="loss")
    assert not _same(_step(fresh_base, config)[0], _step(fresh_base, in_loss)[0], 1e-2)


def _script_cut(policy, prompt, text, sample):
    return TEXTS[sample], sample != 1


def test_cut_off_completions_are_counted_or_left_out(base):
    counted, result = _step(base, CONFIG, script=_script_cut)
    masked, _ = _step(base, replace(CONFIG, mask_truncated=True), script=_script_cut)
    assert result.statistics["truncated_fraction"] == 0.25
    assert not _same(counted, masked, 1e-2)
    completions = tuple(Completion((1, 2)[: i + 1], (0.0,) * (i + 1), "", finished=i > 0) for i in range(2))
    batch = GroupBatch.collate(Rollout((Prompt("a", (1,), ()),), (completions,)), [1])
    (mini,) = batch.mini_batches(None, token_mean_weights, mask_truncated=True)
    assert mini.weights.tolist() == [[[0.0, 0.0], [0.5, 0.5]]]
    (mini,) = batch.mini_batches(None, token_mean_weights)
    torch.testing.assert_close(mini.weights, torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]) / 3)


def test_groups_without_variance_are_left_out(base):
    items = _examples("flat", "how many?", "flat too", "which?")
    config = replace(CONFIG, prompts_per_step=4, filter_zero_variance=True)
    filtered, result = _step(base, config, items=items)
    alone, _ = _step(base, replace(CONFIG, filter_zero_variance=True), items=[items[1], items[3]])
    assert _same(filtered, alone)
    assert result.statistics["zero_variance_groups"] == 0.5
    assert result.statistics["effective_groups"] == 2
    assert result.statistics["sampled_groups"] == 4
    assert len(result.rollout.prompts) == 4


def test_refills_replace_them_up_to_the_limit(base):
    spare = iter(_examples("flat a", "flat b", "how?", "which?", "who?", "what?"))
    asked = []

    def refill(count):
        asked.append(count)
        return [next(spare) for _ in range(count)]

    config = replace(CONFIG, filter_zero_variance=True, max_refills=2)
    _, result = _step(base, config, items=_examples("flat", "flat too", "where?"), refill=refill)
    assert asked == [2, 2]
    assert result.statistics["sampled_groups"] == 7
    assert result.statistics["effective_groups"] == 3
    assert result.judgement.statistics["seen"] == pytest.approx((3 * 3 + 2 * 2 + 2 * 2) / 7)


class Weighed(Counted):
    """Weighs each example by its score."""

    def judge(self, items, rollout, seed):
        return replace(super().judge(items, rollout, seed), weights=torch.tensor([item.score for item in items]))


def _weighed_step(vlm, weights, config=CONFIG, **settings):
    examples = [replace(e, score=w) for e, w in zip(_examples(), weights, strict=True)]
    return _step(vlm, config, kind=Weighed, items=examples, **settings)


def test_weights_of_prompts_multiply_their_advantages(base):
    """The first update's gradient is linear in the advantages: it is the weighed sum of those of single prompts."""
    one, other, third = (_weighed_step(base, [float(n == k) for k in range(3)])[0] for n in range(3))
    weighed, result = _weighed_step(base, [1.0, 0.5, 0.25])
    assert _same({n: one[n] + 0.5 * other[n] + 0.25 * third[n] for n in one}, weighed)
    assert _same(_step(base, CONFIG)[0], _weighed_step(base, [1.0] * 3)[0], 0.0)
    assert result.judgement.weights.tolist() == [1.0, 0.5, 0.25]


def test_weights_follow_the_groups_that_are_kept(base):
    """The flat group is left out, and another sampled in its place; a Judgement without weights counts in full."""
    batches, (flat, *others) = [], _examples("flat", "how many?", "where?")
    role, optimizer = _role(base, replace(CONFIG, filter_zero_variance=True, max_refills=1), kind=Weighed)
    role.learner.on_batch = batches.append
    role.learner.begin_phase(base, optimizer)
    items, spare = [flat, replace(others[0], score=0.5)], [replace(others[1], score=0.25)]
    role.learner.step(role, items, optimizer, lambda loss: loss.backward(), 0, lambda count: spare)
    (batch,) = batches
    expected = group_advantages(batch.rewards) * torch.tensor([[0.5], [0.25]])
    torch.testing.assert_close(batch.advantages, expected)
    without = Judgement(torch.ones(1, 2), {}, ())
    assert without.join(without).weights is None
    assert without.join(replace(without, weights=torch.tensor([0.5]))).weights.tolist() == [1.0, 0.5]


def test_weights_that_are_none():
    with pytest.raises(
        ValueError, match=r"weights: need one for each of the N prompts, got \(3,\) for rewards of \(2, 4"
    ):
        Judgement(torch.ones(2, 4), {}, (), torch.ones(3))
    with pytest.raises(ValueError, match=r"weights: must be in \[0, 1\], got \[1.5\]"):
        Judgement(torch.ones(2, 4), {}, (), torch.tensor([0.5, 1.5]))


def test_a_step_without_any_group_to_learn_from_updates_nothing(base):
    version = base.version
    gradients, result = _step(base, replace(CONFIG, filter_zero_variance=True), items=_examples("flat"))
    assert not gradients
    assert base.version == version
    assert result.statistics["effective_groups"] == 0
    assert "policy_loss" not in result.statistics


@CORRECTIONS
def test_no_correction_depends_on_the_split_into_micro_batches(base, correction):
    config = replace(CONFIG, correction=correction, kl_weight=0.1, entropy_weight=0.01)
    (whole, one), (pieces, other) = _step(base, config), _step(base, replace(config, tokens_per_micro_batch=1))
    assert _same(whole, pieces)
    assert one.statistics == pytest.approx(other.statistics, rel=1e-3, abs=1e-5)


def test_each_correction_gives_another_gradient(base):
    corrections = (None, token_truncated_weights, sequence_sum_weights, sequence_geometric_weights)
    gradients = [_step(base, replace(CONFIG, correction=correction))[0] for correction in corrections]
    for index, one in enumerate(gradients):
        assert not any(_same(one, other, 1e-2) for other in gradients[:index])


def test_a_correction_multiplies_the_weights_of_its_tokens(base):
    """Here one half for all; the first two tokens of each completion are said to be kept."""

    def half(log_ratios, mask, cap):
        return torch.full_like(log_ratios, 0.5), mask & (torch.arange(mask.shape[1]) < 2)

    plain, before = _step(base, CONFIG)
    corrected, after = _step(base, replace(CONFIG, correction=half))
    assert _same({n: 0.5 * g for n, g in plain.items()}, corrected)
    assert after.statistics["correction_mean"] == pytest.approx(0.5)
    tokens = [[len(c.token_ids) for c in group] for group in after.rollout.completions]
    shares = [2 / count for group in tokens for count in group]
    assert after.statistics["correction_kept_fraction"] == pytest.approx(sum(shares) / len(shares))
    kept = {n: v for n, v in after.statistics.items() if not n.startswith("correction") and n != "policy_loss"}
    assert kept == pytest.approx({n: before.statistics[n] for n in kept} | {"grad_norm": kept["grad_norm"]})


def test_a_correction_leaves_kl_and_entropy_alone(base):
    def nothing(log_ratios, mask, cap):
        return torch.zeros_like(log_ratios), mask

    config = replace(CONFIG, kl_weight=1.0, kl_estimator=k1_kl, entropy_weight=0.1)
    without = _step(base, replace(config, advantage=lambda rewards: 0.0 * rewards))[0]
    assert _same(without, _step(base, replace(config, correction=nothing))[0])


@CORRECTIONS
def test_a_correction_of_an_engine_that_is_right_changes_nothing(fresh_base, correction):
    config = replace(CONFIG, mismatch=MismatchConfig(), max_new_tokens=24)
    gradients = []
    for change in ({}, {"correction": correction}):
        role, optimizer = _role(fresh_base, replace(config, **change))
        role.attach_engine(TransformersRollout())
        optimizer.step = lambda: gradients.append({n: p.grad.clone() for n, p in fresh_base.named_parameters()})
        result = role.learner.step(role, _examples(), optimizer, lambda loss: loss.backward(), 0)
    assert _same(*gradients)
    assert result.statistics["correction_mean"] == pytest.approx(1.0, abs=1e-4)
    assert result.statistics["correction_kept_fraction"] == 1.0


def test_off_policy_the_correction_is_that_before_the_first_update(fresh_base):
    config = replace(CONFIG, prompts_per_update=1, learning_rate=1e-2, correction=token_truncated_weights)
    one = _step(fresh_base, replace(config, prompts_per_update=None))[1].statistics
    many = _step(fresh_base, config, apply=True)[1].statistics
    assert many["correction_mean"] == pytest.approx(one["correction_mean"], rel=1e-3)
    assert many["ratio_max"] > 1.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl_weight": -0.1}, "kl_weight: -0.1 must not be negative"),
        ({"max_refills": 2}, "max_refills: 2 refills nothing unless filter_zero_variance is true"),
        ({"kl_in": "reward", "kl_reference": "old"}, "kl_reference: 'old' sampled the step"),
        ({"policy_loss": cispo_loss, "dual_clip": 3.0}, "dual_clip"),
        ({"clip_low": 1.5}, r"clip_low: must be in \[0, 1\], got 1.5"),
        ({"advantage": lambda rewards: rewards.mean()}, r"advantage: must give \(1, 2\) for \(1, 2\)"),
        ({"correction": lambda log_ratios, mask, cap: log_ratios}, "correction: must give weights and kept tokens"),
        ({"correction": token_truncated_weights, "correction_cap": 0.5}, "correction_cap: 0.5 must be at least 1"),
    ],
)
def test_bad_settings_fail_before_the_first_rollout(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_a_function_of_another_kind_is_no_correction():
    with pytest.raises(TypeError):
        replace(CONFIG, correction=sequence_mean_weights)
