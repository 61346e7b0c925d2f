from concurrent.futures import ThreadPoolExecutor

import pytest

from visplay.functional import equivalent
from visplay.grading.mathematics import is_confirmed, is_refuted, same_mathematics

MATHEMATICS = [
    (r"\dfrac12 \text{ m}", "0.5 m", True),
    (r"2\sqrt{3}", "sqrt(12)", True),
    ("2pi", r"2\pi", True),
    ("2π", r"2\pi", True),
    ("x = 3 or x = -3", r"x = \pm 3", True),
    (r"x = \frac{\sqrt{8}}{2}", r"\sqrt{2}", True),
    ("x+y", "y + x", True),
    ("(x+1)^2", "x^2 + 2x + 1", True),
    ("(1, 2)", "(1,2)", True),
    ("2 and 3", "3, 2", True),
    (r"\pi r^2 R", r"\pi R^2 r", False),
    (r"R r^2 \pi", r"\pi r^2 R", True),
    (r"[0, \sqrt{4}]", "[0, 2)", False),
    ("x_1 X_2", "X_1 x_2", False),
    ("(3,4)", "(4,3)", False),
    ("1,2", "1.2", False),
    ("0,125", "125", False),
    ("0,125", "0.125", True),
    ("x = 3", "y = 3", False),
    (r"12\sqrt{2} cm", r"12\sqrt{2} km", False),
    (r"\pi", "3.14", False),
    ("(x)^2", "x", False),
    ("1/0", "2/0", False),
    (r"\frac{1", "1", False),
]


@pytest.mark.parametrize(
    ("a", "b", "confirmed"),
    [
        ("(x+1)^2", "x^2+2x+1", True),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True),
        ("2π", "pi + π", True),
        ("π r^2 R", "π R^2 r", False),
        ("sqrt(x^2)", "x", False),
        ("x/x", "1", False),
        ("x^{-1} x", "1", False),
        ("2^{60}", "2^{60}+1", False),
        ("π", "3.14159265", False),
        ("x+1", "x-1", False),
    ],
)
def test_confirmed_by_a_point(a, b, confirmed):
    assert is_confirmed(a, b) is is_confirmed(b, a) is confirmed


@pytest.mark.parametrize(
    ("a", "b", "refuted"),
    [
        ("x+1", "x-1", True),
        ("2^10", "1025", True),
        (r"\frac{π}{2}", "π/3", True),
        ("-2^2", "4", True),
        ("(x+1)^2", "x^2+2x+1", False),
        ("(1, 2, x)", "(1, 3, x)", True),
        ("[0,1)", "(0,1)", True),
        ("(3,4)", "(4,3)", True),
        (r"\{1,2\}", r"\{1,2,3\}", True),
        ("2, 3", "3, 2", False),
        ("±3", "3", True),
        ("i^2", "-1", False),
        ("1.00001", "1", False),
        ("1/0", "2", False),
        (r"\sqrt[3]{8}", "3", False),
        ("x=2", "3", False),
        ("2(3", "6", False),
        ("9^9^9^9", "1", False),
    ],
)
def test_refuted_by_a_point(a, b, refuted):
    assert is_refuted(a, b) is is_refuted(b, a) is refuted


@pytest.mark.parametrize("text", [r"\sqrt{}0", "()", "2^{()}", "3//2", "..", "x(x"])
def test_what_is_no_expression_is_neither(text):
    assert not is_refuted(text, "7")
    assert not is_confirmed(text, "7")


@pytest.mark.parametrize(("a", "b", "equal"), MATHEMATICS)
def test_mathematics_in_both_directions(a, b, equal):
    assert equivalent(a, b) is equal
    assert equivalent(b, a) is equal


def test_one_direction_of_math_verify_suffices(monkeypatch):
    monkeypatch.setattr("math_verify.verify", lambda gold, answer, timeout_seconds: str(gold) < str(answer))
    assert same_mathematics("x + 2", "x + 3")
    assert same_mathematics("x + 3", "x + 2")


def test_works_outside_the_main_thread():
    pairs = [(a, b) for a, b, _ in MATHEMATICS]
    with ThreadPoolExecutor(1) as pool:
        graded = list(pool.map(lambda pair: equivalent(*pair), pairs))
    assert graded == [equal for _, _, equal in MATHEMATICS]


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("[1, 2]", r"1 \le x \le 2", True),
        ("(1, 2]", r"1 < x \leq 2", True),
        ("(1, 2)", "1 < x < 2", True),
        ("[1/2, 2)", r"0.5 ≤ y < 2", True),
        ("[1, 2)", r"1 \le x \le 2", False),
        ("(1, 2)", "[1, 2]", False),
        ("[1, 2]", "[1, 3]", False),
        ("[83, 64)", r"83 \le x \le 64", False),
        ("[2, 1]", "[1, 2]", False),
        ("(24, 41)", "24, 41", True),
        ("(24, 41)", "41, 24", False),
        ("24, 41", "41, 24", True),
    ],
)
def test_intervals_and_tuples(a, b, equal):
    assert equivalent(a, b) is equal
    assert equivalent(b, a) is equal


def test_intervals_with_numbers_need_no_mathematics():
    assert equivalent("[1, 2]", r"1 \le x \le 2", verify=lambda *_: pytest.fail("asked"))
    assert not equivalent("[1, 2)", r"1 \le x \le 2", verify=lambda *_: pytest.fail("asked"))
