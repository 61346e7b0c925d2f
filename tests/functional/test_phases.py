import pytest
from hypothesis import given
from hypothesis import strategies as st

from visplay.functional import permuted_indices


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(1, 20), st.integers(0, 2**40))
def test_depends_on_the_position_alone(start, first, second, size, seed):
    whole = permuted_indices(start, first + second, size, seed)
    assert whole == permuted_indices(start, first, size, seed) + permuted_indices(start + first, second, size, seed)
    assert len(whole) == first + second


@given(st.integers(0, 5), st.integers(1, 20), st.integers(0, 2**40))
def test_every_index_comes_before_any_repeats(number, size, seed):
    assert sorted(permuted_indices(number * size, size, size, seed)) == list(range(size))


def test_passes_and_seeds_differ():
    first, second = permuted_indices(0, 100, 100, seed=0), permuted_indices(100, 100, 100, seed=0)
    assert first != second
    assert first != permuted_indices(0, 100, 100, seed=1)
    assert first != list(range(100))


@pytest.mark.parametrize(("name", "least"), [("start", 0), ("count", 0), ("size", 1), ("seed", 0)])
def test_refuses_what_is_too_small(name, least):
    arguments = {"start": 0, "count": 1, "size": 3, "seed": 0} | {name: least - 1}
    with pytest.raises(ValueError, match=f"{name}: must be at least {least}, got {least - 1}"):
        permuted_indices(**arguments)
