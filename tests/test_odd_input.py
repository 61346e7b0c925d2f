"""One run over what users have: sixty odd files, a table with ten odd rows, half a checkpoint. Nothing is silent."""

import os
import re
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import features

from data.rows import STRUCT, encode
from data.rows import struct as cell
from data.zoo import PNG_SIGNATURE, ZOO, chunk, noise, png_header
from visplay.__main__ import main
from visplay.tiny import BASE
from visplay.tiny.self_play_images import write_images

ROOT = Path(__file__).parent.parent
LARGE = {"largest.png", "too-large.png"}  # 2^26 pixels each, which take long
AVIF = features.check("avif")


def saved(kind: str, **options) -> bytes:
    buffer = BytesIO()
    noise().save(buffer, kind, **options)
    return buffer.getvalue()


def palette_without_its_colours() -> bytes:
    return png_header(16, 16, colour=3) + chunk(b"IDAT", zlib.compress(bytes(17 * 16))) + chunk(b"IEND", b"")


def key_of_16_bits() -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    data = zlib.compress((b"\0" + struct.pack(">HHH", 1, 2, 3) * 16) * 16)
    return (
        PNG_SIGNATURE
        + header
        + chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


GOOD = {
    "good.avif": saved("AVIF" if AVIF else "PNG"),
    "good.jp2": saved("JPEG2000"),
    "good.ppm": saved("PPM"),
    "good.qoi": saved("QOI"),
    "key-16-bit.png": key_of_16_bits(),
}
BROKEN = {
    "no-palette.png": palette_without_its_colours(),
    "cut.jp2": saved("JPEG2000")[:60],
    "cut.ppm": saved("PPM")[:500],
    "cut.tif": saved("TIFF")[:500],
    "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "zeros.bmp": bytes(4000),
}
LEFT_OUT = {
    "IMG_1.HEIC": b"heic",
    "IMG_2.heic": b"heic",
    "album/IMG_3.heic": b"heic",
    "notes.txt": b"notes",
    "clip.mov": b"film",
    "Makefile": b"all:",
    "metadata.json": b"{}",
}
HIDDEN = {".Trash-1000/files/a.png": saved("PNG"), "album/@eaDir/a.png": saved("PNG"), "._a.png": b"double"}
PASSED_OVER = {"unknown.xyz"}  # of the zoo


@pytest.fixture
def photographs(tmp_path):
    directory = tmp_path / "photographs"
    directory.mkdir()
    animals = [specimen for specimen in ZOO if specimen.key not in LARGE]
    for specimen in animals:
        specimen.make(directory / specimen.key)
    for name, data in (GOOD | BROKEN | LEFT_OUT | HIDDEN).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    plain = len(list(write_images(directory / "plain", 12, seed=0).glob("*.png")))  # the base asks about no others
    good = sum(specimen.size is not None for specimen in animals) + len(GOOD) + plain
    bad = sum(specimen.reason is not None for specimen in animals) + len(BROKEN)
    assert good - plain + bad + len(PASSED_OVER) + len(LEFT_OUT) + len(HIDDEN) == 60
    return directory, good, bad


@pytest.fixture
def questions(tmp_path):
    """Four good rows, and ten of which each is bad in its own way."""
    odd = {
        "no question": (None, "1", [cell(1)]),
        "a mark alone": ("<image>", "1", [cell(1)]),
        "no answer": ("How many?", "  ", [cell(1)]),
        "no image": ("How many?", "1", []),
        "two images": ("How many?", "1", [cell(1), cell(2)]),
        "a broken image": ("How many?", "1", [{"bytes": encode(1)[:30], "path": None}]),
        "no palette": ("How many?", "1", [{"bytes": palette_without_its_colours(), "path": None}]),
        "a small image": ("How many?", "1", [{"bytes": encode(1, (4, 4)), "path": None}]),
        "a file that is not there": ("How many?", "1", [{"bytes": None, "path": "nowhere.png"}]),
        "too long": ("How many " * 2000, "1", [cell(1)]),
    }
    good = [(f"How many shapes, {n}?", str(n), [cell(n)]) for n in range(4)]
    problems, answers, images = zip(*odd.values(), *good, strict=True)
    table = {"problem": problems, "answer": answers, "images": pa.array(images, pa.list_(STRUCT))}
    pq.write_table(pa.table(table), tmp_path / "questions.parquet")
    return tmp_path / "questions.parquet", len(odd)


def visplay(directory, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(directory / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "visplay", *map(str, arguments)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_nothing_is_silent_and_nothing_ends_in_a_traceback(tmp_path, photographs, questions, monkeypatch, capsys):
    directory, good, bad = photographs
    table, odd = questions
    arguments = [
        f"--config={ROOT / 'configs' / 'tiny.yaml'}",
        f"--model.vlm.path={BASE}",
        "--data=visplay.data.module.SelfPlayData",
        f"--data.images={directory}",
        f"--data.labelled={table}",
        "--self_play.iterations=1",
        "--self_play.curation={images: 60, low: 0, high: 1, gates: [], second_view: null}",
        "--model.questioner.grpo={steps: 2, prompts_per_step: 4}",
        "--model.reasoner.grpo={steps: 2, prompts_per_step: 8}",
        "--trainer.default_root_dir=runs",
    ]
    ended = visplay(tmp_path, "fit", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr

    (said,) = re.findall(r"photographs: (\d+) images, skipped (\d+): (.*); left out (.*); (.*)", ended.stderr)
    assert (int(said[0]), int(said[1])) == (good, bad)
    for part in ("3 .heic", "1 .txt", "1 .mov", "1 .json", "1 .xyz", "1 without a suffix"):
        assert part in said[3], said[3]
    assert "3 hidden or of the system" in said[3]
    assert all(name in said[3] for name in ("'.Trash-1000'", "'album/@eaDir'", "'._a.png'"))
    assert said[4] == ".heic can be read where pillow-heif is installed"

    rows = set(re.findall(r"skipped questions:(\d+): ", ended.stderr))
    assert rows == {str(row) for row in range(odd)}
    assert re.search(r"skipped questions:9: a prompt of \d+ tokens and an answer of \d+ do not fit", ended.stderr)
    assert re.search(rf"\({odd} so far\)", ended.stderr)

    whole = tmp_path / "runs" / "tiny" / "version_0" / "checkpoints" / "phase-00.ckpt"
    half = tmp_path / "half.ckpt"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.setattr("visplay.modules.policy.vlm.load_processor", lambda *_: pytest.fail("a model is loaded"))
    for command in (["fit", *arguments, f"--ckpt_path={half}"], ["export", str(half), "--output=out"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        torch.use_deterministic_algorithms(False)
        said = capsys.readouterr().err + (ended.value.code if isinstance(ended.value.code, str) else "")
        assert ended.value.code
        assert "Traceback" not in said
        assert said.splitlines()[-1].startswith("error: ")
        assert "is no checkpoint of a run, or not a whole one" in said.splitlines()[-1]
