"""Text that nobody vouches for, from images' names, tables and models, as people are shown it."""

from __future__ import annotations

import re

# What moves the cursor, colours, links or ends a line, reorders what stands around it, hides in it, or is no character.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_MARKUP = re.compile(r"([\\`*|<>]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w)|~(?=~))")
_LINK = re.compile(r"\][(\[:]")


def visible(text: str, keep: str = "") -> str:
    r"""Write control characters as escapes, those that reverse the direction of text among them.

    Args:
        text: The text.
        keep: Characters that are left as they are.

    Example:
        >>> visible("red: \x1b[31m\n")
        'red: \\x1b[31m\\n'
    """

    def escape(found: re.Match[str]) -> str:
        return found[0] if found[0] in keep else found[0].encode("unicode_escape").decode()

    return _UNSEEN.sub(escape, text)


def markdown_text(text: str) -> str:
    r"""Write a text so that Markdown shows it as it is, in one line: no table, link, image or HTML comes of it.

    Example:
        >>> markdown_text("<b> [x](y)\n| z"), markdown_text("rule_accuracy [0.1, 0.2]")
        ('\\<b\\> \\[x\\](y) \\| z', 'rule_accuracy [0.1, 0.2]')
    """
    text = _MARKUP.sub(r"\\\1", visible(" ".join(text.split())))
    return text.replace("[", "\\[").replace("]", "\\]") if _LINK.search(text) else text
