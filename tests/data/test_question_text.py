import pytest

from visplay.data.question_text import (
    append_options,
    count_marks,
    place_marks,
    read_options,
    unwrap_answer,
    write_problem,
)


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
        ({"B": "b", "A": "a", "C": None}, ("a", "b")),
        ('{"A": true, "B": null}', ("True",)),
        ("{'B': 'b', 1: 'a'}", ("a", "b")),
    ],
)
def test_read_options(value, expected):
    assert read_options(value) == expected


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
