r"""Answer equivalence: numbers, units, option letters, short text, and LaTeX through math-verify.

``equivalent`` is reflexive and symmetric, not transitive. Cheap comparisons come first; only two mathematical texts
that they cannot decide reach math-verify, at milliseconds a pair.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

_TIME_LIMIT_SECONDS = 5
_MAX_MATH_CHARACTERS = 200
_CACHED_TEXTS = 4096

_UNITS = {
    "%": ("percent", "per cent"),
    "degree": ("degrees", "deg"),
    "rad": ("radian", "radians"),
    "mm": ("millimeter", "millimeters", "millimetre", "millimetres"),
    "cm": ("centimeter", "centimeters", "centimetre", "centimetres"),
    "m": ("meter", "meters", "metre", "metres"),
    "km": ("kilometer", "kilometers", "kilometre", "kilometres"),
    "in": ("inch", "inches"),
    "ft": ("foot", "feet"),
    "yd": ("yard", "yards"),
    "mi": ("mile", "miles"),
    "mg": ("milligram", "milligrams"),
    "g": ("gram", "grams"),
    "kg": ("kilogram", "kilograms"),
    "lb": ("lbs", "pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "ml": ("milliliter", "milliliters", "millilitre", "millilitres"),
    "l": ("liter", "liters", "litre", "litres"),
    "ms": ("millisecond", "milliseconds"),
    "s": ("sec", "secs", "second", "seconds"),
    "min": ("mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "day": ("days",),
    "week": ("weeks",),
    "month": ("months",),
    "year": ("years", "yr", "yrs"),
    "km/h": ("kmh", "kph"),
    "mph": (),
    "m/s": (),
    "usd": ("dollar", "dollars"),
    "eur": ("euro", "euros"),
    "pixel": ("pixels", "px"),
}
_UNIT_NAMES = {name: unit for unit, names in _UNITS.items() for name in (unit, *names)}
_UNIT = re.compile(rf"(?P<magnitude>.*[0-9.}})!])\s*(?P<unit>{'|'.join(sorted(_UNIT_NAMES, key=len, reverse=True))})")
_CURRENCY = re.compile(r"(?P<sign>[+-]?)(?P<unit>\$|€)\s*(?P<magnitude>[0-9.,]*[0-9])")

_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[1-9][0-9]{0,2}(?:,[0-9]{3}){1,12}|[0-9]{0,40})(?P<decimals>\.[0-9]{0,40})?"
    r"(?:e(?P<exponent>[+-]?[0-9]{1,2}))?(?:\s*/\s*(?P<denominator>[0-9]{1,40}))?"
)
_OPTION = re.compile(r"(?:option\s+)?[(\[]?(?P<letter>[a-z])[)\].:]?")
_LABELLED = re.compile(r"(?:\((?P<in_brackets>[A-Za-z])\)\s+|(?P<letter>[A-Za-z])[).:]\s*)(?P<text>[\w\\(].*)")

_WRAPPERS = (
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ('"', '"'),
    ("'", "'"),
    ("`", "`"),
    ("“", "”"),
)
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1"),
        (r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree\b|°)", " degree"),
        (r"\\([%$])", r"\1"),
        (r"\\[,;:! ]|\\quad\b|~", " "),
        (r"(?<=[0-9])\{,\}(?=[0-9])", ","),
        (r"[−–—]", "-"),
        (r"\s+", " "),
        (r"(?<=\S)\s*\.$", ""),
    )
)

_MATHEMATICAL = re.compile(r"(?=.*[0-9\\+\-*/^_=<>π∞√])[A-Za-z0-9\s\\{}()\[\]+\-*/^_=<>.,|!&'π∞√×·÷≤≥]*")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"(?!(?:sqrt|sin|cos|tan|log|exp|max|min|and|infty)(?![A-Za-z]))(?<![A-Za-z])[A-Za-z]{3,}")
_RANGE_OR_DATE = re.compile(r"[0-9.,\s]+(?:[-:][0-9.,\s]+)+|[0-9]+(?:/[0-9]+){2,}|[0-9]+(?:\.[0-9]+){2,}")
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


def normalise_answer(text: str) -> str:
    r"""Bring an answer to its canonical form, the same for the same number, option letter or text.

    Drops what does not mean anything: white space, a final full stop, quotes, dollar signs around mathematics,
    ``\text{}``, brackets around an option letter, separators of thousands and trailing zeros. Lower-cases text without
    LaTeX commands, in which case means something.

    Args:
        text: An answer.

    Returns:
        The canonical form; normalising it again changes nothing.

    Example:
        >>> [normalise_answer(text) for text in ("1,000.0", "(B)", r"$\text{ Yes.}$", "50 percent", r"\Delta t")]
        ['1000', 'b', 'yes', '50 %', '\\Delta t']
    """
    text = _clean(text)
    if option := _OPTION.fullmatch(text):
        return option["letter"]
    magnitude, unit = _split_unit(text)
    return f"{_write_number(magnitude)} {unit}" if unit else _write_number(text)


def equivalent(a: str, b: str) -> bool:
    r"""Whether two answers say the same (Eq. 4, Eq. 10).

    - Numbers are equal by value: 1,000 = 1000.0, 1/2 = 0.5. A fraction equals a decimal to six places: 1/3 = 0.333333.
    - A unit, % included, counts only where both sides state one: 12 cm = 12, 50 % = 50, 12 cm != 12 km, and never
      converts: 50 % != 0.5, 100 cm != 1 m.
    - An option letter equals itself however it is written, (B) = B. = b, and its option: B = "B. Paris" = Paris.
    - Words are equal without regard to case; nothing is a substring of anything.
    - Mathematics goes to math-verify. Its relation has a direction (x = 3 against 3, say); here either one suffices, so
      that ours has none. A range, a date or a time of day is no mathematics: 10-20 is not -10.

    A comparison is bounded in time in the main thread of a process; elsewhere math-verify cannot bound it, and the
    caller must. Undecided is not equivalent.

    Args:
        a: An answer.
        b: Another answer.

    Example:
        >>> equivalent(r"\frac{1}{2}", "0.50"), equivalent("piano keys", "casino sign")
        (True, False)
    """
    a, b = normalise_answer(a), normalise_answer(b)
    return a == b or _same_value(a, b) or _same_option(a, b)


def _same_option(a: str, b: str) -> bool:
    """Whether one side is a labelled option such as "b. paris" and the other its letter, its text or the same."""
    one, other = _read_option(a), _read_option(b)
    if one and other:
        return one[0] == other[0] and _same_value(one[1], other[1])
    option, answer = (one, b) if one else (other, a)
    return option is not None and (option[0] == answer or _same_value(option[1], answer))


def _same_value(a: str, b: str) -> bool:
    """Whether two canonical forms have the same value and no contradicting units."""
    (magnitude, unit), (other_magnitude, other_unit) = _split_unit(a), _split_unit(b)
    if unit and other_unit and unit != other_unit:
        return False
    if magnitude == other_magnitude:
        return True
    number, other_number = _read_number(magnitude), _read_number(other_magnitude)
    if number is not None and other_number is not None:
        rounds = "/" in magnitude or "/" in other_magnitude
        return number == other_number or (rounds and round(number, 6) == round(other_number, 6) != 0)
    return _is_mathematical(magnitude) and _is_mathematical(other_magnitude) and _verify(magnitude, other_magnitude)


def _clean(text: str) -> str:
    """Rewrite and unwrap until nothing changes."""
    text = text.strip()
    while True:
        cleaned = text
        for pattern, replacement in _REWRITES:
            cleaned = pattern.sub(replacement, cleaned)
        cleaned = _unwrap(cleaned.strip())
        cleaned = cleaned if "\\" in cleaned else cleaned.lower()
        if cleaned in ("", text):
            return text
        text = cleaned


def _unwrap(text: str) -> str:
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inner.strip() and closing not in inner:
            return inner.strip()
    return text


def _split_unit(text: str) -> tuple[str, str]:
    """The magnitude and the canonical unit of a quantity, or the text and "" where there is no unit."""
    if match := _CURRENCY.fullmatch(text):
        return match["sign"] + match["magnitude"], {"$": "usd", "€": "eur"}[match["unit"]]
    match = _UNIT.fullmatch(text)
    if match is None or re.search("[A-Za-z]", _COMMAND.sub("", match["magnitude"])):
        return text, ""
    return match["magnitude"].strip(), _UNIT_NAMES[match["unit"]]


def _read_option(text: str) -> tuple[str, str] | None:
    """The letter and the canonical text of a labelled option."""
    match = _LABELLED.fullmatch(text)
    return match and ((match["letter"] or match["in_brackets"]).lower(), normalise_answer(match["text"]))


def _match_number(text: str) -> re.Match[str] | None:
    match = _NUMBER.fullmatch(text)
    has_digits = match is not None and re.search("[0-9]", (match["whole"] or "") + (match["decimals"] or ""))
    return match if has_digits else None


def _read_decimal(match: re.Match[str]) -> Decimal:
    whole = match["whole"].replace(",", "") or "0"
    return Decimal(f"{match['sign']}{whole}{match['decimals'] or ''}e{match['exponent'] or 0}")


def _read_number(text: str) -> Fraction | None:
    """The exact value of a plain number or fraction."""
    match = _match_number(text)
    if match is None or (match["denominator"] and int(match["denominator"]) == 0):
        return None
    return Fraction(_read_decimal(match)) / int(match["denominator"] or 1)


def _write_number(text: str) -> str:
    """A plain number in canonical digits; any other text as it is."""
    match = _match_number(text)
    if match is None:
        return text
    digits = format(_read_decimal(match), "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    digits = "0" if digits == "-0" else digits.removeprefix("+")
    return digits if match["denominator"] is None else f"{digits}/{match['denominator']}"


def _is_mathematical(text: str) -> bool:
    """Whether math-verify has anything to say: short, a number, command or operator in it, and no words."""
    if len(text) > _MAX_MATH_CHARACTERS or _MATHEMATICAL.fullmatch(text) is None:
        return False
    if _RANGE_OR_DATE.fullmatch(text) or _EXPLOSIVE.search(text):
        return False
    return _WORD.search(_COMMAND.sub(" ", text)) is None


def _verify(a: str, b: str) -> bool:
    from math_verify import verify

    parsed = [_parse(text, _time_limit()) for text in (a, b)]
    return any(verify(gold, answer, timeout_seconds=_time_limit()) for gold, answer in (parsed, parsed[::-1]))


@lru_cache(maxsize=_CACHED_TEXTS)
def _parse(text: str, time_limit_seconds: int | None) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    for pattern, replacement in _TO_LATEX:
        text = pattern.sub(replacement, text)
    default = LatexExtractionConfig()
    kept = dataclasses.replace(default.normalization_config, units=False, boxed="none")  # 12 cm is not 12 km
    config = dataclasses.replace(default, normalization_config=kept, boxed_match_priority=-1)
    return parse(f"${text}$", [config], fallback_mode="no_fallback", parsing_timeout=time_limit_seconds)


def _time_limit() -> int | None:
    """Seconds for one call; None outside the main thread, where there are no alarms."""
    return _TIME_LIMIT_SECONDS if threading.current_thread() is threading.main_thread() else None
