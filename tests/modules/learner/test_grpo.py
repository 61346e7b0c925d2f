from dataclasses import replace

import pytest
import torch

from helpers import Scripted, plain_image
from visplay.callbacks import TransformersRollout
from visplay.clock import Clock
from visplay.modules import GRPOConfig, Reasoner
from visplay.modules.learner.group_batch import GroupBatch
from visplay.modules.learner.mismatch import MismatchConfig
from visplay.tiny import ANSWER
from visplay.types import Completion, Example, Judgement, Prompt, Rollout

CONFIG = GRPOConfig(
    steps=4,
    prompts_per_step=4,
    prompts_per_update=None,
    group_size=4,
    max_new_tokens=10,
    learning_rate=1e-3,
    kl_weight=0.0,
)


class LikesEvenTokens(Reasoner):
    """Rewarded for the fraction of even token ids, so that learning can be seen with any weights."""

    def judge(self, items, rollout, seed):
        shares = [[sum(t % 2 == 0 for t in c.token_ids) / len(c.token_ids) for c in g] for g in rollout.completions]
        return Judgement(torch.tensor(shares), {}, ())


def _role(vlm, config=CONFIG, kind=LikesEvenTokens, engine=None):
    role = kind(config, ANSWER)
    role.adopt(vlm, Clock())
    role.attach_engine(engine or TransformersRollout())
    return role, role.make_optimizer()


def _examples(n=4):
    return [
        Example(f"e{i}", plain_image(50 * i), "How many " + "red " * i + "circles are there?", "2") for i in range(n)
    ]


def _gradients(vlm, config, seed=3):
    """Gradients of one update, without applying it."""
    role, optimizer = _role(vlm, config)
    gradients = {}
    optimizer.step = lambda: gradients.update({n: p.grad.clone() for n, p in vlm.named_parameters()})
    role.learner.begin_phase(vlm, optimizer)
    statistics = role.learner.step(role, _examples(), optimizer, lambda loss: loss.backward(), seed).statistics
    return gradients, statistics


def test_learns_what_is_rewarded(fresh_base):
    role, optimizer = _role(fresh_base)
    role.learner.begin_phase(fresh_base, optimizer)
    rewards = [
        role.learner.step(role, _examples(), optimizer, lambda loss: loss.backward(), seed)[2]["reward"]
        for seed in range(25)
    ]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1
    assert fresh_base.version == 25


def test_gradients_do_not_depend_on_the_split_into_micro_batches(fresh_base):
    config = replace(CONFIG, max_grad_norm=1e9, kl_weight=0.1)
    whole, statistics = _gradients(fresh_base, config)
    pieces, again = _gradients(fresh_base, replace(config, tokens_per_micro_batch=1))
    assert statistics == pytest.approx(again, rel=1e-3, abs=1e-5)
    for name, gradient in whole.items():
        assert (gradient - pieces[name]).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_micro_batches_respect_the_limit_and_lose_nothing():
    completions = tuple(
        tuple(Completion(tuple(range(1, 2 + i + j)), (0.0,) * (1 + i + j), "", True) for j in range(2))
        for i in range(5)
    )
    prompts = tuple(Prompt(str(i), (7,) * (3 + i), ()) for i in range(5))
    tokens = [103, 104, 105, 106, 107]  # with an image of 100 tokens each
    batch = replace(GroupBatch.collate(Rollout(prompts, completions), tokens), advantages=torch.arange(10.0).view(5, 2))
    (mini,) = batch.mini_batches(None)
    for limit in (1, 106, 108, 230, 350, 10_000):
        micros = [micro for _, micro in mini.micro_batches(limit)]
        assert list(dict.fromkeys(p.key for m in micros for p in m.prompts)) == list("01234")
        assert [a for m in micros for a in m.advantages.flatten().tolist()] == list(range(10))
        assert sum(float(m.weights.sum()) for m in micros) == pytest.approx(1.0)
        several = [m for m in micros if m.mask.shape[:2] != (1, 1)]
        assert all(int(m.prompt_tokens.sum() + m.mask.sum()) <= limit for m in several)
        for micro in micros:
            assert micro.token_ids.shape[-1] == int(micro.mask.sum(-1).max())
            first = int(micro.advantages[0, 0]) % 2  # of the completions of its prompts
            assert micro.token_ids[micro.mask].tolist() == [
                t
                for p in micro.prompts
                for c in completions[int(p.key)][first : first + micro.mask.shape[1]]
                for t in c.token_ids
            ]
    assert [m.mask.shape[:2] for _, m in mini.micro_batches(1)] == [(1, 1)] * 10
    halves = [tuple(m.mask.shape[:2]) for _, m in mini.micro_batches(104 + 2 + 3)]
    assert halves == [(1, 2), (1, 2), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]
    exactly = 105 + 106 + (3 + 4) + (4 + 5)  # prompts 2 and 3, each once, and their completions
    assert [len(m.prompts) for _, m in mini.micro_batches(exactly)] == [2, 2, 1]
    assert [len(m.prompts) for _, m in mini.micro_batches(exactly - 1)] == [2, 1, 1, 1]
    assert [len(m.prompts) for m in batch.mini_batches(2)] == [2, 2, 1]
    assert all(float(m.weights.sum()) == pytest.approx(1.0) for m in batch.mini_batches(2))


