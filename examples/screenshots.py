"""Pictures of a finished run, for the documents: ``python -m examples.screenshots RUN``; needs Chromium and Playwright.

``visplay fit --config configs/tiny.yaml`` makes such a run. A picture is a line of ``SHOTS``.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Page

from examples.headless import OpenPage, chromium
from visplay.commands.report import write_report
from visplay.viewing.look_app import LookApp
from visplay.viewing.run_reader import RunReader

MOST_BYTES = 300_000


@dataclass(frozen=True)
class Shot:
    """A picture of a page.

    Args:
        name: Of the file.
        address: Of the page; ``{run}`` is the run's directory as an address, ``{tensorboard}`` that of its TensorBoard.
        prepare: Waits until the page is complete, and brings it into the state to show.
        width: Of the window, pixels.
        height: Likewise.
        colors: Which scheme the page is asked for.
    """

    name: str
    address: str
    prepare: Callable[[Page], None]
    width: int = 1500
    height: int = 1000
    colors: Literal["light", "dark"] = "light"


def show_curves(page: Page) -> None:
    """Every chart has its curves, as they are, and those of the iterations have a legend."""
    page.get_by_text("Reward of each role").wait_for()
    smoothing = page.locator("input[type=number]").first
    smoothing.fill("0")
    smoothing.press("Enter")
    page.get_by_text("Ignore outliers").click()
    page.locator(".match-list-entry").first.wait_for(state="attached")
    for legend in page.locator(".toggle-matches-button").all()[:6]:
        legend.click()
    page.get_by_text("Accuracy by iteration").scroll_into_view_if_needed()
    page.wait_for_timeout(3000)  # curves are drawn in an animation


def show_panels(page: Page) -> None:
    """The first panels have their images."""
    images = page.locator("tf-image-loader img")
    images.nth(5).wait_for()
    for image in images.all()[:6]:
        image.evaluate("(image) => image.decode()")


def show_report(page: Page) -> None:
    """The report is drawn."""
    page.locator("#cards .card").first.wait_for()


def show_questions(page: Page) -> None:
    """The report's questions, those that were kept."""
    page.locator("#verdict").select_option("kept")
    page.locator("#gallery").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('gallery').scrollIntoView()")
    for image in page.locator("#cards img").all()[:9]:
        image.evaluate("(image) => image.decode()")


def show_terminal(page: Page) -> None:
    """The terminal is drawn."""
    page.locator("svg").first.wait_for()


SHOTS = (
    Shot("tensorboard", "{tensorboard}#custom_scalars", show_curves, height=1350),
    Shot("panels", "{tensorboard}#images", show_panels, height=1150),
    Shot("report-light", "{run}/report.html", show_report, width=1280),
    Shot("report-dark", "{run}/report.html", show_questions, width=1280, colors="dark"),
    Shot("report-narrow", "{run}/report.html", show_report, width=420),
    Shot("look", "{run}/look.svg", show_terminal, width=1480, height=980),
)


def write_pages(run: Path) -> None:
    """Write what is to be shown besides TensorBoard into a run's directory."""
    write_report(str(run))
    with ThreadPoolExecutor(1) as thread:  # the browser's loop may run in this one
        drawn = thread.submit(lambda: asyncio.run(_draw_terminal(run))).result()
    (run / "look.svg").write_text(drawn, "utf-8")


async def _draw_terminal(run: Path) -> str:
    """What ``visplay look`` shows of a run, as SVG."""
    app = LookApp(RunReader(run))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("v", "down", "down", "down")
        await pilot.pause()
        return app.export_screenshot()


@contextmanager
def tensorboard(run: Path) -> Iterator[str]:
    """Serve a run's log while the block runs; gives the address.

    Raises:
        RuntimeError: TensorBoard does not start.
    """
    run = run.resolve()  # its page says where the log is: below the directory of runs, and not where that is
    log, root = str(run.relative_to(run.parents[1])), run.parents[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", log, "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen([*command, "--load_fast=false"], cwd=root, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None, "it is a pipe"
    try:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield found[0]
                return
        raise RuntimeError(f"tensorboard: did not start: {''.join(lines)}")
    finally:
        server.terminate()
        server.communicate()


def take(shot: Shot, open_page: OpenPage, run: Path, board: str) -> bytes:
    """Take a picture, a PNG of at most 256 colours.

    Raises:
        ValueError: It is larger than the documents should have.
    """
    page = open_page(viewport={"width": shot.width, "height": shot.height}, color_scheme=shot.colors)
    page.goto(shot.address.format(run=run.resolve().as_uri(), tensorboard=board))
    shot.prepare(page)
    with Image.open(BytesIO(page.screenshot())) as picture:
        packed = BytesIO()
        picture.convert("RGB").quantize(256).save(packed, "PNG", optimize=True)
    page.close()
    if len(packed.getvalue()) > MOST_BYTES:
        raise ValueError(f"{shot.name}: {len(packed.getvalue())} bytes are more than {MOST_BYTES}; show less of it")
    return packed.getvalue()


def main() -> None:
    """Take the pictures of a run."""
    parser = argparse.ArgumentParser(prog="python -m examples.screenshots", description=main.__doc__)
    parser.add_argument("run", type=Path, help="directory of a finished run")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"), help="where pictures are written")
    parser.add_argument("--only", nargs="*", choices=[shot.name for shot in SHOTS], help="some of them")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_pages(arguments.run)
    with tensorboard(arguments.run) as board, chromium() as open_page:
        for shot in SHOTS:
            if not arguments.only or shot.name in arguments.only:
                picture = take(shot, open_page, arguments.run, board)
                (arguments.output / f"{shot.name}.png").write_bytes(picture)


if __name__ == "__main__":
    main()
