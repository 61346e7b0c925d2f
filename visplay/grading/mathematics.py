r"""Mathematical equality through math-verify, with a cheap decision at a point before it.

Imports nothing of this package, so that a worker process can load this file alone, without torch.
"""

from __future__ import annotations

import ast
import dataclasses
import operator
import re
import threading
import unicodedata
from functools import lru_cache
from typing import Any

_TIME_LIMIT_SECONDS = 5
_MAX_CHARACTERS = 200
_CACHED_TEXTS = 16384
_CLEARLY_DIFFERENT = 1e-4
_SAME = 1e-11

SYMBOLS = {  # a symbol, and the LaTeX command for it
    "×": "times", "·": "cdot", "÷": "div", "±": "pm", "∓": "mp", "≤": "le", "≥": "ge", "≠": "ne", "≈": "approx",
    "∞": "infty", "∅": "emptyset", "∪": "cup", "∩": "cap", "∈": "in", "∉": "notin", "⊂": "subset", "∠": "angle",
    "∆": "triangle", "∥": "parallel", "⊥": "perp", "→": "to", "∫": "int", "∑": "sum", "∂": "partial",
}  # fmt: skip
_GREEK = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
for _name in _GREEK.split():
    for _case in ("small", "capital"):
        _spelling = _name if _case == "small" else _name.title()
        SYMBOLS[unicodedata.lookup(f"greek {_case} letter {_name.replace('lambda', 'lamda')}")] = _spelling
