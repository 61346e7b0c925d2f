"""A browser for tests of pages."""

import pytest

from examples.headless import chromium, find_chromium


@pytest.fixture(scope="module")  # while it is open, tests of other modules could not call asyncio.run
def browser():
    """Opens pages of a headless Chromium that reaches this machine alone: ``page = browser(color_scheme="dark")``."""
    if find_chromium() is None:
        pytest.skip("no Chromium or Chrome is installed")
    with chromium() as open_page:
        yield open_page
