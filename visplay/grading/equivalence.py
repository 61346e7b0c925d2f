r"""Answer equivalence: numbers, units, option letters, sentences, short text, and LaTeX through math-verify.

``compare`` decides all that rules can and names the expressions that only mathematics can compare; ``equivalent`` then
asks math-verify in this process, ``visplay.grading.worker.Grader`` in another one under a hard time limit. The relation
is reflexive and symmetric, not transitive.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from visplay.grading.answers import Reading, is_letter, read_answer
from visplay.grading.mathematics import is_confirmed, is_mathematical, is_refuted, same_mathematics
from visplay.grading.moments import read_moment
from visplay.grading.quantities import POUNDS, Quantity, convert, read_number, read_quantities
from visplay.grading.rules import DEFAULT_RULES, GradingRules
from visplay.grading.text import MAX_CHARACTERS, fold_text, normalise_answer

__all__ = ["Comparison", "canonical_form", "compare", "equivalent", "normalise_answer"]


@dataclass(frozen=True)
class Comparison:
    """What rules say about two answers.

    Args:
        outcome: ``equal_text``, ``equal_value``, ``equal_option`` or ``different``; "" where it is open.
        expressions: The pairs of expressions of which one must be equal, where it is open.
    """

    outcome: str
    expressions: tuple[tuple[str, str], ...] = ()

    @property
    def is_equal(self) -> bool:
        """Whether the rules call the answers equal."""
        return self.outcome.startswith("equal")


_AMBIGUOUS = ({POUNDS, "lb"}, {POUNDS, "£"})
_PRODUCT = re.compile("[A-Za-z]{1,3}")
_RELATION = re.compile("[=<>≤≥≠∈]")
_DIFFERENT = Comparison("different")
_EQUAL_TEXT = Comparison("equal_text")
_EQUAL_VALUE = Comparison("equal_value")
_EQUAL_OPTION = Comparison("equal_option")


def equivalent(
    a: str, b: str, verify: Callable[[str, str], bool] = same_mathematics, rules: GradingRules = DEFAULT_RULES
) -> bool:
    r"""Whether two answers say the same (Eq. 4, Eq. 10).

    What only one side states is elaboration, what both state must agree: a unit, a counted noun, the letter of an
    option, the subject of a sentence or an equation.

    - Numbers are equal by value: 1,000 = 1000.0 = one thousand, 1/2 = 0.5. A fraction equals a decimal to six places:
      1/3 = 0.333333.
    - Units, % included, do not convert unless the rules say so: 12 cm = 12, 50 % = 50, 12 cm != 12 km, 50 % != 0.5,
      100 cm != 1 m. A counted noun is like a unit: 3 apples = 3, 3 apples != 3 pears.
    - An option letter equals itself however it is written, (B) = B. = b, and its option: B = "B. Paris" = Paris.
    - Words are equal without regard to case, accents, articles, hyphens and British spelling; nothing is a substring of
      anything. "It is red.", "The car is red" and "red, not blue" say red; "Yes, it is" says yes.
    - Mathematics goes to math-verify. Its relation has a direction (x = 3 against 3, say); here either one suffices, so
      that ours has none. A range, a date or a time of day is no mathematics: 10-20 is not -10.

    A comparison is bounded in time in the main thread of a process; elsewhere math-verify cannot bound it, and the
    caller must, with ``visplay.grading.worker.Grader`` for example. Undecided is not equivalent.

    Args:
        a: An answer.
        b: Another answer.
        verify: A symmetric relation between mathematical expressions.
        rules: What counts as the same where people differ.

    Example:
        >>> equivalent(r"\frac{1}{2}", "0.50"), equivalent("piano keys", "casino sign")
        (True, False)
    """
    comparison = compare(a, b, rules)
    return comparison.is_equal or any(verify(one, other) for one, other in comparison.expressions)


def canonical_form(equivalence: Callable[[str, str], bool]) -> Callable[[str], str]:
    """The canonical form of answers that goes with a relation: a grader's own, else that of the default rules."""
    form: Callable[[str], str] = getattr(equivalence, "normalise", normalise_answer)
    return form


