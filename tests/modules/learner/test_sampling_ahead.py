"""``staleness: 1``: each step learns from what the weights of one step before sampled."""

import copy
import io
from dataclasses import replace

import pytest
import torch

from helpers import Elsewhere, Scripted, image_number, plain_image
from runs import CONFIG as RUN
from runs import fit, make_module, script
from visplay.callbacks import TransformersRollout
from visplay.clock import Clock
from visplay.functional import token_truncated_weights
from visplay.modules import GRPOConfig, Reasoner
from visplay.modules.learner.mismatch import PolicyMismatchError
from visplay.modules.learner.sampling_ahead import NextStep, SamplingAhead
from visplay.tiny import ANSWER
from visplay.types import Example, Judgement

G, STEPS = 3, 3
CONFIG = GRPOConfig(
    steps=STEPS,
    prompts_per_step=2,
    prompts_per_update=1,
    group_size=G,
    max_new_tokens=8,
    learning_rate=1e-3,
    kl_weight=0.0,
    correction=token_truncated_weights,
    staleness=1,
)


class LikesEvenTokens(Reasoner):
    """Pays the fraction of even token ids."""

    def judge(self, items, rollout, seed):
        shares = [[sum(t % 2 == 0 for t in c.token_ids) / len(c.token_ids) for c in g] for g in rollout.completions]
        return Judgement(torch.tensor(shares), {}, ())


class Reporting(Elsewhere):
    """Changes the log-probabilities that it reports."""

    report = staticmethod(lambda logp: logp)

    def sample(self, policy, prompts, sampling):
        groups = super().sample(policy, prompts, sampling)
        return [[replace(c, logps=tuple(map(self.report, c.logps))) for c in group] for group in groups]


class Asking(Scripted):
    """Notes the prompts and seeds that it is asked for."""

    def __init__(self):
        super().__init__(lambda who, prompt, *given: "?" if _is_odd(who, prompt) else script(who, prompt, *given))
        self.asked = []

    def sample(self, policy, prompts, sampling):
        self.asked += [f"{policy.name} {sampling} {prompt.key} {prompt.token_ids}" for prompt in prompts]
        return super().sample(policy, prompts, sampling)


def _is_odd(who, prompt):
    """Of every other image no question parses, so that its group is left out, and another one drawn."""
    return who == "questioner" and image_number(prompt.images[0]) % 2 == 1


class Run:
    """Steps of one role; before each the policy is copied, as what may be sampled from."""

    def __init__(self, vlm, config=CONFIG):
        self.role, self.engine, self.copies = LikesEvenTokens(config, ANSWER), Reporting(), []
        self.role.adopt(vlm, Clock())
        self.role.attach_engine(self.engine)
        self.optimizer = self.role.make_optimizer()
        self.role.learner.begin_phase(vlm, self.optimizer)

    def step(self, number):
        self.copies.append(copy.deepcopy(self.role.vlm))
        return self.role.learner.step(
            self.role,
            items(number),
            self.optimizer,
            lambda loss: loss.backward(),
            number,
            next_step=lambda: NextStep(items(number + 1) if number + 1 < STEPS else [], number + 1),
        )

    def sampled_by(self, version, number):
        """What the policy as it was before a step samples for another one."""
        prompts = self.role.prompts(items(number))
        groups = TransformersRollout().generate(self.copies[version], prompts, self.role.sampling(G, number))
        return tuple(map(tuple, groups))


def items(step):
    return [Example(f"{step}/{i}", plain_image(50 * i), "How many circles?", "2") for i in range(2)]


def test_the_weights_that_sample_are_one_step_behind(fresh_base):
    run = Run(fresh_base)
    results = [run.step(number) for number in range(STEPS)]
    assert [policy.version for policy in run.copies] == [0, 2, 4]  # two updates a step
    assert run.engine.begun == [0, 2]  # nothing for a step after the last
    for number, result in enumerate(results):
        assert result.rollout.completions == run.sampled_by(max(number - 1, 0), number)
        assert [prompt.key for prompt in result.rollout.prompts] == [item.key for item in items(number)]
    assert results[2].rollout.completions != run.sampled_by(2, 2)


def test_samples_of_earlier_weights_are_weighed(fresh_base):
    run = Run(fresh_base, replace(CONFIG, prompts_per_update=None))
    first, second = run.step(0).statistics, run.step(1).statistics
    assert first["correction_mean"] == pytest.approx(1.0, abs=1e-5)
    assert abs(second["correction_mean"] - 1.0) > 1e-4


