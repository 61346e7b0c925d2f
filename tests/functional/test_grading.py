from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visplay.functional import equivalent, grading, normalise_answer

PIECES = [*"0123456789.,+-/e%$()[]{}\\ abcxB'\"*`:°^!π€", "\\text{", "\\frac", "\\circ", " cm", "option "]
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)

CHEAP_EQUAL = [
    ("1,000", "1000.0"),
    ("1{,}000", "1000"),
    ("1e3", "1000"),
    ("+5", "5."),
    (".5", "0.50"),
    ("-0", "0.0"),
    ("−5", "-5"),
    ("1/2", "0.5"),
    ("2/4", "1 / 2"),
    ("1/3", "0.333333"),
    ("50%", r"50.0\%"),
    ("50%", "50 percent"),
    ("50%", "50"),
    ("12 cm", "12"),
    ("12cm", r"12\text{ cm}"),
    ("12 centimetres", "12.0 cm."),
    ("$5", "5 dollars"),
    ("$1,200.50", "1200.5"),
    (r"90^\circ", "90°"),
    (r"90^{\circ}", "90 degrees"),
    ("(B)", "B."),
    ("b", "[B]"),
    ("**B**", "Option B"),
    ("B", "B. Paris"),
    ("(b) Paris", "B: paris"),
    ("Paris", "B) Paris"),
    ("A: 12 cm", "12"),
    ("Yes.", "yes"),
    ("NO", "no"),
    ('"Red"', r"\text{red}"),
    ("red  and\nblue", "Red and blue."),
    (r"$\frac{1}{2}$", r"\frac{1}{2}"),
    ("", " "),
]
CHEAP_DIFFERENT = [
    ("1000001", "1000000"),
    ("0.0000001", "0.0000002"),
    ("1/3", "0.33"),
    ("50%", "0.5"),
    ("50%", "50 cm"),
    ("12 cm", "12 km"),
    ("100 cm", "1 m"),
    ("5 million", "5"),
    ("5 apples", "5 pears"),
    ("A", "apple"),
    ("A", "a cat"),
    ("B", "8"),
    ("B. Paris", "C. Paris"),
    ("A. Lincoln", "A. Johnson"),
    ("yes", "no"),
    ("yes", "yesterday"),
    ("no", "nothing"),
    ("piano keys", "casino sign"),
    ("there is no cat", "there is no dog"),
    ("None", "no"),
    ("10-20", "20-30"),
    ("2020–2021", "2021–2022"),
    ("2024-01-02", "2024-03-04"),
    ("10:30", "5:15"),
    ("1.2.3", "1.2.4"),
    ("9^{9^{9^9}}", "3"),
    ("10^{99}!", "2"),
    ("", "0"),
]
MATHEMATICS = [
    (r"\frac{2}{4}", "0.5", True),
    (r"\frac{1}{3}", "0.333333", True),
    (r"\dfrac12 \text{ m}", "0.5 m", True),
    (r"2\sqrt{3}", "sqrt(12)", True),
    ("2pi", r"2\pi", True),
    ("2π", r"2\pi", True),
    (r"3 \times 10^2", "300", True),
    ("x = 3", "3", True),
    ("x+y", "y + x", True),
    ("(x+1)^2", "x^2 + 2x + 1", True),
    ("(1, 2)", "(1,2)", True),
    ("2 and 3", "3, 2", True),
    (r"\frac{1}{2}", r"\frac{1}{3}", False),
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


@pytest.fixture
def _no_mathematics(monkeypatch):
    def refuse(a: str, b: str) -> bool:
        raise AssertionError(f"{a!r} and {b!r} reached math-verify")

    monkeypatch.setattr(grading, "_verify", refuse)


@pytest.mark.usefixtures("_no_mathematics")
@pytest.mark.parametrize(("a", "b"), CHEAP_EQUAL)
def test_equal_without_mathematics(a, b):
    assert equivalent(a, b)
    assert equivalent(b, a)


@pytest.mark.usefixtures("_no_mathematics")
@pytest.mark.parametrize(("a", "b"), CHEAP_DIFFERENT)
def test_different_without_mathematics(a, b):
    assert not equivalent(a, b)
    assert not equivalent(b, a)


@pytest.mark.parametrize(("a", "b", "equal"), MATHEMATICS)
def test_mathematics_in_both_directions(a, b, equal):
    assert equivalent(a, b) is equal
    assert equivalent(b, a) is equal


def test_one_direction_of_math_verify_suffices(monkeypatch):
    monkeypatch.setattr("math_verify.verify", lambda gold, answer, timeout_seconds: str(gold) < str(answer))
    assert equivalent(r"\frac{2}{7}", r"\frac{3}{7}")
    assert equivalent(r"\frac{3}{7}", r"\frac{2}{7}")


def test_works_outside_the_main_thread():
    pairs = [(a, b) for a, b, _ in MATHEMATICS]
    with ThreadPoolExecutor(1) as pool:
        graded = list(pool.map(lambda pair: equivalent(*pair), pairs))
    assert graded == [equal for _, _, equal in MATHEMATICS]


def test_long_text_is_compared_as_text():
    long = "+".join(["1"] * 300)
    assert equivalent(long, long)
    assert not equivalent(long, "300")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1,234,567.50", "1234567.5"),
        ("0100", "100"),
        ("1 / 2", "1/2"),
        ("25 Percent", "25 %"),
        ("3 inches", "3 in"),
        ("$7", "7 usd"),
        ("(C)", "c"),
        (r"\Delta T", r"\Delta T"),
        (r"\(x\)", "x"),
        ("'single' and 'double'", "'single' and 'double'"),
        ("...", "."),
    ],
)
def test_canonical_form(text, form):
    assert normalise_answer(text) == form


@given(st.one_of(st.text(max_size=30), ANSWERS))
def test_normalising_twice_changes_nothing(text):
    form = normalise_answer(text)
    assert normalise_answer(form) == form
    assert bool(form) == bool(text.strip())


@settings(max_examples=60)
@given(ANSWERS, ANSWERS)
def test_reflexive_and_symmetric(a, b):
    assert equivalent(a, a)
    assert equivalent(a, b) == equivalent(b, a)


@given(st.integers(-(10**12), 10**12), st.integers(0, 3))
def test_integers_are_equal_by_value_however_written(number, zeros):
    decimals = "." + "0" * zeros if zeros else ""
    assert equivalent(str(number), f"{number:,}{decimals}")
    assert not equivalent(str(number), str(number + 1))
