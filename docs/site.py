"""Hooks of mkdocs: the site has the repository's own pages and files that ``docs/`` links to, at their paths.

The site's root is the repository's and that of ``docs/`` at once, with ``README.md`` as its home: a link to ``docs/``
loses that directory, and one out of it the step up.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
HOME = "README.md"
PAGES = (HOME, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_INLINE_CODE = re.compile(r"`[^`]+`")
_CODE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)


def linked(page: str) -> list[str]:
    """Paths, from the repository's root, of what a page of the repository links to."""
    text = _CODE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    paths = [link.partition("#")[0] for link in _LINK.findall(text)]
    return [posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) for path in paths]


def site_path(path: str) -> str:
    """Where the site has a file of the repository."""
    return "index.md" if path == HOME else path.removeprefix("docs/")


def on_files(files: Files, config: Any) -> Files:
    """Add the home page, and every file outside ``docs/`` that a page links to, directly or by way of another."""
    known = {f"docs/{file.src_uri}" for file in files}
    waiting = [*PAGES, *sorted(path for path in known if path.endswith(".md"))]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        if page not in known and (ROOT / page).is_file():
            files.append(File.generated(config, site_path(page), abs_src_path=str(ROOT / page)))
        further = set(linked(page)) - seen if page.endswith(".md") and (ROOT / page).is_file() else set()
        seen |= further
        waiting += sorted(further)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Write the links of a page as the site has them."""
    source = page.file.src_uri
    path = HOME if source == "index.md" else source if (ROOT / source).is_file() else f"docs/{source}"

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        return posixpath.relpath(site_path(target), posixpath.dirname(source) or ".")

    parts = _CODE.split(markdown)  # text and code in turn
    parts[::2] = [_ROW.sub(_unescape_bars, _LINK.sub(rewritten, text)) for text in parts[::2]]
    return "".join(parts)


def _unescape_bars(row: re.Match[str]) -> str:
    """Bars in a table's code as they are: a Git host takes the backslash away, Python-Markdown does not."""
    return _INLINE_CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0])


class Doctests(griffe.Extension):
    """Shows what stands below ``Example:`` in a docstring as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Give the section the name by which it is known to be one."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
