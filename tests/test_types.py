import pytest

from visplay.types import PhaseState

TURNS = ["questioner", "reasoner"]


def test_roles_take_turns_and_their_steps_add_up():
    phases = [PhaseState("questioner")]
    for _ in range(4):
        phases[-1].step = 10
        phases.append(phases[-1].following(TURNS))
    assert [(phase.iteration, phase.role) for phase in phases] == [
        (1, "questioner"),
        (1, "reasoner"),
        (2, "questioner"),
        (2, "reasoner"),
        (3, "questioner"),
    ]
    assert phases[-1].steps_before == {"questioner": 20, "reasoner": 20}
    assert (phases[-1].step, phases[-1].role_step) == (0, 20)


def test_a_repeated_phase_goes_on_in_the_sources_and_shares_nothing_with_the_one_before():
    phase = PhaseState("reasoner", 2, attempt=1, step=5, positions={"images": 7})
    again = phase.repeated()
    assert (again.role, again.iteration, again.attempt, again.step) == ("reasoner", 2, 2, 0)
    assert again.positions == {"images": 7}
    again.positions["images"] = 9
    assert phase.positions == {"images": 7}
    assert again.following(TURNS).attempt == 0


def test_iterations_count_from_one():
    with pytest.raises(ValueError, match="iteration: counts from 1, got 0"):
        PhaseState("questioner", 0)
