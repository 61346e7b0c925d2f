import pytest
import torch

from benchmarks.kills import differences, measure


@pytest.mark.timeout(300)
def test_a_run_that_is_killed_twice_comes_out_as_it_would_have(tmp_path):
    options = ["--self_play.iterations=1", "--step_checkpoint.every_n_steps=1"]
    assert measure(tmp_path, 2, options, per_run=2).total() == 2


def test_what_differs_is_named():
    left = {"a": [torch.ones(2), {"b": 1}], "c": b"x"}
    assert differences(left, {"a": [torch.ones(2), {"b": 1}], "c": b"x"}) == []
    assert differences(left, {"a": [torch.zeros(2), {"b": 2}], "d": 1}) == ["/a/0", "/a/1/b", "/c", "/d"]
    assert differences({"curve": [(1, 0.5)]}, {"curve": [(1, 0.5), (1, 0.5)]}) == ["/curve"]
