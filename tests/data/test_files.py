"""Files that are whole or not there, and errors that name them."""

import errno
import os

import pytest

from visplay.data.files import naming, replacing, write_whole


def test_an_error_of_a_write_names_the_file_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"before")

    def write():
        with replacing(path) as file:
            file.write(b"after")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as of a full disk, without a name

    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
        write()
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("a.json", b"before")]


def test_an_error_that_names_a_file_keeps_it(tmp_path):
    with pytest.raises(OSError, match=r"No such file .*gone'"), naming(tmp_path / "a"):
        (tmp_path / "gone").read_bytes()


def test_a_directory_is_whole_or_not_there(tmp_path):
    place = tmp_path / "a" / "reasoner"
    write_whole(place, lambda directory: (directory / "model").write_bytes(b"xxx") and None)

    def fail(directory):
        (directory / "model").write_bytes(b"half")
        raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        write_whole(place, fail)
    assert [path.name for path in place.parent.iterdir()] == ["reasoner"]
    assert (place / "model").read_bytes() == b"xxx"
    write_whole(place, lambda directory: (directory / "model").write_bytes(b"xxxxx") and None)
    assert [path.name for path in place.parent.iterdir()] == ["reasoner"]
    assert (place / "model").read_bytes() == b"xxxxx"
