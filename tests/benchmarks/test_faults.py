"""The short form of ``python -m benchmarks.faults``."""

import pytest

from benchmarks.faults import FAULTS, measure, table


@pytest.mark.timeout(300)
def test_a_run_outlasts_what_it_stands_on(tmp_path):
    chosen = [("full disk", "checkpoint"), ("killed, data set damaged", "validation")]
    assert measure(tmp_path, chosen) == dict(zip(chosen, ["error, resumed", "resumed"], strict=True))


def test_an_error_that_does_not_say_what_is_wrong_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(FAULTS, "full disk", FAULTS["full disk"]._replace(says="the moon is full"))
    assert set(measure(tmp_path, [("full disk", "rollout")]).values()) == {"FAILED"}


def test_the_table():
    found = {("a", "update"): "recovered", ("b", "rollout"): "resumed"}
    assert table(found).splitlines() == [
        "| fault | rollout | update |",
        "| --- | --- | --- |",
        "| a |  | recovered |",
        "| b | resumed |  |",
    ]