def compare(a: str, b: str, rules: GradingRules = DEFAULT_RULES) -> Comparison:
    r"""Decide by rules whether two answers say the same, or name what only mathematics can decide.

    Example:
        >>> compare("12 cm", "12"), compare(r"\{1,2\}", r"\{2,1\}").expressions
        (Comparison(outcome='equal_value', expressions=()), (('\\{1,2\\}', '\\{2,1\\}'),))
    """
    a, b = normalise_answer(a, rules), normalise_answer(b, rules)
    if a == b:
        return _EQUAL_TEXT
    if max(len(a), len(b)) > MAX_CHARACTERS:
        return _DIFFERENT
    one, other = read_answer(a, rules), read_answer(b, rules)
    if (option := _compare_options(one, other)) is not None:
        return option
    if one.subject and other.subject and one.subject != other.subject:
        numbers = read_number(one.body, rules), read_number(other.body, rules)
        return _DIFFERENT if None not in numbers else _ask((a, b))
    if one.aside and other.aside and fold_text(one.aside) != fold_text(other.aside):
        return _DIFFERENT
    body = _compare_bodies(one.body, other.body, rules)
    if body.is_equal:
        return _EQUAL_OPTION if one.option or other.option else body
    if _is_settled(one, other) and not (one.subject and _PRODUCT.fullmatch(one.body)):
        return body
    return _ask(*dict.fromkeys((*body.expressions, (a, b))))


def _compare_options(one: Reading, other: Reading) -> Comparison | None:
    """Decide by the letters; None where they do not decide, or are none."""
    letters = [(side.option or (side.body if is_letter(side.body) else "")) for side in (one, other)]
    if not (one.option or other.option):
        both = is_letter(one.body) and is_letter(other.body)
        return (_EQUAL_OPTION if one.body == other.body else _DIFFERENT) if both else None
    if letters[0] and letters[1]:
        if letters[0] != letters[1]:
            return _DIFFERENT
        return _EQUAL_OPTION if not (one.option and other.option) else None
    return None


def _compare_bodies(a: str, b: str, rules: GradingRules) -> Comparison:
    if a == b or fold_text(a) == fold_text(b):
        return _EQUAL_TEXT
    moments = read_moment(a), read_moment(b)
    if moments[0] and moments[1]:
        return _EQUAL_VALUE if moments[0].agrees(moments[1]) else _DIFFERENT
    if any(moment and moment.month for moment in moments):
        return _DIFFERENT
    quantities, others = read_quantities(a, rules), read_quantities(b, rules)
    if len(quantities) != len(others):
        return _DIFFERENT
    parts = [_compare_quantities(one, other, rules) for one, other in zip(quantities, others, strict=True)]
    if len(parts) == 1:
        return parts[0]
    return _EQUAL_VALUE if all(part.is_equal for part in parts) else _DIFFERENT


def _compare_quantities(one: Quantity, other: Quantity, rules: GradingRules) -> Comparison:
    if rules.convert_units:
        other = convert(other, one.unit)
    if rules.percent == "fraction":
        one, other = convert(one, ""), convert(other, "")
    both_stated = one.unit and other.unit or one.stated or other.stated or rules.require_units
    if one.unit != other.unit and {one.unit, other.unit} not in _AMBIGUOUS and both_stated:
        return _DIFFERENT
    if one.value is not None and other.value is not None:
        rounds = one.rounds or other.rounds
        return _EQUAL_VALUE if _same_number(one.value, other.value, rounds) else _DIFFERENT
    if one.magnitude == other.magnitude:
        return _EQUAL_VALUE
    return _ask((one.magnitude, other.magnitude))


def _same_number(a: Fraction, b: Fraction, rounds: bool) -> bool:
    return a == b or (rounds and round(a, 6) == round(b, 6) != 0)


def _is_settled(one: Reading, other: Reading) -> bool:
    """Whether bodies say all there is: not so where only one side is an equation that could be read, x = 1 or x = 2."""
    unread = other.body if one.subject else one.body
    return bool(one.subject) == bool(other.subject) or _RELATION.search(unread) is None


def _ask(*pairs: tuple[str, str]) -> Comparison:
    """Leave the pairs to mathematics that are mathematical and neither clearly different nor surely the same."""
    kept = [(a, b) for a, b in pairs if _are_mathematical(a, b) and not is_refuted(a, b)]
    if any(is_confirmed(a, b) for a, b in kept):
        return _EQUAL_VALUE
    return Comparison("", tuple(kept)) if kept else _DIFFERENT


def _are_mathematical(a: str, b: str) -> bool:
    """Whether both are expressions; one of them may be a product of letters alone, ab."""
    expressions = [text for text in (a, b) if is_mathematical(text)]
    return bool(expressions) and all(text in expressions or _PRODUCT.fullmatch(text) for text in (a, b))
