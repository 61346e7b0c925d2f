import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visplay.data.question_text import (
    append_options,
    count_marks,
    place_marks,
    read_options,
    read_text,
    unwrap_answer,
    write_problem,
)

LATEX = (r"\theta", r"\nu", r"\rho", r"\alpha", r"\vec{a}", r"\beta", r"\times")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("How many?", 0),
        ("<image>How many?", 1),
        ("<image><image> Which?", 2),
        ("<image 1> or <image 1>?", 1),
        ("<image 3>?", 3),
        ("<image2> and <image>", 2),
        ("<images> <img> <image x>", 0),
    ],
)
def test_count_marks(text, count):
    assert count_marks(text) == count


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        ("<image>\n<image 1>  How many?\n<image>", 1, "How many?"),
        ("How <image>many?", 1, "How many?"),
        ("In <image 1>, what <image>is it?", 1, "In [image 1], what is it?"),
        ("<image 1>", 1, ""),
        ("<image> or <image>?", 2, "[image 1] or [image 2]?"),
        ("<image 2>\nor <image1>?", 2, "[image 2]\nor [image 1]?"),
        ("Which?", 2, "Which?"),
    ],
)
def test_place_marks(text, images, expected):
    assert place_marks(text, images) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        ("", ()),
        ("[]", ()),
        (["a ", 2], ("a", "2")),
        ('["a", "it\'s"]', ("a", "it's")),
        ("['$\\\\frac{1}{2}$', '0.5']", ("$\\frac{1}{2}$", "0.5")),
        (r"['\(x\)', 'y']", (r"\(x\)", "y")),
        (r"['\sqrt{2}', '\frac{1}{2}']", (r"\sqrt{2}", r"\frac{1}{2}")),
        (r'["\frac{1}{2}", "\beta"]', (r"\frac{1}{2}", r"\beta")),
        (r"['\theta', '\nu', '\rho', '\alpha', '\vec{a}', '\beta', '\times']", LATEX),
        (r'["\theta", "\nu", "\rho", "\alpha", "\vec{a}", "\beta", "\times"]', LATEX),
        (repr(list(LATEX)), LATEX),
        (json.dumps(LATEX), LATEX),
        (str(dict(zip("ABCDEFG", LATEX, strict=True))), LATEX),
        (r"{'A': '\nabla f', 'B': '\tan x'}", (r"\nabla f", r"\tan x")),
        (r"['$x \neq 1$', '$x \to \infty$']", (r"$x \neq 1$", r"$x \to \infty$")),
        (r"['\xi', '\underline{a}', '\Nu', '\0']", (r"\xi", r"\underline{a}", r"\Nu", r"\0")),
        (r"['\begin{pmatrix}1 \\ 2\end{pmatrix}', 'b']", (r"\begin{pmatrix}1 \\ 2\end{pmatrix}", "b")),
        (r"['a\nb', 'c\td']", ("a\nb", "c\td")),
        (r"['it\'s', '\frac12']", ("it's", r"\frac12")),
        (r"['caf\xe9', '\u2264 2']", ("café", "≤ 2")),
        (r'["\ud83d\ude00", "a\/b"]', ("😀", "a/b")),
        (r'["5 \"", "\text{m}"]', ('5 "', r"\text{m}")),
        (r"['1\/2', 'b']", (r"1\/2", "b")),
        ('[null, "a"]', None),
        ({"B": "b", "A": "a", "C": None}, ("a", "b")),
        ('{"A": true, "B": null}', ("True",)),
        ("{'B': 'b', 1: 'a'}", ("a", "b")),
    ],
)
def test_read_options(value, expected):
    if expected is None:
        with pytest.raises(ValueError, match="not a list of texts"):
            read_options(value)
    else:
        assert read_options(value) == expected


@given(st.lists(st.text(st.characters(codec="utf-8")).map(str.strip), min_size=1))
def test_what_python_and_json_write_is_read_back(options):
    for text in (repr(options), json.dumps(options), json.dumps(options, ensure_ascii=False)):
        if not re.search(r"\\[ntrbf][A-Za-z]|\\x|\\[uU]", text):
            assert read_options(text) == tuple(options)


def test_half_a_character_is_no_text():
    with pytest.raises(ValueError, match="surrogates"):
        read_options(r'["\ud83d", "b"]')


@pytest.mark.parametrize("value", ["a or b", "3", "{[]: 1}", [["a"]], 7])
def test_options_of_another_shape(value):
    with pytest.raises(ValueError, match="not a list of texts"):
        read_options(value)


