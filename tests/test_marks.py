"""The lists of names in ``marks`` name what there is."""

import re

import pytest

from marks import FIRST, TESTS, WHERE


@pytest.mark.parametrize("beginning", sorted({*FIRST, *(name for names in WHERE.values() for name in names)}))
def test_every_beginning_fits_a_test(beginning):
    file, *names = beginning.split("::")
    found = list(TESTS.glob(f"{file}*"))
    assert found
    for name in names:
        (path,) = found
        definition = re.escape(name.partition("[")[0]) + ("(?=\\()" if "[" in name else "")
        assert re.search(rf"(?:def|class) {definition}", path.read_text())