_SYMBOLS = "".join(SYMBOLS)
_MATHEMATICAL = re.compile(
    rf"(?=.*(?:[0-9\\+\-*/^_=<>'{_SYMBOLS}]|sin|cos|tan|log|ln|exp))[A-Za-z0-9\s\\{{}}()\[\]+\-*/^_=<>.,|!&'°{_SYMBOLS}]*"
)
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]*matrix\}|\\[A-Za-z]+")
_WORD = re.compile(r"(?!(?:sqrt|sin|cos|tan|log|exp|max|min|and|infty)(?![A-Za-z]))(?<![A-Za-z])[A-Za-z]{3,}")
_NO_EXPRESSION = re.compile(  # a range, a date, an identifier, a number of its own notation
    r"[0-9.,]*[0-9]\s*(?:[-:]\s*[0-9.,]*[0-9]\s*)+|[0-9]+(?:/[0-9]+){2,}|[0-9]+(?:\.[0-9]+){2,}|[0-9]+(?: [0-9]+)+"
    r"|[0-9.]*[0-9]e[+-]?[0-9]+|.*(?<![A-Za-z\\])[A-Za-z]{1,2}[0-9].*|.*\\(?:overline|dot)\b.*"
)
_EXPLOSIVE = re.compile(r"\^.*!|\^\s*\{?\s*[0-9]+\s*\^|\^\s*\{?\s*-?\s*[0-9]{4,}|[0-9]{4,}\s*[})]*\s*!")
_PART = r"[^,()\[\]{}=<>]+"
_LIST = re.compile(rf"(?:(?P<opening>\\?[({{\[])|(?=.*, ))(?P<parts>{_PART}(?:,{_PART})+)(?<!\\)(?:\\?[)}}\]])?")
_INTERVAL = re.compile(rf"(?P<opening>[(\[])(?P<low>{_PART}),(?P<high>{_PART})(?P<closing>[)\]])")
_CHAIN = re.compile(
    rf"(?P<low>{_PART}?)\s*(?P<opening>[<≤])\s*(?P<variable>[A-Za-z])\s*(?P<closing>[<≤])\s*(?P<high>{_PART})"
)
_NOT_POLYNOMIAL = re.compile(r"sqrt|frac|/|÷|\^\s*(?![0-9]|\{\s*[0-9]+\s*\})")
_NOT_SIMPLE = re.compile(
    r"(?<![\\A-Za-z])(?:sin|cos|tan|log|ln|exp|max|min|and|or)(?![A-Za-z])|[0-9.]\s*\\[dt]?frac|[0-9.]\s+[0-9.]|[a-zA-Z]_|'"
)
_TO_PYTHON = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\left(?![a-z])|\\right(?![a-z])|\s+", ""),
        (r"\\[dt]?frac([0-9])([0-9])", r"((\1)/(\2))"),
        (r"\\?sqrt([0-9]|\((?:[^()]*)\))", r"((\1)**.5)"),
    )
)
_INNERMOST = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))"),
        (r"\\sqrt\{([^{}]*)\}", r"((\1)**.5)"),
        (r"(?<=\^)\{([^{}]*)\}", r"(\1)"),
    )
)
_BETWEEN_FACTORS = re.compile(r"(?<=[A-Za-zπ)])(?=[A-Za-zπ0-9(.])|(?<=[0-9.])(?=[A-Za-zπ(])")
_PYTHON = re.compile(r"[A-Za-zπ0-9.+\-*/()]+")
_OPERATORS: dict[type, Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip
_CONSTANTS = {"i": 1j, "e": 2.718281828459045, "π": 3.141592653589793}


def is_mathematical(text: str) -> bool:
    """Whether math-verify has anything to say: short, a number, command or operator in it, and no words or codes."""
    if len(text) > _MAX_CHARACTERS or _MATHEMATICAL.fullmatch(text) is None:
        return False
    bare = _COMMAND.sub(" ", text)
    if (
        _NO_EXPRESSION.fullmatch(bare)
        or _NO_EXPRESSION.fullmatch(text)
        or _EXPLOSIVE.search(text)
        or not _is_balanced(text)
    ):
        return False
    return _WORD.search(bare) is None


def is_refuted(a: str, b: str) -> bool:
    r"""Whether two expressions, or parts of two tuples, clearly differ at a point; False where either is not simple.

    Example:
        >>> is_refuted(r"2\sqrt{3}", r"\sqrt{13}"), is_refuted("10^{-12}", "10^{-13}"), is_refuted("y'", "y")
        (True, True, True)
    """
    if intervals := _read_intervals(a, b):
        (sides, ends), (other_sides, other_ends) = intervals
        return sides != other_sides or any(map(is_refuted, ends, other_ends))
    lists = _LIST.fullmatch(a), _LIST.fullmatch(b)
    if lists[0] and lists[1]:
        return _is_list_refuted(lists[0], lists[1])
    if a.count("'") != b.count("'"):  # math-verify drops primes
        return True
    one, other = _evaluate(a), _evaluate(b)
    if one is None or other is None:
        return (one is not None and "±" in b) or (other is not None and "±" in a)  # two values are not one
    distance = abs(one[0] - other[0])
    return distance > max(_CLEARLY_DIFFERENT * max(abs(one[0]), abs(other[0])), _SAME * (one[1] + other[1]))


def is_confirmed(a: str, b: str) -> bool:
    r"""Whether two constants, or two polynomials, agree at a point so closely that they are the same.

    Roots and quotients of variables are left out: sqrt(x^2) is not x, x/x not 1. So are large values, which floats
    cannot tell apart, and letters in both cases, which a point does not tell apart.

    Example:
        >>> is_confirmed(r"2\sqrt{3}", r"\sqrt{12}"), is_confirmed("x(x+1)", "x+x^2"), is_confirmed("π", "3.141593")
        (True, True, False)
    """
    if intervals := _read_intervals(a, b):
        (sides, ends), (other_sides, other_ends) = intervals
        return sides == other_sides and all(map(is_confirmed, ends, other_ends))
    one, other = _evaluate(a), _evaluate(b)
    if one is None or other is None or max(one[1], other[1]) > 1e4:
        return False
    letters = set(re.findall("[A-Za-z]", _COMMAND.sub(" ", a + b)))
    if letters and (_NOT_POLYNOMIAL.search(a + " " + b) or len(letters) > len({letter.lower() for letter in letters})):
        return False
    return abs(one[0] - other[0]) <= _SAME * max(abs(one[0]), abs(other[0]))


def same_mathematics(a: str, b: str) -> bool:
    """Whether math-verify calls two expressions equal; either direction suffices, so that there is none.

    Bounded in time in the main thread; elsewhere there are no alarms and the caller must bound it.
    """
    time_limit = _TIME_LIMIT_SECONDS if threading.current_thread() is threading.main_thread() else None
    return verify(a, b, time_limit)


def verify(a: str, b: str, time_limit_seconds: int | None) -> bool:
    """The same, with the time limit of math-verify; None for none at all."""
    from math_verify import verify as math_verify

    parsed = [_parse(text, time_limit_seconds) for text in _tell_cases_apart(a, b)]
    if _are_far_apart(*parsed):
        return False
    return any(math_verify(gold, text, timeout_seconds=time_limit_seconds) for gold, text in (parsed, parsed[::-1]))


def _are_far_apart(one: list[Any], other: list[Any]) -> bool:
    """Whether two constants differ in proportion; math-verify rounds to six places and takes small ones for equal."""
    if not all(parsed and getattr(parsed[0], "is_number", False) for parsed in (one, other)):
        return False
    a, b = (complex(parsed[0].evalf(15)) for parsed in (one, other))
    return abs(a - b) > _CLEARLY_DIFFERENT * max(abs(a), abs(b))


def _is_list_refuted(one: re.Match[str], other: re.Match[str]) -> bool:
    """Tuples part by part, (1, 2) and 1, 2 likewise; in other lists a part without any counterpart refutes."""
    parts, others = one["parts"].split(","), other["parts"].split(",")
    openings = {one["opening"], other["opening"]}
    if "(" in openings and openings <= {"(", None} and len(parts) == len(others):
        return any(map(is_refuted, parts, others))
    return any(
        all(is_refuted(part, match) for match in matches)
        for some, matches in ((parts, others), (others, parts))
        for part in some
    )


def _read_intervals(a: str, b: str) -> list[tuple[tuple[bool, bool], tuple[str, str]]] | None:
    """Which ends belong to two intervals, and the ends; None unless both are, and not both may be pairs, (1, 2).

    Two chains of inequalities may be about two variables, which is not for a rule to judge.
    """
    matches = [_INTERVAL.fullmatch(text) or _CHAIN.fullmatch(text) for text in (a, b)]
    if None in matches:
        return None
    found = [match for match in matches if match is not None]
    pairs = [match["opening"] == "(" and match["closing"] == ")" for match in found]
    chains = ["variable" in match.groupdict() for match in found]
    if all(pairs) or all(chains):
        return None
    closed = [tuple(match[end] not in ("(", ")", "<") for end in ("opening", "closing")) for match in found]
    return [((first, last), (m["low"], m["high"])) for (first, last), m in zip(closed, found, strict=True)]


def _is_balanced(text: str) -> bool:
    """Whether braces close, and brackets in number: [0, 1) is an interval."""
    opened = [text.count(bracket) for bracket in "{(["]
    closed = [text.count(bracket) for bracket in "})]"]
    return opened[0] == closed[0] and sum(opened) == sum(closed)


def _tell_cases_apart(a: str, b: str) -> list[str]:
    """Mark capitals of letters that a side has in both cases, for math-verify does not look at case."""
    bare = [_COMMAND.sub(" ", text) for text in (a, b)]
    both = {letter for text in bare for letter in text if letter.isupper() and letter.lower() in text}
    if not both:
        return [a, b]
    pattern = re.compile(rf"\\[A-Za-z]+|[{''.join(sorted(both))}]")
    return [pattern.sub(lambda m: m[0] if m[0][0] == "\\" else f"{m[0].lower()}_{{9}}", text) for text in (a, b)]


@lru_cache(maxsize=_CACHED_TEXTS)
def _parse(text: str, time_limit_seconds: int | None) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    default = LatexExtractionConfig()
    kept = dataclasses.replace(default.normalization_config, units=False, boxed="none")  # 12 cm is not 12 km
    config = dataclasses.replace(default, normalization_config=kept, boxed_match_priority=-1)
    return parse(f"${_to_latex(text)}$", [config], fallback_mode="no_fallback", parsing_timeout=time_limit_seconds)


def _to_latex(text: str) -> str:
    text = re.sub(f"[{_SYMBOLS}]", lambda match: f"\\{SYMBOLS[match[0]]} ", text)
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])(sin|cos|tan|log|ln|exp|pi)(?![a-z])", r"\\\1 ", text)
    text = re.sub(r"\\(sin|cos|tan)\s*[({]?([0-9.]+)\s*°[)}]?", r"\\\1(\\frac{\2 \\pi}{180})", text)
    return text.replace("°", r"^{\circ}")


