"""A headless Chromium that reaches this machine and nothing else, for screenshots and for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
_LOCAL = {"127.0.0.1", "localhost"}
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
)

OpenPage = Callable[..., Page]
"""Opens an empty page; takes the options of Playwright's ``Browser.new_context``, such as ``color_scheme``."""


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome that is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium() -> Iterator[OpenPage]:
    """Run a browser while the block runs; each page has cookies and storage of its own.

    Playwright keeps an event loop in this thread meanwhile, so ``asyncio.run`` does not work in the block.

    Raises:
        FileNotFoundError: None is installed.
    """
    path = find_chromium()
    if path is None:
        raise FileNotFoundError(f"a browser: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))

        def open_page(**options: object) -> Page:
            context = browser.new_context(**options)
            context.route("**/*", _stay_here)
            return context.new_page()

        try:
            yield open_page
        finally:
            browser.close()


def _stay_here(route: Route) -> None:
    url = urlsplit(route.request.url)
    if url.scheme in ("file", "data", "blob") or url.hostname in _LOCAL:
        route.continue_()
    else:
        route.abort()
