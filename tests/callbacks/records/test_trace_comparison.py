import math

import pytest
import torch

from visplay.callbacks.records.trace_comparison import compare, difference


@pytest.mark.parametrize(
    ("recorded", "now", "expected"),
    [
        (torch.tensor([math.nan, 1.0]), torch.tensor([math.nan, 1.0]), None),
        (torch.tensor(2.0), torch.tensor(2.0), None),
        (torch.tensor(2.0), torch.tensor(3.0), "[]: 2.0 in the record, 3.0 now"),
        (torch.tensor([0.0]), torch.tensor([-0.0]), "[0]: 0.0 in the record, -0.0 now"),
        (torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 2], [5, 6]]), "[1, 0]: 3 in the record, 5 now"),
        (torch.zeros(2), torch.zeros(3), ": float32 (2,) in the record, float32 (3,) now"),
        (torch.zeros(1), torch.zeros(1).half(), ": float32 (1,) in the record, float16 (1,) now"),
        (torch.zeros(2, 0), torch.zeros(2, 0), None),
        ({"a": [1, (2,)]}, {"a": (1, [2])}, None),  # JSON has lists alone
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ".a.b[1]: 2 in the record, 3 now"),
        ([1, 2], [1], ": [1, 2] in the record, [1] now"),
        ({"a": 1}, {}, ".a: 1 in the record, missing now"),
        (None, {"a": 1}, ": missing in the record, {'a': 1} now"),
        ("x" * 90, "y", f": '{'x' * 79}… in the record, 'y' now"),
    ],
)
def test_the_first_difference(recorded, now, expected):
    assert difference(recorded, now) == expected


def test_what_is_in_one_alone_differs():
    assert compare("grades", {"a": 1, "b": 2}, {"b": 2, "c": 3}) == (
        "grades", 3, 2, "a: 1 in the record, missing now",
    )  # fmt: skip
    assert compare("grades", {}, {}) == ("grades", 0, 0, None)
