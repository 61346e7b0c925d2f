r"""Mathematical equality through math-verify, with a cheap refutation in floats before it.

Imports nothing of this package, so that a worker process can load this file alone, without torch.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_TIME_LIMIT_SECONDS = 5
_MAX_CHARACTERS = 200
_CACHED_TEXTS = 16384
_CLEARLY_DIFFERENT = 1e-4
_SAME = 1e-11
_EXACT_BELOW = 1e4

_MATHEMATICAL = re.compile(r"(?=.*[0-9\\+\-*/^_=<>π∞√])[A-Za-z0-9\s\\{}()\[\]+\-*/^_=<>.,|!&'π∞√×·÷≤≥]*")
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]*matrix\}|\\[A-Za-z]+")
_WORD = re.compile(r"(?!(?:sqrt|sin|cos|tan|log|exp|max|min|and|infty)(?![A-Za-z]))(?<![A-Za-z])[A-Za-z]{3,}")
_RANGE_OR_DATE = re.compile(
    r"[0-9.,\s]+(?:[-:][0-9.,\s]+)+|[0-9]+(?:/[0-9]+){2,}|[0-9]+(?:\.[0-9]+){2,}"
    r"|[0-9]+(?: [0-9]+)+|[0-9.]*[0-9]e[+-]?[0-9]+"
)
_EXPLOSIVE = re.compile(r"\^.*!|\^\s*\{?\s*[0-9]+\s*\^|\^\s*\{?\s*-?\s*[0-9]{4,}|[0-9]{4,}\s*[})]*\s*!")
_TO_LATEX = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])|π", r"\\pi "),
        (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"√\s*([0-9]+)", r"\\sqrt{\1}"),
        ("∞", r"\\infty "),
        ("[×·]", r"\\times "),
        ("÷", r"\\div "),
        ("≤", r"\\le "),
        ("≥", r"\\ge "),
    )
)
_TOKEN = re.compile(r"\s*(\\[A-Za-z]+|[0-9]+(?:\.[0-9]+)?|\.[0-9]+|[A-Za-z]|[-+*/^(){}])")
_LETTER = re.compile("[A-Za-z]")
_NOT_POLYNOMIAL = re.compile(r"sqrt|√|frac|/|÷|\\div|\^\s*(?![0-9]|\{\s*[0-9]+\s*\})")
_PART = r"[^,()\[\]{}=<>]+"
_LIST = re.compile(rf"(?:(?P<opening>\\?[({{\[])|(?=.*, ))(?P<parts>{_PART}(?:,{_PART})+)(?<!\\)(?:\\?[)}}\]])?")
_INTERVAL = re.compile(rf"(?P<opening>[(\[])(?P<low>{_PART}),(?P<high>{_PART})(?P<closing>[)\]])")
_BELOW = r"\s*(?P<{}><|≤|\\leq?(?![A-Za-z]))\s*"
_CHAIN = re.compile(
    rf"(?P<low>{_PART}?){_BELOW.format('opening')}(?P<variable>[A-Za-z]){_BELOW.format('closing')}(?P<high>{_PART})"
)
_NOT_SIMPLE = re.compile(r"(?<![\\A-Za-z])(?:sin|cos|tan|log|ln|exp|max|min|and|or)(?![A-Za-z])|[0-9.]\s*\\[dt]?frac")
_CONSTANTS = {"i": 1j, "e": 2.718281828459045, "\\pi": 3.141592653589793}


def is_mathematical(text: str) -> bool:
    """Whether math-verify has anything to say: short, a number, command or operator in it, and no words."""
    if len(text) > _MAX_CHARACTERS or _MATHEMATICAL.fullmatch(text) is None:
        return False
    if _RANGE_OR_DATE.fullmatch(text) or _EXPLOSIVE.search(text) or not _is_balanced(text):
        return False
    return _WORD.search(_COMMAND.sub(" ", text)) is None


def is_refuted(a: str, b: str) -> bool:
    r"""Whether two expressions, or parts of two tuples, clearly differ at a point; False where either is not simple.

    Example:
        >>> is_refuted(r"2\sqrt{3}", r"\sqrt{13}"), is_refuted(r"2\sqrt{3}", r"\sqrt{12}"), is_refuted("x+1", "x-1")
        (True, False, True)
    """
    if intervals := _read_intervals(a, b):
        (sides, ends), (other_sides, other_ends) = intervals
        return sides != other_sides or any(map(is_refuted, ends, other_ends))
    lists = _LIST.fullmatch(a), _LIST.fullmatch(b)
    if lists[0] and lists[1]:
        return _is_list_refuted(lists[0], lists[1])
    one, other = _evaluate(a), _evaluate(b)
    if one is None or other is None:
        return (one is not None and "\\pm" in b) or (other is not None and "\\pm" in a)  # two values are not one
    return abs(one - other) > _CLEARLY_DIFFERENT * max(1.0, abs(one), abs(other))


def is_confirmed(a: str, b: str) -> bool:
    r"""Whether two constants, or two polynomials, agree at a point so closely that they are the same.

    Roots and quotients of variables are left out: sqrt(x^2) is not x, x/x not 1. So are large values, which floats
    cannot tell apart, and letters in both cases, which a point does not tell apart.

    Example:
        >>> is_confirmed(r"2\sqrt{3}", r"\sqrt{12}"), is_confirmed("x(x+1)", "x+x^2"), is_confirmed(r"\pi", "3.141593")
        (True, True, False)
    """
    if intervals := _read_intervals(a, b):
        (sides, ends), (other_sides, other_ends) = intervals
        return sides == other_sides and all(map(is_confirmed, ends, other_ends))
    one, other = _evaluate(a), _evaluate(b)
    if one is None or other is None or max(abs(one), abs(other)) > _EXACT_BELOW:
        return False
    letters = set(_LETTER.findall(_COMMAND.sub(" ", _to_latex(a) + _to_latex(b))))
    if letters and (_NOT_POLYNOMIAL.search(a + " " + b) or len(letters) > len({letter.lower() for letter in letters})):
        return False
    return abs(one - other) <= _SAME * max(1.0, abs(one))


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
    return any(math_verify(gold, text, timeout_seconds=time_limit_seconds) for gold, text in (parsed, parsed[::-1]))


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


def _tell_cases_apart(a: str, b: str) -> Sequence[str]:
    """Mark capitals of letters that a side has in both cases, for math-verify does not look at case."""
    bare = [_COMMAND.sub(" ", text) for text in (a, b)]
    both = {letter for text in bare for letter in text if letter.isupper() and letter.lower() in text}
    if not both:
        return a, b
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
    for pattern, replacement in _TO_LATEX:
        text = pattern.sub(replacement, text)
    return text


@lru_cache(maxsize=_CACHED_TEXTS)
def _evaluate(text: str) -> complex | None:
    """The value of a simple expression where each letter is some positive number; None if it is not simple."""
    tokens = _tokenise(_to_latex(text))
    if not tokens:
        return None
    try:
        value, rest = _sum(tokens)
        return complex(value) if not rest and abs(value) < 1e100 else None
    except (ValueError, IndexError, ArithmeticError, RecursionError):
        return None


def _tokenise(text: str) -> list[str] | None:
    r"""Tokens in reverse, the next one last; \frac12 and \sqrt2 without braces are not simple."""
    if _NOT_SIMPLE.search(text):
        return None
    text = re.sub(r"\\[dt]frac", r"\\frac", re.sub(r"\\(?:left|right)(?![A-Za-z])", "", text))
    tokens, position = [], 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        tokens.append(match[1])
        position = match.end()
    adjacent = zip(tokens, tokens[1:], strict=False)
    return None if any(a[0] in "0123456789." and b[0] in "0123456789." for a, b in adjacent) else tokens[::-1]


def _sum(tokens: list[str]) -> tuple[complex, list[str]]:
    value, _ = _product(tokens)
    while tokens and tokens[-1] in "+-":
        sign = 1 if tokens.pop() == "+" else -1
        value += sign * _product(tokens)[0]
    return value, tokens


def _product(tokens: list[str]) -> tuple[complex, list[str]]:
    value = _power(tokens)
    while tokens and tokens[-1] not in ("+", "-", ")", "}"):
        operator = tokens.pop() if tokens[-1] in ("*", "/", "\\times", "\\cdot", "\\div") else "*"
        factor = _power(tokens)
        value = value / factor if operator in ("/", "\\div") else value * factor
    return value, tokens


def _power(tokens: list[str]) -> complex:
    if tokens[-1] in "+-":
        return (1 if tokens.pop() == "+" else -1) * _power(tokens)
    base = _atom(tokens)
    if tokens and tokens[-1] == "^":
        tokens.pop()
        exponent = _group(tokens) if tokens[-1] == "{" else _atom(tokens)
        return complex(base) ** exponent
    return base


def _atom(tokens: list[str]) -> complex:
    token = tokens[-1]
    if token in ("(", "{"):
        return _group(tokens)
    tokens.pop()
    if token == "\\frac":
        return _group(tokens) / _group(tokens)
    if token == "\\sqrt":
        return complex(_group(tokens)) ** 0.5
    if token in _CONSTANTS:
        return _CONSTANTS[token]
    if len(token) == 1 and token.isalpha():
        return 1.137 + (ord(token.lower()) * 0.61803) % 1.7
    return float(token)


def _group(tokens: list[str]) -> complex:
    opening = tokens.pop()
    if opening not in ("(", "{"):
        raise ValueError(f"tokens: expected a bracket, got {opening!r}")
    value, _ = _sum(tokens)
    if tokens.pop() != {"(": ")", "{": "}"}[opening]:
        raise ValueError(f"tokens: {opening!r} is not closed")
    return value