def test_a_step_without_any_difference_in_reward_moves_nothing(fresh_base):
    def judge(items, rollout, seed):
        return Judgement(torch.ones(len(items), 4), {}, ())

    role, optimizer = _role(fresh_base, replace(CONFIG, kl_weight=0.0))
    role.judge = judge
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    before = {n: p.detach().clone() for n, p in fresh_base.named_parameters()}
    role.learner.begin_phase(fresh_base, optimizer)
    statistics = role.learner.step(role, _examples(), optimizer, lambda loss: loss.backward(), 0).statistics
    assert statistics["zero_variance_groups"] == 1.0
    assert statistics["grad_norm"] == 0.0
    for name, parameter in fresh_base.named_parameters():
        assert torch.equal(before[name], parameter), name


def test_reference_is_the_policy_at_the_start_of_the_phase(fresh_base):
    role, optimizer = _role(fresh_base, replace(CONFIG, kl_weight=0.1))
    role.learner.begin_phase(fresh_base, optimizer)
    kl = [role.learner.step(role, _examples(), optimizer, lambda loss: loss.backward(), s)[2]["kl"] for s in range(3)]
    assert kl[0] == pytest.approx(0.0, abs=1e-6)
    assert kl[2] > 1e-6
    role.learner.begin_phase(fresh_base, optimizer)
    assert not optimizer.state
    again = role.learner.step(role, _examples(), optimizer, lambda loss: loss.backward(), 9)[2]["kl"]
    assert again == pytest.approx(0.0, abs=1e-6)
    role.learner.end_phase(optimizer)
    assert role.learner.reference is None


def test_the_learning_rate_warms_up_in_every_phase(fresh_base):
    role, optimizer = _role(fresh_base, replace(CONFIG, warmup_steps=2))
    for _ in range(2):
        role.learner.begin_phase(fresh_base, optimizer)
        rates, moved = [], []
        for seed in range(3):
            before = fresh_base.fingerprint()
            step = role.learner.step(role, _examples(), optimizer, lambda loss: loss.backward(), seed)
            rates.append(step.statistics["learning_rate"])
            moved.append(fresh_base.fingerprint() != before)
        assert rates == [0.0, 0.5e-3, 1e-3]
        assert moved == [False, True, True]


def test_the_learning_rate_falls_from_iteration_to_iteration_and_warms_up_in_each(fresh_base):
    role, optimizer = _role(fresh_base, replace(CONFIG, warmup_steps=2, learning_rate_decay=0.5))
    for iteration in (1, 2, 3):
        role.learner.begin_phase(fresh_base, optimizer, iteration=iteration)
        rates = []
        for seed in range(3):
            state = role.learner.state_dict()
            step = role.learner.step(role, _examples(), optimizer, lambda loss: loss.backward(), seed)
            rates.append(step.statistics["learning_rate"])
        assert rates == [0.0, 0.5e-3 * 0.5 ** (iteration - 1), 1e-3 * 0.5 ** (iteration - 1)]
    again, other = _role(fresh_base, replace(CONFIG, warmup_steps=2, learning_rate_decay=0.5))
    again.learner.load_state_dict(state | {"reference": None})  # before the last step of iteration 3
    again.learner.begin_phase(fresh_base, other, iteration=3, continued=True)
    step = again.learner.step(again, _examples(), other, lambda loss: loss.backward(), 0)
    assert step.statistics["learning_rate"] == 0.25e-3


