import pytest

from benchmarks.streams import draw, loop, note, read_notes, write_shards


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path, images=230, side=16, per_shard=120)
    return tmp_path


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_loop_and_stream_have_every_image(shards, kind):
    assert loop(shards / kind)["images"] == 230
    assert draw(shards / kind, workers=2, prefetch=8, pause_seconds=0)["images"] == 230


def test_notes_go_on_where_a_kill_cut_them_off(shards):
    whole, killed = shards / "whole", shards / "killed"
    whole.touch()
    note(shards / "tar", whole)
    lines = whole.read_bytes()
    killed.write_bytes(lines[: len(lines) // 2])
    note(shards / "tar", killed)
    expected, found = ([item for batch in read_notes(path) for item in batch] for path in (whole, killed))
    assert found == expected
    assert len({key for key, _ in found}) == 230