@pytest.mark.parametrize(
    ("problem", "appended"),
    [
        ("Which? A. red B. blue", False),
        ("Which?\n(A) red\n(B) blue", False),
        ("Which?\nA: red\nB: blue", False),
        ("Is it red or blue?", True),
        ("Which? A. red", True),
        ("Which? A. green or A. red, B. blue", False),
    ],
)
def test_options_are_stated_once(problem, appended):
    expected = f"{problem}\nA. red\nB. blue" if appended else problem
    assert append_options(problem, ("red", "blue")) == expected


def test_images_as_options():
    options = ("<image 1>", "<image 2>")
    assert write_problem("Which is older?", options, 2) == "Which is older?\nA. [image 1]\nB. [image 2]"
    assert write_problem("<image 1>Is it this?", ("<image 1>", "none"), 1) == "Is it this?\nA. [image 1]\nB. none"
    assert write_problem("<image>", ("a", "b"), 1) == ""
    assert write_problem("<image>", ("a", "b"), 1, "Look.") == "Look.\nA. a\nB. b"


@pytest.mark.parametrize(
    ("wrapped", "answer"),
    [
        ("<answer> 7 </answer>", "7"),
        ("<think>3 + 4</think>\n<answer>\\boxed{7}</answer>", "7"),
        ("#### 7", "7"),
        ("3 + 4 = 7.\nSo it is 7.\n#### 1,234\n", "1,234"),
        ("\\boxed{B}", "B"),
        ("$\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
        ("The answer is \\boxed{7}.", "7"),
        ("7", "7"),
        (" (B) ", "(B)"),
        ("a # b", "a # b"),
        ("<answer></answer>", "<answer></answer>"),
        ("\\boxed{}", "\\boxed{}"),
        ("\\boxed{1} or \\boxed{2}", "\\boxed{1} or \\boxed{2}"),
        ("<answer>1</answer><answer>2</answer>", "<answer>1</answer><answer>2</answer>"),
        ("", ""),
    ],
)
def test_unwrap_answer(wrapped, answer):
    assert unwrap_answer(wrapped) == answer


@pytest.mark.parametrize("text", [" ", "<image>", "<image> ", "<image" + " " * 1000, "<image 1", "\n<image 2>"])
@pytest.mark.parametrize("images", [1, 2])
def test_a_megabyte_of_marks_is_placed_at_once(text, images):
    """Not a timing: what is quadratic takes minutes here, and the test's time limit ends it."""
    place_marks(f"x{text * (2**20 // len(text))}x", images)


_AT_THE_ENDS = re.compile(r"\A(?:\s*<image(?:[ \t]*\d+)?>)+\s*|\s*(?:<image(?:[ \t]*\d+)?>\s*)+\Z")


@given(st.lists(st.sampled_from(["<image>", "<image 2>", "<image", " ", "\n", "\u2028", "x", "3>", ">"])).map("".join))
def test_marks_at_the_ends_are_taken_out_as_by_a_pattern(text):
    assert place_marks(text, 1) == place_marks(_AT_THE_ENDS.sub("", text), 1)


def test_a_number_of_any_length_names_too_many_images():
    assert count_marks(f"<image {'9' * 5000}>") == 999999999
    assert count_marks(f"<image {'0' * 5000}2>") == 2


@pytest.mark.parametrize(
    "text",
    ["[" * 10**6, "-" * 10**6, "(" * 10**6, "9**9**9", "{'a':" * 10**5, "not " * 10**5, "[1" + "0" * 10**5 + "]"],
)
def test_an_expression_is_neither_evaluated_nor_followed_into_its_depth(text):
    with pytest.raises(ValueError, match="not a list of texts"):
        read_options(text)


def test_too_much_text_and_too_many_options_are_rejected():
    with pytest.raises(ValueError, match=r"^problem has 1048577 characters; at most 1048576 are read"):
        read_text({"problem": "a" * (2**20 + 1)}, "problem")
    with pytest.raises(ValueError, match=r"^options has 1048577 characters"):
        read_options("a" * (2**20 + 1))
    with pytest.raises(ValueError, match=r"^1001 options; at most 1000 are read"):
        read_options(["a"] * 1001)
    with pytest.raises(ValueError, match=r"^options has 1048577 characters"):
        read_options(["a" * 2**20, "b"])


def test_a_long_option_is_not_looked_for_in_the_question():
    longest, longer = "a" * 1000, "a" * 1001
    assert append_options(f"A. {longest}", [longest]) == f"A. {longest}"
    assert append_options(f"A. {longer}", [longer]) == f"A. {longer}\nA. {longer}"