def test_a_phase_may_start_from_the_base(fresh_base):
    begun = {name: weight.clone() for name, weight in fresh_base.state_dict().items()}
    for start_from in ("base", "last_phase"):
        role, optimizer = _role(fresh_base, replace(CONFIG, start_from=start_from))
        with torch.no_grad():
            for weight in fresh_base.parameters():
                weight.add_(1.0)
        moved, version = {name: weight.clone() for name, weight in fresh_base.state_dict().items()}, fresh_base.version
        role.learner.begin_phase(fresh_base, optimizer, continued=True)
        assert fresh_base.version == version
        role.learner.begin_phase(fresh_base, optimizer)
        assert fresh_base.version == version + (start_from == "base"), "or engines would keep the old weights"
        expected = begun if start_from == "base" else moved
        assert all(torch.equal(weight, expected[name]) for name, weight in fresh_base.state_dict().items())


def test_groups_left_over_are_spread_over_the_mini_batches():
    completions = tuple((Completion((1, 2), (0.0, 0.0), "", True),) * 2 for _ in range(9))
    prompts = tuple(Prompt(str(i), (7,), ()) for i in range(9))
    batch = GroupBatch.collate(Rollout(prompts, completions), [1] * 9)
    for groups, size, expected in [(5, 4, [3, 2]), (9, 4, [3, 3, 3]), (8, 4, [4, 4]), (3, 4, [3]), (9, 8, [5, 4])]:
        minis = list(batch.take(slice(groups)).mini_batches(size))
        assert [len(mini.prompts) for mini in minis] == expected
        assert [p.key for mini in minis for p in mini.prompts] == [str(i) for i in range(groups)]


def test_later_mini_batches_are_off_policy_and_clipped(fresh_base):
    config = replace(CONFIG, prompts_per_update=1, learning_rate=3e-3)
    role, optimizer = _role(fresh_base, config)
    role.learner.begin_phase(fresh_base, optimizer)
    statistics = role.learner.step(role, _examples(), optimizer, lambda loss: loss.backward(), 0).statistics
    assert fresh_base.version == 4
    assert statistics["clip_fraction_low"] + statistics["clip_fraction_high"] > 0
    _, on_policy = _gradients(fresh_base, CONFIG)
    assert on_policy["clip_fraction_low"] == on_policy["clip_fraction_high"] == 0


def test_engine_and_training_logps_agree(fresh_base):
    _, statistics = _gradients(fresh_base, CONFIG)
    assert 0 < statistics["logp_gap_max"] < 1e-4
    assert statistics["logp_gap_mean"] <= statistics["logp_gap_max"]
    assert statistics["logp_gap_beyond_fraction"] == 0
    assert statistics["effective_sample_size"] == pytest.approx(1.0)
    measure_only = replace(CONFIG, mismatch=MismatchConfig(stop=False))
    role, optimizer = _role(fresh_base, measure_only, engine=Scripted(lambda *_: "other"))
    statistics = role.learner.step(role, _examples(), optimizer, lambda loss: loss.backward(), 0)[2]
    assert statistics["logp_gap_max"] > 0.1
    assert statistics["logp_gap_beyond_fraction"] > 0
    assert statistics["effective_sample_size"] < 1


def test_weights_that_are_not_float32_are_rejected(fresh_base):
    role, _ = _role(fresh_base)
    fresh_base.model.bfloat16()
    with pytest.raises(TypeError, match="must be float32; use bf16-mixed"):
        role.make_optimizer()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 1}, "group_size: 1 must be at least 2"),
        ({"steps": 0}, "steps: 0 must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps: -1 must not be negative"),
        ({"learning_rate_decay": 0.0}, r"learning_rate_decay: 0.0 must be in \(0, 1\]"),
        ({"learning_rate_decay": 1.1}, r"learning_rate_decay: 1.1 must be in \(0, 1\]"),
        ({"temperature": 0.0}, "temperature: 0.0 must be above 0"),
        ({"prompts_per_update": 9}, "prompts_per_update: 9 must be between 1 and prompts_per_step=4"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
