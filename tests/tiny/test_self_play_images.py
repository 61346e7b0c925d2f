import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import visplay
from visplay.data import ImageFolder
from visplay.tiny.self_play_images import SilverAccuracy, image_name, silver_accuracy, silver_truth, write_images
from visplay.tiny.shapes import SHAPES
from visplay.tiny.shapes.shape_scenes import HELD_OUT, Scene, Shape, render


def test_write_images_is_idempotent(tmp_path):
    first = {path.name: path.stat().st_mtime_ns for path in write_images(tmp_path / "a", 6, 0).iterdir()}
    again = {path.name: path.stat().st_mtime_ns for path in write_images(tmp_path / "a", 6, 0).iterdir()}
    assert first == again
    assert len(first) == 6


def test_a_half_written_directory_is_completed(tmp_path):
    names = sorted(path.name for path in write_images(tmp_path, 6, 0).iterdir())
    (tmp_path / names[2]).unlink()
    (tmp_path / f".{names[2]}.1.draft").write_bytes(b"half")
    write_images(tmp_path, 6, 0)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names


def test_what_was_just_rendered_is_not_decoded(tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(ImageFolder, "_find_error", lambda folder, key: decoded.append(key))
    names = sorted(path.name for path in write_images(tmp_path, 6, 0).iterdir())
    assert ImageFolder(tmp_path).keys == tuple(names)
    assert decoded == []
    (tmp_path / names[1]).write_bytes(b"other")
    ImageFolder(tmp_path)
    assert decoded == [names[1]]


def test_more_images_add_to_the_first_ones(tmp_path):
    write_images(tmp_path, 3, 0)
    few = set(tmp_path.glob("*.png"))
    assert few < set(write_images(tmp_path, 5, 0).glob("*.png"))


def test_a_directory_of_other_images_is_rejected(tmp_path):
    write_images(tmp_path, 3, 0)
    with pytest.raises(ValueError, match="holds 3 PNG files that are not of n=3, seed=1"):
        write_images(tmp_path, 3, 1)
    with pytest.raises(ValueError, match="n: need at least one image, got 0"):
        write_images(tmp_path, 0, 0)


def test_files_carry_pixels_and_nothing_else(tmp_path):
    for path in write_images(tmp_path, 4, 0).iterdir():
        data = path.read_bytes()
        chunks, place = [], 8
        while place < len(data):
            length = int.from_bytes(data[place : place + 4])
            chunks.append(data[place + 4 : place + 8])
            place += 12 + length
        assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}
        with Image.open(path) as image:
            assert image.info == {}
            assert path.name == image_name(image)


def test_names_say_nothing_about_what_is_shown():
    scene = Scene((Shape("a1", "large", "red", "circle"),))
    names = [image_name(render(scene, np.random.default_rng(seed))) for seed in range(200)]
    assert len(set(names)) == 200
    first = Counter(name[0] for name in names)
    assert len(first) == 16
    assert max(first.values()) < 30


@pytest.mark.parametrize("part", ["functional", "modules", "callbacks", "data", "metrics"])
def test_self_play_cannot_import_the_truth(part):
    for path in (Path(visplay.__file__).parent / part).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            imported = [module, *names, *(f"{module}.{name}" for name in names)]
            assert not any(name.startswith("visplay.tiny") for name in imported), path
            assert not (isinstance(node, ast.Constant) and node.value == "visplay.tiny"), path


def test_silver_truth_is_keyed_by_file_name(tmp_path):
    truth = silver_truth(4, 0)
    assert set(truth) == {path.name for path in write_images(tmp_path, 4, 0).iterdir()}
    assert not any(scene.pairs() & set(HELD_OUT) for scene in truth.values())


def test_silver_accuracy_counts_truth_and_grammar():
    (name, scene), (other, _) = list(silver_truth(2, 0).items())
    count = SHAPES.solve(scene, "How many shapes are there?")
    rows = [
        (f"images/{name}", "How many shapes are there?", count),
        (name, "How many shapes are there?", "19"),
        (other, "Why is that so?", "3"),
        ("photo.png", "How many shapes are there?", "3"),
    ]
    measured = silver_accuracy(rows, 2, 0)
    assert measured.accuracy == 0.5
    assert measured.off_grammar == pytest.approx(1 / 3)
    assert measured.rows == 3


def test_silver_accuracy_without_images_of_the_world():
    assert silver_accuracy([("photo.png", "How many shapes are there?", "3")], 2, 0) == SilverAccuracy(None, None, 0)
