"""Fenced blocks of the documents, and what a document says about those that are not run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]
)
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*) *$")
_TAG = re.compile(r"<!-- (?P<what>not run|file): (?P<value>.+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: The document, from the repository's root.
        line: Line of its first line.
        language: What stands behind the fence.
        text: What stands in it.
        not_run: Why it is not run, as the comment before it says; None where it is.
        file: The file that it shows, which later blocks may name; None for none.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> Iterator[Block]:
    """Every fenced block with a language; one without is no code.

    Example:
        >>> [str(each) for each in blocks_of("a.md", "<!-- not run: no GPU -->\\n```bash\\nls\\n```\\n")]
        ['a.md:3']
    """
    lines = text.splitlines()
    start, language, indent, tags = None, "", "", {}
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if start is None:
            start, language, indent = number + 1, fence["language"], fence["indent"]
            tags = {tag["what"]: tag["value"] for tag in _TAG.finditer(_comment_before(lines, number))}
        else:
            if language:
                body = "\n".join(each.removeprefix(indent) for each in lines[start:number])
                yield Block(page, start + 1, language, body, tags.get("not run"), tags.get("file"))
            start = None


def _comment_before(lines: list[str], number: int) -> str:
    """The last line above that is not empty."""
    above = [line for line in lines[:number] if line.strip()]
    return above[-1] if above else ""


BLOCKS = [block for page in PAGES for block in blocks_of(page.relative_to(ROOT).as_posix(), page.read_text())]
