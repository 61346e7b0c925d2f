"""Without checksums the log-probabilities alone tell that vLLM samples from other weights, before the next update."""

import pytest

from visplay.callbacks import EngineSettings, VLLMRollout
from visplay.clock import Clock
from visplay.modules import GRPOConfig, PolicyMismatchError, Reasoner
from visplay.tiny import ANSWER
from visplay.tiny.splits import heldout

CONFIG = GRPOConfig(steps=2, prompts_per_step=8, prompts_per_update=None, group_size=8, max_new_tokens=24)
PARTS = {
    "vision tower": "model.visual.",
    "head": "embed_tokens.",  # tied
    "layer": "model.language_model.layers.2.",
}


@pytest.fixture(scope="module")
def rollout():
    rollout = VLLMRollout(EngineSettings(cache_gib=0.125, max_sequences=64), verify=False)
    yield rollout
    rollout.close()


@pytest.fixture
def learn(fresh_base, rollout):
    """Take a real step at the published learning rate, and more."""
    reasoner = Reasoner(CONFIG, ANSWER)
    reasoner.adopt(fresh_base, Clock())
    reasoner.attach_engine(rollout)
    rollout.loaded = None
    optimizer = reasoner.make_optimizer()
    reasoner.learner.begin_phase(reasoner.vlm, optimizer)
    examples = heldout(CONFIG.prompts_per_step)

    def learn(seed):
        return reasoner.learner.step(reasoner, examples, optimizer, lambda loss: loss.backward(), seed).statistics

    assert learn(0)["logp_gap_max"] < 1e-4
    learn.reasoner = reasoner
    return learn


@pytest.mark.parametrize("part", PARTS)
def test_a_load_that_skips_a_part_stops_the_run(learn, rollout, monkeypatch, part):
    policy, load = learn.reasoner.vlm, rollout._running.load
    monkeypatch.setattr(rollout._running, "load", lambda weights: load(w for w in weights if PARTS[part] not in w[0]))
    before = policy.fingerprint()
    with pytest.raises(PolicyMismatchError, match="logp_gap_mean is .* sample from other weights"):
        learn(1)
    assert policy.fingerprint() == before


def test_a_load_of_the_other_role_stops_the_run(learn, rollout, base, monkeypatch):
    """Which is still the base that both started from."""
    load = rollout._running.load
    monkeypatch.setattr(rollout._running, "load", lambda weights: load(base.weights()))
    with pytest.raises(PolicyMismatchError, match="sample from other weights"):
        learn(1)


def test_an_honest_load_goes_on(learn):
    statistics = learn(1)
    assert statistics["logp_gap_max"] < 1e-4
    assert statistics["logp_gap_beyond_fraction"] == 0
    assert statistics["effective_sample_size"] > 0.999
