import pytest

from visplay.callbacks import EstimatedAccuracyGain, RewardGain, ValidationGain, VoteMargin
from visplay.callbacks.iterations.advance import PhaseReport
from visplay.types import PhaseState

QUESTIONER, REASONER = "questioner", "reasoner"


def _report(phase=REASONER, rewards=(), attempt=0, **facts):
    known = {"curation": {}, "scores": {}, "scores_before": {}} | facts
    learns_from = "images" if phase == QUESTIONER else "examples"
    history = [{"reward": reward} for reward in rewards]
    return PhaseReport(PhaseState(phase, attempt=attempt), learns_from, history, **known)


@pytest.mark.parametrize(
    ("rewards", "window", "gain"),
    [
        ([0.0, 0.2, 0.4, 0.8], 2, 0.5),
        ([0.1, 0.2, 0.4], 5, 0.3),
        ([0.5] * 10 + [0.0], 1, -0.5),
        ([0.5], 1, None),
        ([], 1, None),
    ],
)
def test_reward_gain_by_hand(rewards, window, gain):
    measured = RewardGain(window=window).measure(_report(rewards=rewards))
    assert measured == (gain if gain is None else pytest.approx(gain))


def test_vote_margin_is_that_of_the_data_set():
    rule = VoteMargin(least=0.1)
    assert rule.measure(_report(curation={"vote_margin": 0.3})) == 0.3
    assert rule.measure(_report(QUESTIONER, curation={"vote_margin": 0.3})) is None
    assert rule.decide(_report(QUESTIONER)) == "advance"


def test_validation_gain_by_hand():
    rule = ValidationGain("val/greedy")
    report = _report(scores={"val/greedy": 0.75}, scores_before={"val/greedy": 0.5})
    assert rule.measure(report) == 0.25
    assert rule.measure(_report(QUESTIONER, scores={"val/greedy": 0.75}, scores_before={"val/greedy": 0.5})) is None
    with pytest.raises(KeyError, match=r"'val/greedy' was not measured; validation gave \['val/other'\]"):
        rule.measure(_report(scores={"val/other": 1.0}, scores_before={"val/other": 1.0}))


def test_a_phase_that_was_not_validated_is_not_judged_by_validation():
    rule = ValidationGain("val/greedy")
    assert rule.decide(_report(scores_before={"val/greedy": 0.5})) == "advance"
    assert rule.decide(_report(scores={"val/greedy": 0.5})) == "advance"


@pytest.mark.parametrize(
    ("rewards", "attempt", "otherwise", "decision"),
    [
        ([0.0, 1.0], 0, "repeat", "advance"),
        ([0.5, 0.5], 0, "repeat", "repeat"),
        ([0.5, 0.5], 1, "repeat", "repeat"),
        ([0.5, 0.5], 2, "repeat", "advance"),
        ([0.5, 0.4], 0, "stop", "stop"),
        ([0.4, 0.5], 9, "stop", "advance"),
    ],
)
def test_what_follows_a_phase(rewards, attempt, otherwise, decision):
    rule = RewardGain(otherwise=otherwise, max_repeats=2)
    assert rule.decide(_report(rewards=rewards, attempt=attempt)) == decision


def _datasets(before, now, phase=REASONER):
    return _report(phase, curation=now, curation_before=before)


@pytest.mark.parametrize(
    ("before", "now", "gain"),
    [
        ({"right": 0.75}, {"right": 0.5}, -0.25),
        ({"right": 0.5}, {"right": 0.75}, 0.25),
        # the upper limit: the fall of .2 is one of .2 - sqrt(.03² + .04²) at least; the other ends play no part
        (
            {"right": 0.8, "right_low": 0.77, "right_high": 0.9},
            {"right": 0.6, "right_low": 0.1, "right_high": 0.64},
            -0.15,
        ),
        ({}, {"right": 0.5}, None),
    ],
)
def test_the_gain_of_an_estimate_by_hand(before, now, gain):
    measured = EstimatedAccuracyGain(metric="right").measure(_datasets(before, now))
    assert measured == (gain if gain is None else pytest.approx(gain))


@pytest.mark.parametrize("otherwise", ["rollback", "restart", "stop"])
@pytest.mark.parametrize(("tolerance", "falls"), [(0.0, True), (0.125, True), (0.25, False), (0.3, False)])
def test_a_data_set_whose_estimate_falls(otherwise, tolerance, falls):
    rule = EstimatedAccuracyGain(tolerance, otherwise, "right")
    report = _datasets({"right": 0.75}, {"right": 0.5})
    assert rule.decide_on_dataset(report) == (otherwise if falls else "advance")
    assert rule.decide(report) == "advance", "once the phase is over nothing is left to decide"
    assert rule.decide_on_dataset(_datasets({"right": 0.5}, {"right": 0.5})) == "advance"
    assert rule.decide_on_dataset(_datasets({}, {"right": 0.5})) == "advance"
    assert rule.measure(_datasets({"right": 0.75}, {"right": 0.5}, QUESTIONER)) is None


def test_an_estimate_that_is_not_made():
    with pytest.raises(KeyError, match=r"'estimated_silver_accuracy' was not measured; curation gave \['kept'\]"):
        EstimatedAccuracyGain().decide_on_dataset(_datasets({"kept": 1.0}, {"kept": 1.0}))


def test_other_rules_learn_from_every_data_set():
    report = _datasets({"vote_margin": 0.5}, {"vote_margin": 0.0})
    assert {rule.decide_on_dataset(report) for rule in (VoteMargin(), RewardGain())} == {"advance"}


def test_bad_settings():
    with pytest.raises(ValueError, match="otherwise: must be 'rollback', 'restart' or 'stop', got 'repeat'"):
        EstimatedAccuracyGain(otherwise="repeat")
    with pytest.raises(ValueError, match=r"tolerance: must be at least 0, got -0.1"):
        EstimatedAccuracyGain(tolerance=-0.1)
    with pytest.raises(ValueError, match="otherwise: must be 'repeat' or 'stop', got 'skip'"):
        RewardGain(otherwise="skip")
    with pytest.raises(ValueError, match="max_repeats: must be at least 1, got 0"):
        VoteMargin(max_repeats=0)
    with pytest.raises(ValueError, match="window: must be at least 1, got 0"):
        RewardGain(window=0)