@lru_cache(maxsize=_CACHED_TEXTS)
def _evaluate(text: str) -> tuple[complex, float] | None:
    """The value of a simple expression where each letter is some positive number, and the size of what was added up.

    None if it is not simple; then it is math-verify's.
    """
    if _NOT_SIMPLE.search(text):
        return None
    for pattern, replacement in _TO_PYTHON:
        text = pattern.sub(replacement, text)
    before = ""
    while text != before:
        before = text
        for pattern, replacement in _INNERMOST:
            text = pattern.sub(replacement, text)
    text = text.replace("^", "**").replace("×", "*").replace("·", "*").replace("÷", "/").replace("pi", "π")
    if _PYTHON.fullmatch(text) is None:
        return None
    try:
        value, size = _compute(ast.parse(_BETWEEN_FACTORS.sub("*", text), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError):
        return None
    return (value, size) if size < 1e100 else None


def _compute(node: ast.AST) -> tuple[complex, float]:
    if isinstance(node, ast.BinOp):
        (a, size), (b, other_size) = _compute(node.left), _compute(node.right)
        value = _OPERATORS[type(node.op)](a, b)
        return value, max(abs(value), size + other_size if isinstance(node.op, (ast.Add, ast.Sub)) else 0.0)
    if isinstance(node, ast.UnaryOp):
        value, size = _compute(node.operand)
        return _OPERATORS[type(node.op)](value), size
    if isinstance(node, ast.Name):
        value = _CONSTANTS.get(node.id) or 1.137 + (ord(node.id.lower()) * 0.61803) % 1.7
        return value, abs(value)
    if not isinstance(node, ast.Constant):  # such as (), which is a tuple
        raise ValueError(f"{type(node).__name__} is no expression")
    value = complex(node.value)  # type: ignore[arg-type]  # a text or an ellipsis is a TypeError
    return value, abs(value)
