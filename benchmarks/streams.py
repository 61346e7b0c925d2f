"""Streams of images: memory, speed against a plain loop over the same files, and the exact position after SIGKILL.

``python -m benchmarks.streams`` writes JPEG images into parquet files and tars of a temporary directory, and draws them
in batches of 64, in fresh processes: a tenth of the shards and all of them, for the memory above what the process had
before; with different numbers of workers, for the speed; with pauses between the batches, for what decoding ahead
saves. Then a pass over all is killed (SIGKILL) at random moments, each time started again at the last position that was
written down, and must have given the same images in the same order as a pass that nobody stopped; else the exit code is
1. docs/data.md has what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.measure import forget_peak, memory_mib, peak_mib, run_apart
from visplay.data.draws import Draws
from visplay.data.images.decoding import decode_image
from visplay.data.streams.image_stream import ImageStream, Streaming

ROOT = Path(__file__).parents[1]
BATCH = 64
PER_GROUP = 100
PAUSE_SECONDS = 0.05


def write_shards(directory: Path, images: int, side: int, per_shard: int) -> None:
    """Write the images twice, below ``parquet`` and below ``tar``; they are smooth noise of which no two are alike."""
    for kind in ("parquet", "tar"):
        (directory / kind).mkdir()
    rng = np.random.default_rng(0)
    for first in range(0, images, per_shard):
        encoded = [_encode(rng, side) for _ in range(min(per_shard, images - first))]
        name = f"{first // per_shard:05d}"
        pq.write_table(
            pa.table({"image": encoded}), directory / "parquet" / f"{name}.parquet", row_group_size=PER_GROUP
        )
        with tarfile.open(directory / "tar" / f"{name}.tar", "w") as tar:
            for number, data in enumerate(encoded, first):
                for suffix, content in (("jpg", data), ("txt", b"a caption")):
                    member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))


def _encode(rng: np.random.Generator, side: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side)).save(buffer, "JPEG")
    return buffer.getvalue()


def plain(directory: Path) -> Iterator[bytes]:
    """The encoded images, file by file, as one would read them without a stream."""
    for path in sorted(directory.iterdir()):
        if path.suffix == ".parquet":
            for batch in pq.ParquetFile(path).iter_batches(PER_GROUP):
                yield from batch["image"].to_pylist()
        else:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".jpg") and (file := tar.extractfile(member)) is not None:
                        yield file.read()


def loop(directory: Path) -> dict[str, float]:
    """Decode every image in a plain loop."""
    start, cpu = time.perf_counter(), time.process_time()
    images = sum(decode_image(data).width > 0 for data in plain(directory))
    return {"images": images, "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def draw(directory: Path, workers: int, prefetch: int, pause_seconds: float) -> dict[str, float]:
    """Draw every image of a stream, with pauses between the batches; ``seconds`` are those of the draws."""
    before = memory_mib("cpu")
    forget_peak("cpu")
    start, cpu = time.perf_counter(), time.process_time()
    stream = ImageStream(directory, streaming=Streaming(workers=workers, prefetch=prefetch))
    opened = time.perf_counter()
    draws, waiting = Draws(stream, seed=0), 0.0
    while draws.position < len(stream):
        asked = time.perf_counter()
        draws.draw(min(BATCH, len(stream) - draws.position))
        waiting += time.perf_counter() - asked
        time.sleep(pause_seconds)
    return {
        "images": draws.position,
        "opening_seconds": opened - start,
        "seconds": waiting,
        "cpu_seconds": time.process_time() - cpu,
        "mib": peak_mib() - before,
    }


def note(directory: Path, notes: Path) -> None:
    """Draw every image, from where ``notes`` end, and note after each batch the position, the keys and the pixels."""
    stream = ImageStream(directory)
    draws = Draws(stream, seed=0, position=sum(len(batch) for batch in read_notes(notes)))
    with notes.open("ab") as file:
        while draws.position < len(stream):
            batch = draws.draw(min(BATCH, len(stream) - draws.position))
            line = [[item.key, zlib.crc32(item.image.tobytes())] for item in batch]
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()


def read_notes(path: Path) -> list[list]:
    """The batches that were noted; the end of a line that a kill cut off is taken away."""
    whole = path.read_bytes().rpartition(b"\n")
    path.write_bytes(whole[0] + whole[1])
    return [json.loads(line) for line in whole[0].splitlines()]


def kill_and_compare(directory: Path, notes: Path, kills: int, seconds: float) -> int:
    """Kill a pass again and again, and compare it with an undisturbed one; how many images were drawn.

    Args:
        directory: The shards.
        notes: A directory for the notes.
        kills: How often.
        seconds: The longest that a process is left to draw.

    Raises:
        AssertionError: The images are others, or in another order.
    """
    whole, killed = notes / "whole", notes / "killed"
    for path in (whole, killed):
        path.touch()
    line = [sys.executable, "-m", "benchmarks.streams", "--alone", "note", str(directory)]
    subprocess.run([*line, str(whole)], cwd=ROOT, check=True)
    moments = random.Random(0)
    for number in range(kills):
        begin = killed.stat().st_size
        process = subprocess.Popen([*line, str(killed)], cwd=ROOT)
        while killed.stat().st_size <= begin and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.wait()
        print(f"kill {number + 1}: {sum(map(len, read_notes(killed)))} images drawn", flush=True)
    subprocess.run([*line, str(killed)], cwd=ROOT, check=True)
    expected, found = ([item for batch in read_notes(path) for item in batch] for path in (whole, killed))
    assert found == expected, "killed and continued, a pass has other images or another order"
    assert len({key for key, _ in expected}) == len(expected), "an image came twice"
    return len(expected)


def alone(words: list[str]) -> None:
    """What a fresh process does."""
    if words[0] == "note":
        note(Path(words[1]), Path(words[2]))
    elif words[0] == "loop":
        print(json.dumps(loop(Path(words[1]))))
    else:
        print(json.dumps(draw(Path(words[1]), int(words[2]), int(words[3]), float(words[4]))))


def show(form: str, done: dict[str, float]) -> None:
    """Print a line of what was measured."""
    line = f"{form}: {done['images']} images, {done['images'] / done['seconds']:.0f} per second"
    line += f", {1e6 * done['cpu_seconds'] / done['images']:.0f} us of CPU each"
    if "mib" in done:
        line += f", opened in {done['opening_seconds']:.2f} s, {done['mib']:.0f} MiB more than before"
    print(line, flush=True)


def measure(directory: Path, images: int, side: int, kills: int) -> None:
    """Write shards, measure, and print."""
    per_shard = max(images // 20, 1)
    write_shards(directory, images, side, per_shard)
    size = sum(path.stat().st_size for path in directory.rglob("*.*")) / 2**20
    print(f"{images} images of {side}x{side} pixels, {size:.0f} MiB in both forms", flush=True)
    for kind in ("parquet", "tar"):
        shards, part = directory / kind, directory / f"part-{kind}"
        part.mkdir()
        for path in sorted(shards.iterdir())[:2]:
            (part / path.name).hardlink_to(path)
        show(f"{kind}, plain loop over a tenth", run_apart("streams", "loop", str(part)))
        for workers in (1, 2, 4):
            show(
                f"{kind}, a tenth, {workers} workers", run_apart("streams", "draw", str(part), str(workers), "64", "0")
            )
        for prefetch in (0, 64):
            done = run_apart("streams", "draw", str(part), "4", str(prefetch), str(PAUSE_SECONDS))
            show(f"{kind}, a tenth, pauses of {PAUSE_SECONDS:g} s, prefetch {prefetch}", done)
        show(f"{kind}, plain loop over all", run_apart("streams", "loop", str(shards)))
        show(f"{kind}, all, 4 workers", run_apart("streams", "draw", str(shards), "4", "64", "0"))
        notes = directory / f"notes-{kind}"
        notes.mkdir()
        compared = kill_and_compare(shards, notes, kills, seconds=images / 20000)
        print(f"{kind}: {compared} images, {kills} kills: the same images in the same order", flush=True)


def main() -> None:
    """Measure, or be the process that is measured."""
    if sys.argv[1:2] == ["--alone"]:
        alone(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64, help="of an image, in pixels")
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="visplay-streams-") as directory:
        os.environ["HF_DATASETS_CACHE"] = str(Path(directory, "cache"))  # of the processes that are started
        try:
            measure(Path(directory), options.images, options.side, options.kills)
        except AssertionError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
