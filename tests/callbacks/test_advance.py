import pytest

from visplay.callbacks import RewardGain, ValidationGain, VoteMargin
from visplay.callbacks.advance import PhaseReport
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


def test_bad_settings():
    with pytest.raises(ValueError, match="otherwise: must be 'repeat' or 'stop', got 'skip'"):
        RewardGain(otherwise="skip")
    with pytest.raises(ValueError, match="max_repeats: must be at least 1, got 0"):
        VoteMargin(max_repeats=0)
    with pytest.raises(ValueError, match="window: must be at least 1, got 0"):
        RewardGain(window=0)
