import json
import resource
import signal
import tracemalloc
from dataclasses import replace

import pytest

from answers import answer, batch, item, stored
from visplay.evaluation import AnswerStore

ODD = 'one\ntwo\r\n\u2028\u2029\x85\x00\t"\\ \\ud83d \ud800 \udc80 😀 e\u0301 ∑'
FILE = "b-rank0.jsonl"


def _keys(store, benchmark="b"):
    return [answered.key for answered in store.items(benchmark)]


def test_odd_text_comes_back_as_it_was(tmp_path):
    greedy = replace(answer(None), text=ODD, finished=False)
    odd = replace(item(ODD, True, [True, None], True, **{"id": ODD}), problem=ODD, gold=ODD, greedy=greedy)
    unread = batch(odd, item("plain", False), **{ODD + "!": f"no image: {ODD}"})
    AnswerStore(tmp_path).append(unread)
    assert list(AnswerStore(tmp_path).read("b")) == [unread]


def test_lines_are_json_in_utf_8(tmp_path):
    stored(tmp_path, b=[replace(item("a", True), problem="\ud800 😀")])
    text = (tmp_path / FILE).read_text("utf-8")
    assert "😀" in text
    assert json.loads(text)["problem"] == "\ud800 😀"


def test_batches_follow_one_another(tmp_path):
    store = stored(tmp_path, b=[item("a", True), item("b", False)], c=[item("a", True)])
    store.append(batch(item("c", True)))
    store.append(batch())
    assert (_keys(store), _keys(store, "c"), store.benchmarks()) == (["a", "b", "c"], ["a"], ["b", "c"])
    assert _keys(store, "d") == []


def test_nothing_answered_makes_no_directory(tmp_path):
    store = AnswerStore(tmp_path / "model")
    store.append(batch())
    assert not store.directory.exists()
    assert store.benchmarks() == []


@pytest.mark.parametrize("length", [1, 40, 200_000])
def test_half_a_line_is_cut_and_the_next_batch_continues(tmp_path, length):
    store = stored(tmp_path, b=[item("a", True)])
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + b'{"key": "'.ljust(length, b"x")[:length])
    store.repair()
    assert (tmp_path / FILE).read_bytes() == whole
    store.append(batch(item("b", True)))
    assert _keys(store) == ["a", "b"]


def test_repair_of_a_file_without_a_whole_line(tmp_path):
    (tmp_path / FILE).write_bytes(b'{"key"')
    (tmp_path / "agreement.jsonl").write_bytes(b"not ours")
    AnswerStore(tmp_path).repair()
    assert (tmp_path / FILE).read_bytes() == b""
    assert (tmp_path / "agreement.jsonl").read_bytes() == b"not ours"


@pytest.mark.parametrize("world_size", [1, 2, 3, 12, 20])
def test_ranks_read_every_file_once(tmp_path, world_size):
    store = AnswerStore(tmp_path)
    for rank in range(12):
        store.append(batch(item(f"a{rank}", True), item(f"b{rank}", True)), rank)
    found = [answers for rank in range(world_size) for answers in store.read("b", rank, world_size)]
    keys = [answered.key for answers in found for answered in answers.items]
    assert sorted(keys) == sorted(f"{name}{rank}" for name in "ab" for rank in range(12))


def test_names_that_look_alike(tmp_path):
    store = stored(tmp_path, **{"b": [item("a", True)], "b-rank1": [item("c", True)], "b.b": [item("d", True)]})
    assert store.benchmarks() == ["b", "b-rank1", "b.b"]
    assert [_keys(store, name) for name in store.benchmarks()] == [["a"], ["c"], ["d"]]


def test_many_rows_are_read_a_few_at_a_time(tmp_path):
    store, text = AnswerStore(tmp_path), "word " * 100
    for start in range(0, 20_000, 2_000):
        said = replace(answer(True), text=text)
        items = [replace(item(f"{n}", True), greedy=said) for n in range(start, start + 1_000)]
        store.append(batch(*items, **{f"skipped {n}": text for n in range(start, start + 1_000)}))
    assert (tmp_path / FILE).stat().st_size > 12_000_000
    tracemalloc.start()
    found = sum(len(answers.items) + len(answers.skipped) for answers in store.read("b"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == 20_000
    assert peak < 5_000_000  # one batch of items, and the keys of all


@pytest.mark.parametrize(
    "line", ['{"key": "x", "benchm', "[]", "3", '"x"', '{"key": "x"}', '{"skipped": "x"}', "", "é"]
)
def test_a_damaged_line_is_refused_with_its_place(tmp_path, line):
    store = stored(tmp_path, b=[item("a", True), item("b", True)])
    first, second = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(first + line.encode("latin-1") + b"\n" + second)
    with pytest.raises(ValueError, match=rf"directory: .*{FILE}:2 is no item: .*; delete the line"):
        _keys(store)


def test_a_full_disk_is_no_success(tmp_path):
    """The file may not grow beyond the item that is in it and a little more."""
    store = stored(tmp_path, b=[item("a", True)])
    size = (tmp_path / FILE).stat().st_size
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 9, limits[1]))
    try:
        with pytest.raises(OSError, match="took part of a batch only"):
            store.append(batch(item("b", True)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    store.repair()
    assert _keys(store) == ["a"]


def test_a_row_that_was_written_twice_is_read_once(tmp_path):
    store = stored(tmp_path, b=[item("a", True), item("b", False)])
    store.append(batch(item("a", False), c="no image"))
    store.append(batch(item("d", True), c="no image"), rank=1)
    (answers,) = store.read("b")
    assert [(r.key, r.greedy.correct) for r in answers.items] == [("a", True), ("b", False), ("d", True)]
    assert answers.skipped == {"c": "no image"}
