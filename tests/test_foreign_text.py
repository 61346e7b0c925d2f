import pytest
from markdown_it import MarkdownIt

from visplay.foreign_text import markdown_text, visible

HOSTILE = "a\x1b[31mb\x1b]8;;http://x\x07c\rd\u202ee\u2066f\x9bg\u2028h\udc80i\U000e0041j\x00k\x08l\u200em"


def test_no_control_character_is_left():
    shown = visible(HOSTILE)
    assert shown.isprintable()
    assert shown.startswith(r"a\x1b[31mb\x1b]8;;http://x\x07c\rd\u202ee\u2066f\x9bg\u2028h\udc80i\U000e0041j\x00k\x08l")


def test_text_of_every_language_is_left_alone():
    text = "Wie viele? いくつ? 👨‍👩‍👧 कितने؟ می‌خواهم ≤ é"
    assert visible(text) == text


def test_what_is_kept():
    assert visible("a\nb\tc\r", "\n\t") == "a\nb\tc\\r"


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=http://x onerror=y>",
        "![x](http://y)",
        "[x](javascript:y)",
        "[x][y]",
        "# title",
        "| a | b |",
        "`code`",
        "*a* **b** _c_ __d__",
        "&lt;b&gt; &#60;",
        "a\n\n# b\n- c",
        "<http://x.y>",
        r"\<b>",
        r"\[x](y)",
        "a_b_c [0.1, 0.2]",
    ],
)
def test_markdown_shows_the_text_itself(text):
    found = MarkdownIt("commonmark").enable("table").render(f"| a |\n|---|\n| {markdown_text(text)} |")
    escaped = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f"<td>{escaped}</td>" in found
