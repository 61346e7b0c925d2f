"""The pages as a site: built strictly, nothing from elsewhere, and links that hold on a Git host as well."""

import re
import runpy

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from documents.blocks import PAGES, ROOT

LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site; a warning of mkdocs, as of a link to nowhere or a page without a place, is an error."""
    directory = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(directory))
    build(config)
    return directory


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]*src=\"?([^\"> ]+)|<link[^>]*href=\"?([^\"> ]+)", page.read_text()
        )
        assert [url for pair in loaded for url in pair if re.match(r"(https?:)?//", url)] == []


def test_the_site_has_what_lies_outside_docs(site):
    assert (site / "index.html").is_file()
    assert (site / "CONTRIBUTING.html").is_file()
    assert (site / "examples/study/index.html").is_file()
    assert (site / "examples/add_a_vlm.py").read_text() == (ROOT / "examples/add_a_vlm.py").read_text()


def test_code_in_a_table_has_its_bars(site):
    assert "<code>int | None</code>" in (site / "configuration.html").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_hold_on_a_git_host(page):
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path) if path else page
        assert target.exists(), f"{path}: no such file"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text()), f"{path}#{anchor}: no such heading"


def anchors(text):
    """Anchors of a page's headings, as a Git host makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def test_anchors_by_hand():
    assert anchors("# The vote (Eq. 4)\n```\n# no\n```\n## `fit`, [a](b.md) and …\n") == {"the-vote-eq-4", "fit-a-and-"}


def test_the_page_of_settings_is_as_it_would_be_written_now():
    page = (ROOT / "docs/configuration.md").read_text()
    assert page == runpy.run_path(str(ROOT / "docs/generate.py"))["write"](), "run python docs/generate.py"