def test_without_staleness_nothing_is_begun(fresh_base):
    run = Run(fresh_base, replace(CONFIG, staleness=0))
    for number in range(STEPS):
        assert run.step(number).rollout.completions == run.sampled_by(number, number)
    assert run.engine.begun == []


def test_a_gap_is_a_mismatch_where_the_versions_agree(fresh_base):
    run = Run(fresh_base)
    run.step(0)
    accepted = list(run.role.learner.mismatch.accepted)
    statistics = run.step(1).statistics
    assert statistics["logp_gap_mean"] > 1e-3  # the limit of one version
    assert list(run.role.learner.mismatch.accepted) == accepted
    run = Run(copy.deepcopy(run.copies[0]))
    run.engine.report = lambda logp: logp - 0.01
    with pytest.raises(PolicyMismatchError, match="logp_gap_mean is 0.01 nats"):
        run.step(0)


def test_a_gap_that_is_not_finite_is_a_mismatch_of_any_version(fresh_base):
    run = Run(fresh_base)
    run.engine.report = lambda logp: float("nan") if run.engine.begun else logp
    run.step(0)
    with pytest.raises(PolicyMismatchError, match="is not finite"):
        run.step(1)


def test_samples_are_of_the_present_weights_where_an_update_was_not_applied(fresh_base):
    run = Run(fresh_base)
    logps = fresh_base.logps
    fresh_base.logps = lambda *given, **settings: tuple(each * float("nan") for each in logps(*given, **settings))
    assert run.step(0).statistics["skipped_updates"] == 1.0
    del fresh_base.logps
    run.step(1)
    assert len(run.role.learner.mismatch.accepted) == 2  # the updates of the second step


def test_a_checkpoint_keeps_every_bit(fresh_base):
    run, ahead, again = Run(fresh_base), SamplingAhead(), SamplingAhead()
    run.engine.report = lambda logp: logp / 3  # no float32
    ahead.begin(run.role, NextStep(items(4), 4), G)
    ahead.finish()
    file = io.BytesIO()
    torch.save(ahead.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    fresh_base.version += 1
    rollout = ahead.take(run.role, items(4), G, 4)
    assert again.take(run.role, items(4), G, 4) == rollout
    assert (again.stale, ahead.stale) == (True, True)
    assert rollout.completions[0][0].text
    assert ahead.state_dict() is None
    assert ahead.take(run.role, items(4), G, 4) is None


@pytest.mark.parametrize("asked", [(items(5), G, 4), (items(4), G + 1, 4), (items(4), G, 5)])
def test_what_is_not_asked_for_is_not_taken(fresh_base, asked, caplog):
    run, ahead = Run(fresh_base), SamplingAhead()
    ahead.begin(run.role, NextStep(items(4), 4), G)
    ahead.finish()
    assert ahead.take(run.role, *asked) is None
    assert "what was sampled ahead is not what this step asks" in caplog.text
    assert not ahead.stale


def test_the_end_of_a_phase_lets_go(fresh_base):
    run = Run(fresh_base)
    run.step(0)
    assert run.role.learner.state_dict()["ahead"] is not None
    run.role.learner.end_phase(run.optimizer)
    assert run.role.learner.state_dict()["ahead"] is None


def test_samples_of_earlier_weights_need_a_correction():
    with pytest.raises(ValueError, match="correction: staleness=1 learns from samples of earlier weights"):
        replace(CONFIG, correction=None)
    with pytest.raises(ValueError, match="staleness: 2 must be 0 or 1"):
        replace(CONFIG, staleness=2)


def test_an_engine_that_computes_where_the_trainer_does_is_rejected(tmp_path):
    config = replace(RUN, staleness=1, correction=token_truncated_weights)
    with pytest.raises(ValueError, match=r"questioner.grpo.staleness: 1 samples .* TransformersRollout computes where"):
        fit(tmp_path, module=make_module(config), engine=TransformersRollout())


def test_items_and_seeds_are_those_of_a_run_without_staleness(tmp_path):
    asked, refilled = {}, {"filter_zero_variance": True, "max_refills": 1}
    for staleness in (0, 1):
        config = replace(RUN, steps=3, staleness=staleness, correction=token_truncated_weights, **refilled)
        engine = Asking()
        fit(tmp_path / str(staleness), module=make_module(config), engine=engine)
        asked[staleness] = sorted(engine.asked)
    assert asked[0] == asked[1]
    sampled = [text for text in asked[1] if text.startswith("questioner Sampling(n=2,")]
    assert len(sampled) > config.steps * config.prompts_per_step  # with refills
