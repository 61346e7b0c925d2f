import pytest

from helpers import plain_image
from visplay.data.benchmarks.benchmark import Benchmark, BenchmarkBatches
from visplay.data.images.image_folder import UnusableItemError
from visplay.types import Example

ROWS = 23


class _Rows:
    """Numbered rows without images for some of them."""

    def __init__(self, count, faulty=()):
        self.keys = tuple(f"k{number}" for number in range(count))
        self.faulty = faulty

    def __getitem__(self, index):
        if index in self.faulty:
            raise UnusableItemError(self.keys[index], f"no image {index}")
        return Example(self.keys[index], plain_image(index), *self.texts(index))

    def texts(self, index):
        return f"Question {index}?", str(index)


def _benchmark(count=ROWS, faulty=()):
    return Benchmark("b", _Rows(count, faulty), votes=3)


def _groups(world_size=1, done=(), count=ROWS, size=4):
    """Keys of every rank's batches."""
    ranks = [BenchmarkBatches(_benchmark(count), size, done, rank, world_size) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1, "a rank would wait for another in vain"
    assert all(len(list(batches)) == len(batches) for batches in ranks)
    return [[tuple(example.key for example in batch.examples) for batch in batches] for batches in ranks]


def _filled(ranks):
    return sorted(group for groups in ranks for group in groups if group)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 7, 30])
def test_every_row_once_and_in_the_same_company(world_size):
    ranks = _groups(world_size)
    assert sorted(key for groups in ranks for group in groups for key in group) == sorted(_Rows(ROWS).keys)
    assert _filled(ranks) == _filled(_groups())
    assert len(_filled(ranks)) == 6


def test_batches_by_hand():
    assert _groups(count=5, size=2) == [[("k0", "k1"), ("k2", "k3"), ("k4",)]]
    assert _groups(world_size=2, count=5, size=2) == [[("k0", "k1"), ("k4",)], [("k2", "k3"), ()]]


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_what_is_done_is_left_out_and_the_other_batches_stay(world_size):
    done = {"k0", "k1", "k2", "k3", "k9", "k22", "a stranger"}
    whole = _filled(_groups())
    left = [tuple(key for key in group if key not in done) for group in whole]
    assert _filled(_groups(world_size, done)) == [group for group in left if group]
    assert sum(group in whole for group in left) == 3


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_batch_is_left_where_all_is_done(world_size):
    keys = _Rows(ROWS).keys
    assert _groups(world_size, keys) == [[()]] * world_size
    assert _groups(world_size, count=0) == [[()]] * world_size


def test_rows_that_cannot_be_used_say_why():
    benchmark = _benchmark(6, faulty=(1, 2, 3))
    batches = BenchmarkBatches(benchmark, 2)
    expected = [
        (["k0"], {"k1": "no image 1"}),
        ([], {"k2": "no image 2", "k3": "no image 3"}),
        (["k4", "k5"], {}),
    ]
    for _ in range(2):  # a second time it has been skipped before
        assert [([example.key for example in b.examples], b.skipped) for b in batches] == expected
    assert {(batch.benchmark, batch.samples) for batch in batches} == {("b", 3)}


def test_done_rows_are_neither_read_nor_skipped():
    benchmark = _benchmark(4, faulty=(1,))
    (batch,) = BenchmarkBatches(benchmark, 4, {"k1", "k2"})
    assert ([example.key for example in batch.examples], batch.skipped) == (["k0", "k3"], {})
    assert benchmark.skipped == {}


@pytest.mark.parametrize("size", [0, -1])
def test_batches_without_rows_are_rejected(size):
    with pytest.raises(ValueError, match=f"size: a batch must have at least 1 row, got {size}"):
        BenchmarkBatches(_benchmark(), size)
