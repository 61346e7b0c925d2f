import logging
import os
import pickle
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from visplay.data.images import image_folder
from visplay.data.images.decoding import ImageLimits
from visplay.data.images.image_folder import ImageFolder, SkippedImage, UnusableItemError

HIDDEN = [".Trash-1000", ".thumbnails", "@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "Thumbnails", "lost+found"]


def noise(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def reasons(directory: Path, limits: ImageLimits = ImageLimits()) -> dict[str, str]:  # noqa: B008 (frozen)
    """Skipped files beside one good one."""
    noise().save(directory / "good.png")
    images = ImageFolder(directory, limits)
    assert images.keys == ("good.png",)
    return {item.path: item.reason for item in images.skipped}


def test_good_images_are_decoded_once(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        noise().save(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert ImageFolder(tmp_path).keys == ("a.png", "b.png")
    looked = []
    load = image_folder.load_image
    monkeypatch.setattr(
        image_folder, "load_image", lambda path, limits: (looked.append(path.name), load(path, limits))[1]
    )
    again = ImageFolder(tmp_path)
    assert (again.keys, [item.path for item in again.skipped]) == (("a.png", "b.png"), ["bad.png"])
    assert looked == ["bad.png"]
    (tmp_path / "b.png").write_bytes(b"no image either")
    noise().save(tmp_path / "bad.png")
    noise().save(tmp_path / "c.png")
    assert ImageFolder(tmp_path).keys == ("a.png", "bad.png", "c.png")
    assert sorted(looked) == ["b.png", "bad.png", "bad.png", "c.png"]
    looked.clear()
    assert ImageFolder(tmp_path, ImageLimits(min_side_pixels=9)).keys == ("a.png", "bad.png", "c.png")
    assert len(looked) == 4, "other limits may reject others"


class TestSkipped:
    def test_truncated_jpeg(self, tmp_path):
        noise().save(tmp_path / "cut.jpg")
        data = (tmp_path / "cut.jpg").read_bytes()
        (tmp_path / "cut.jpg").write_bytes(data[: len(data) * 2 // 3])
        assert "truncated" in reasons(tmp_path)["cut.jpg"]

    def test_truncated_png(self, tmp_path):
        noise().save(tmp_path / "cut.png")
        data = (tmp_path / "cut.png").read_bytes()
        (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
        assert reasons(tmp_path).keys() == {"cut.png"}

    @pytest.mark.parametrize("content", [b"", b"a text, not an image", bytes(1000), b"%!PS-Adobe-3.0 EPSF-3.0\n"])
    def test_no_image(self, tmp_path, content):
        (tmp_path / "fake.png").write_bytes(content)
        assert "cannot identify" in reasons(tmp_path)["fake.png"]

    def test_sizes(self, tmp_path):
        Image.new("RGB", (7, 50)).save(tmp_path / "thin.png")
        Image.new("RGB", (80, 80)).save(tmp_path / "large.png")
        Image.new("RGB", (500, 10)).save(tmp_path / "long.png")
        assert reasons(tmp_path, ImageLimits(8, 6000, 49.0)) == {
            "large.png": "ValueError: 80x80 pixels; max_pixels is 6000",
            "long.png": "ValueError: 500x10 pixels; max_aspect_ratio is 49.0",
            "thin.png": "ValueError: 7x50 pixels; min_side_pixels is 8",
        }

    @pytest.mark.parametrize(
        ("side", "reason"),
        [
            (8200, "^ValueError: 8200x8200 pixels; max_pixels is 67108864$"),
            (10_000, "^ValueError: 10000x10000 pixels; max_pixels is 67108864$"),  # of which Pillow alone would warn
            (60_000, "^DecompressionBombError: "),
        ],
    )
    def test_decompression_bomb(self, tmp_path, side, reason):
        limit = Image.MAX_IMAGE_PIXELS
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / "bomb.png").write_bytes(data + struct.pack(">I", 8) + b"IDAT" + bytes(12))
        assert re.search(reason, reasons(tmp_path)["bomb.png"])
        assert limit == Image.MAX_IMAGE_PIXELS

    def test_what_is_no_file(self, tmp_path):
        (tmp_path / "directory.png").mkdir()
        (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
        (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
        os.mkfifo(tmp_path / "pipe.png")
        skipped = reasons(tmp_path)
        assert skipped.keys() == {"gone.png", "pipe.png", "round.png"}
        assert skipped["pipe.png"] == "ValueError: not a regular file"

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems reject such names")
    def test_name_that_is_not_utf8(self, tmp_path):
        with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
            noise().save(file, "PNG")
        assert list(reasons(tmp_path)) == ["caf\\xe9.png"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_unreadable_directory_and_file(self, tmp_path):
        (tmp_path / "closed").mkdir(mode=0)
        (tmp_path / "closed.png").touch(mode=0)
        assert reasons(tmp_path).keys() == {"closed", "closed.png"}

    def test_unreadable_directory_is_reported(self, tmp_path, monkeypatch):
        (tmp_path / "closed").mkdir()
        scan = os.scandir

        def reject(path):
            if os.path.basename(path) == "closed":
                raise PermissionError(13, "Permission denied", path)
            return scan(path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", reject)
            assert "PermissionError" in reasons(tmp_path)["closed"]

    def test_one_warning_with_the_first_reasons(self, tmp_path, caplog):
        for number in range(7):
            (tmp_path / f"bad-{number}.jpg").touch()
        noise().save(tmp_path / "good.png")
        with caplog.at_level(logging.WARNING):
            images = ImageFolder(tmp_path)
        (record,) = caplog.records
        assert "1 images, skipped 7: 'bad-0.jpg' (UnidentifiedImageError" in record.getMessage()
        assert "bad-4.jpg" in record.getMessage()
        assert "bad-5.jpg" not in record.getMessage()
        assert isinstance(images.skipped[6], SkippedImage)

    def test_what_is_left_out_is_said_by_suffix(self, tmp_path, caplog):
        noise().save(tmp_path / "good.png")
        for number in range(3):
            (tmp_path / f"IMG_{number}.HEIC").touch()
        (tmp_path / "deep").mkdir()
        for name in ("notes.txt", "deep/list.TXT", "deep/Makefile", "clip.mov"):
            (tmp_path / name).touch()
        images = ImageFolder(tmp_path)
        assert images.skipped == ()
        assert images.left_out.suffixes == {".heic": 3, ".txt": 2, "": 1, ".mov": 1}
        (record,) = caplog.records
        said = record.getMessage()
        assert "1 images, left out 3 .heic, 2 .txt, " in said
        assert "1 without a suffix" in said
        assert "; .heic can be read where pillow-heif is installed" in said

    def test_tars_are_no_images_of_a_directory(self, tmp_path):
        (tmp_path / "0.tar").touch()
        with pytest.raises(ValueError, match="left out 1 .tar; .tar files are read with streaming: true"):
            ImageFolder(tmp_path)

    def test_what_is_left_out_is_said_where_nothing_is_left(self, tmp_path):
        for number in range(3):
            (tmp_path / f"IMG_{number}.heic").touch()
        with pytest.raises(
            ValueError, match=r"at least one usable image; .*; left out 3 \.heic; .*pillow-heif is inst"
        ):
            ImageFolder(tmp_path)

    @pytest.mark.parametrize("hidden", HIDDEN)
    def test_hidden_directories_are_not_looked_into(self, tmp_path, caplog, hidden):
        for directory in (tmp_path, tmp_path / hidden / "in" / "it", tmp_path / "album" / hidden):
            directory.mkdir(parents=True, exist_ok=True)
            noise().save(directory / "a.png")
        (tmp_path / "link").symlink_to(tmp_path / "album")
        images = ImageFolder(tmp_path)
        assert images.keys == ("a.png",)
        assert images.left_out.hidden == [hidden, f"album/{hidden}"]
        assert f"2 hidden or of the system ('{hidden}', " in caplog.records[0].getMessage()

    def test_hidden_files_are_not_read(self, tmp_path):
        for name in ("a.png", "._a.png", ".b.png", "Thumbs.db"):
            noise().save(tmp_path / name, "PNG")
        images = ImageFolder(tmp_path)
        assert images.keys == ("a.png",)
        assert sorted(images.left_out.hidden) == ["._a.png", ".b.png", "Thumbs.db"]

    def test_a_hidden_directory_may_be_the_root(self, tmp_path):
        (tmp_path / ".cache" / "thumbnails").mkdir(parents=True)
        noise().save(tmp_path / ".cache" / "thumbnails" / "a.png")
        assert ImageFolder(tmp_path / ".cache" / "thumbnails").keys == ("a.png",)

    def test_silent_when_nothing_is_wrong(self, tmp_path, caplog):
        noise().save(tmp_path / "good.png")
        ImageFolder(tmp_path)
        assert caplog.records == []


class TestDirectory:
    def test_one_image_only(self, tmp_path):
        noise().save(tmp_path / "a.png")
        (tmp_path / "notes.txt").write_text("not looked at")
        images = ImageFolder(str(tmp_path))
        assert [item.key for item in images] == ["a.png"]

    def test_nested_and_sorted_by_relative_path(self, tmp_path):
        for name in ("b.png", "a/z.PNG", "a/b/c.jpg", "a.png", "B.png", "a-b/c.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            noise().save(tmp_path / name)
        images = ImageFolder(tmp_path)
        assert images.keys == ("B.png", "a-b/c.png", "a.png", "a/b/c.jpg", "a/z.PNG", "b.png")
        assert images[-1].key == "b.png"
        assert images[1].key == "a-b/c.png"

    def test_unicode_names(self, tmp_path):
        names = ["Ünïcode/图 片.png", "emoji 🎈.png", "e\u0301.png", "\u00e9.png", "with\nnewline.png"]
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            noise().save(tmp_path / name)
        assert ImageFolder(tmp_path).keys == tuple(sorted(names))

    def test_a_key_does_not_depend_on_the_other_files(self, tmp_path):
        noise().save(tmp_path / "m.png")
        before = ImageFolder(tmp_path)[0]
        noise(32, 16).save(tmp_path / "a.png")
        after = ImageFolder(tmp_path)[1]
        assert before.key == after.key == "m.png"
        np.testing.assert_array_equal(before.image, after.image)

    def test_symlink_loops(self, tmp_path):
        root = tmp_path / "root"
        (root / "a").mkdir(parents=True)
        noise().save(root / "a" / "x.png")
        noise().save(tmp_path / "outside.png")
        (root / "a" / "self").symlink_to(root / "a")
        (root / "a" / "up").symlink_to(root)
        (root / "above").symlink_to(tmp_path)
        (root / "circle").symlink_to(root / "circle")
        assert ImageFolder(root).keys == ("a/x.png",)

    def test_linked_directories_are_followed_once(self, tmp_path):
        for directory in ("root/real", "elsewhere/deep"):
            (tmp_path / directory).mkdir(parents=True)
            noise().save(tmp_path / directory / "x.png")
        (tmp_path / "root" / "again").symlink_to(tmp_path / "root" / "real")
        (tmp_path / "root" / "link-1").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "root" / "link-2").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "root" / "real")
        assert ImageFolder(tmp_path / "root").keys == ("link-1/deep/x.png", "real/x.png")

    def test_root_may_be_a_link(self, tmp_path):
        (tmp_path / "real").mkdir()
        noise().save(tmp_path / "real" / "x.png")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert ImageFolder(tmp_path / "link").keys == ("x.png",)

    def test_missing_directory(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"root: '.*nowhere' does not exist; give a directory"):
            ImageFolder(tmp_path / "nowhere")

    def test_file_instead_of_a_directory(self, tmp_path):
        noise().save(tmp_path / "x.png")
        with pytest.raises(ValueError, match=r"root: '.*x\.png' is not a directory; give a directory"):
            ImageFolder(tmp_path / "x.png")

    def test_empty_directory(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(
            ValueError, match=r"usable image; no file in it ends in one of \.apng, .*, \.webp; left out 1 \.txt"
        ):
            ImageFolder(tmp_path)

    def test_only_bad_files(self, tmp_path):
        (tmp_path / "bad.jpg").touch()
        with pytest.raises(ValueError, match=r"usable image; skipped 1: 'bad\.jpg' \(UnidentifiedImageError: cannot"):
            ImageFolder(tmp_path)

    @pytest.mark.parametrize("name", ["min_side_pixels", "max_pixels", "max_aspect_ratio"])
    def test_limits_are_checked(self, name):
        with pytest.raises(ValueError, match=rf"{name} must be at least 1, got 0"):
            ImageLimits(**{name: 0})


class TestLoading:
    def test_no_such_index(self, tmp_path):
        noise().save(tmp_path / "a.png")
        with pytest.raises(IndexError):
            ImageFolder(tmp_path)[1]

    def test_file_vanished_after_the_scan(self, tmp_path):
        noise().save(tmp_path / "a.png")
        images = ImageFolder(tmp_path)
        (tmp_path / "a.png").unlink()
        with pytest.raises(UnusableItemError, match=r"a.png: root: .*a\.png was a good image .*FileNotFoundError"):
            images[0]

    def test_file_broke_after_the_scan(self, tmp_path):
        noise().save(tmp_path / "a.png")
        images = ImageFolder(tmp_path)
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(UnusableItemError, match=r"root: .*a\.png was a good image when .*UnidentifiedImageError"):
            images[0]

    def test_images_outlive_their_file(self, tmp_path):
        noise().save(tmp_path / "a.png")
        image = ImageFolder(tmp_path)[0].image
        (tmp_path / "a.png").unlink()
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(image)), noise())

    def test_in_a_data_loader(self, tmp_path):
        for name in ("a.png", "b.png", "c.png"):
            noise().save(tmp_path / name)
        batches = DataLoader(ImageFolder(tmp_path), batch_size=2, collate_fn=list)
        assert [[item.key for item in batch] for batch in batches] == [["a.png", "b.png"], ["c.png"]]
