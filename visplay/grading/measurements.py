r"""Numbers in digits and in words, and what they count or measure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from visplay.grading.units import CURRENCIES, UNIT, read_unit, split_unit

_DIGITS = (
    r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3}){1,12}(?![0-9])|[1-9][0-9]{0,2}(?: [0-9]{3}){1,12}(?![0-9])|[0-9]{0,40})"
    r"(?:\.[0-9]{0,40})?"
)
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<digits>{_DIGITS})(?:e(?P<exponent>[+-]?[0-9]{{1,2}}))?"
    r"(?:\s*/\s*(?P<denominator>[0-9]{1,40}))?"
)
_SCIENTIFIC = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<digits>{_DIGITS})\s*(?:\\times|\\cdot|[×·*x])\s*10\s*\^\s*"
    r"(?P<brace>\{?)\s*(?P<exponent>[+-]?\s*[0-9]{1,2})\s*\}?"
)
_FRACTION = (
    r"\\[dt]?frac\s*(?:\{\s*(?P<top>[0-9]{1,40})\s*\}\s*\{\s*(?P<bottom>[0-9]{1,40})\s*\}|(?P<t>[0-9])(?P<b>[0-9]))"
)
_BEHIND_WHOLE = r"(?<=[0-9] )(?P<above>[0-9]{1,40})\s*/\s*(?P<below>[0-9]{1,40})"
_MIXED = re.compile(rf"(?P<sign>[+-]?)\s*(?P<whole>[0-9]{{0,40}})\s*(?:{_FRACTION}|{_BEHIND_WHOLE})")

_SMALL_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_SMALL_WORDS.split())}
_TENS = {word: 10 * value for value, word in enumerate(_TENS_WORDS.split(), start=2)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7}
_PARTS |= {"eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000}
_PARTS |= {f"{word}s": value for word, value in _PARTS.items() if value > 2}
_ONES = "|".join(list(_SMALL)[1:10])
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[- ](?:{_ONES})(?![a-z]))?|(?:{'|'.join(reversed(_SMALL))})(?![a-z]))"
_BELOW_1000 = rf"(?:(?:(?:{_ONES}|a) )?hundred(?: and)? {_BELOW_100}|(?:(?:{_ONES}|a) )?hundred|{_BELOW_100})"
_GROUP = rf"(?:{_BELOW_1000}|a) (?:thousand|million|billion|trillion)"
_WORDS = rf"(?:{_GROUP}(?:,? and |,? ))*{_BELOW_1000}|{_GROUP}(?:(?:,? and |,? ){_GROUP})*|(?:{_BELOW_1000}|a) dozen"
_IN_WORDS = re.compile(
    rf"(?P<sign>(?:minus|negative) )?(?:(?P<number>{_WORDS}|a)(?P<half> and a half)?|)"
    rf"(?: ?(?<![a-z])(?P<part>{'|'.join(sorted(_PARTS, key=len, reverse=True))}))?"
)

_LEADING_DIGITS = re.compile(
    rf"(?P<number>[+-]?\s*[0-9](?:[0-9.,]*[0-9])?\.?(?:\s[0-9]{{3}}(?![0-9]))*(?:e[+-]?[0-9]{{1,2}})?"
    rf"(?:\s*/\s*[0-9]+| [0-9]+/[0-9]+)?|[+-]?\.[0-9]+)(?: (?P<scale>{'|'.join(_SCALES)})s?(?![a-z]))?(?P<rest>.*)"
)
_LEADING_WORDS = re.compile(
    rf"(?P<number>(?:(?:minus|negative) )?(?:{_WORDS})(?: and a half)?(?:[- ](?:{'|'.join(_PARTS)})(?![a-z]))?"
    r"|half(?! a)|a (?:half|third|quarter)(?![a-z]))(?![a-z0-9-])"
    rf"(?! (?:{'|'.join([*_SCALES, *_SMALL, *_TENS])})(?![a-z]))(?P<rest>.*)"
)
_NOUN = re.compile(r"(?:of (?:the |these |those |them|all )?)?(?:[a-z][a-z'-]+(?: [a-z][a-z'-]*){0,3})?")
_OTHER_WORDS = (
    "or and not nor than more less fewer least most to through plus minus over under above below between per but "
    "except before after ago past versus vs point squared cubed factorial choose modulo mod divided multiplied "
    "if when unless maybe perhaps probably pi theta alpha beta sqrt sin cos tan log exp ln am pm out with without bce"
)
_NOT_A_NOUN = frozenset((*_OTHER_WORDS.split(), *_SMALL, *_TENS, *_SCALES, *(f"{name}s" for name in _SCALES), *_PARTS))
_ADDS_NOTHING = re.compile(r"(?:in (?:total|all)|total|altogether|items?|of them|times)?")
_PART_OF = re.compile(r"(?P<quantity>.*[0-9a-z%]) of (?:the |all |these |those )?[a-z' -]+")
_PART = re.compile(rf"\s*(?P<number>[0-9][0-9.]*(?:/[0-9]+)?)\s*(?P<unit>{UNIT})(?![a-z])(?:,? and |, ?)?")
_FEET = re.compile(r"([0-9]+)\s*'\s*([0-9.]+)\s*(?:\"|''|inches|in)")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MONTH = "(?P<month>" + "|".join(f"{name[:3]}(?:{name[3:]})?\\.?" if name[3:] else name for name in _MONTHS) + ")"
_DAY = r"(?P<day>[0-3]?[0-9])(?:st|nd|rd|th)?"
_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:the )?{_DAY} (?:of )?{_MONTH}(?:,? (?P<year>[0-9]{{4}}))?",
        rf"{_MONTH} (?:the )?{_DAY}(?:,? (?P<year>[0-9]{{4}}))?",
        rf"{_MONTH},? (?P<year>[0-9]{{4}})",
    )
)


@dataclass(frozen=True)
class Quantity:
    """A magnitude and what it counts or measures.

    Args:
        magnitude: As written.
        value: Its exact value; None where it is no plain number.
        rounds: Whether it is written as a fraction, which equals a decimal to six places.
        unit: The canonical unit, or the noun that is counted; "" where there is none.
    """

    magnitude: str
    value: Fraction | None
    rounds: bool
    unit: str


def read_number(text: str) -> Fraction | None:
    r"""The exact value of a number in digits: plain, with separators, a fraction, mixed or in scientific notation.

    Example:
        >>> [str(read_number(text)) for text in ("1,000.50", "1 1/2", r"2 \times 10^{-1}", r"\frac{3}{4}", "1,5")]
        ['2001/2', '3/2', '1/5', '3/4', 'None']
    """
    if match := _SCIENTIFIC.fullmatch(text):
        closed = bool(match["brace"]) == text.rstrip().endswith("}")
        return Fraction(_read_decimal(match)) if closed and _has_digits(match) else None
    if match := _MIXED.fullmatch(text):
        return _read_mixed(match)
    number = _match_number(text)
    if number is None or (number["denominator"] and int(number["denominator"]) == 0):
        return None
    return Fraction(_read_decimal(number)) / int(number["denominator"] or 1)


def write_number(text: str) -> str:
    """A plain number in canonical digits; any other text as it is."""
    match = _match_number(text)
    if match is None:
        return text
    digits = format(_read_decimal(match), "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    digits = "0" if digits == "-0" else digits.removeprefix("+")
    return digits if match["denominator"] is None else f"{digits}/{match['denominator']}"


def read_words(text: str) -> Fraction | None:
    """The value of a number in words.

    Example:
        >>> [str(read_words(text)) for text in ("twenty-one", "minus two thirds", "a dozen", "two three")]
        ['21', '-2/3', '12', 'None']
    """
    match = _IN_WORDS.fullmatch(text.replace("-", " "))
    number = None if match is None or match["number"] == "a" else match["number"]
    if match is None or not (number or match["part"]):
        return None
    value = Fraction(_sum_words(number) if number else 1) + (Fraction(1, 2) if match["half"] else 0)
    return (-1 if match["sign"] else 1) * value / _PARTS.get(match["part"] or "", 1)


def read_quantities(text: str) -> tuple[Quantity, ...]:
    """One quantity, or as many as a compound such as 5 ft 10 in has; never none."""
    if parts := _read_compound(text):
        return parts
    magnitude, unit = split_unit(text)
    value = read_number(magnitude)
    if value is None and not unit:
        return (_read_counted(text) or Quantity(text, None, False, ""),)
    return (Quantity(magnitude, value, _is_fraction(magnitude), unit),)


def read_date(text: str) -> tuple[str, str, str] | None:
    """Year, month and day of a date with the month in letters, "" for what is not stated."""
    for pattern in _DATES:
        if match := pattern.fullmatch(text):
            parts = match.groupdict()
            return parts.get("year") or "", parts["month"][:3], (parts.get("day") or "").lstrip("0")
    return None


def _read_counted(text: str) -> Quantity | None:
    """A number with a noun, a scale or a unit in words: 3 apples, ten thousand, fifty percent, $2.5 million."""
    currency = CURRENCIES.get(text[:1], "")
    match = _LEADING_DIGITS.fullmatch(text[1:] if currency else text)
    scale = Fraction(_SCALES[match["scale"]]) if match and match["scale"] else Fraction(1)
    match = match or _LEADING_WORDS.fullmatch(text)
    if match is None:
        return None
    number, rest = match["number"].strip(), match["rest"]
    value = read_number(number) if number[-1].isdigit() else read_words(number)
    unit = _read_counted_unit(rest, currency)
    if value is None or unit is None:
        return None
    return Quantity(number, value * scale, _is_fraction(number) or value.denominator == 3, unit)


def _read_counted_unit(rest: str, currency: str) -> str | None:
    """The unit or the noun behind a number, or None if something else follows."""
    unit = rest.strip()
    if match := _PART_OF.fullmatch(f"0 {unit}"):
        whole = match["quantity"][2:]
        if not _NOT_A_NOUN & set(unit.split()) and (known := read_unit(whole)):
            return known
    if known := read_unit(unit):
        return known
    if unit and not rest.startswith((" ", "-")):
        return None
    if currency or _ADDS_NOTHING.fullmatch(unit):
        return (currency or "") if _ADDS_NOTHING.fullmatch(unit) else None
    return _read_noun(unit.lstrip("-"))


def _read_noun(text: str) -> str | None:
    """A counted noun in a form without number: apples, apple."""
    words = text.split()
    if not words or _NOUN.fullmatch(text) is None or _NOT_A_NOUN & set(words) or len(words[0]) < 2:
        return None
    if words[0] == "of":
        return ""
    if len(words[0]) < 3 and len(words) == 1:
        return None
    return re.sub(r"(?<=[a-rt-z])s$", "", re.sub("ies$", "y", re.sub(r"(?<=[sxh])es$", "", text)))


def _read_compound(text: str) -> tuple[Quantity, ...]:
    """The parts of a compound quantity, or nothing where there are fewer than two."""
    text = _FEET.sub(r"\1 ft \2 in", text)
    parts, position = [], 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None or match.end() == position:
            return ()
        value = read_number(match["number"])
        parts.append(Quantity(match["number"], value, "/" in match["number"], read_unit(match["unit"])))
        position = match.end()
    distinct = len({part.unit for part in parts}) == len(parts) > 1
    return tuple(parts) if distinct and all(part.unit for part in parts) else ()


def _is_fraction(text: str) -> bool:
    return "/" in text or "frac" in text


def _has_digits(match: re.Match[str]) -> bool:
    return re.search("[0-9]", match["digits"]) is not None


def _match_number(text: str) -> re.Match[str] | None:
    match = _NUMBER.fullmatch(text)
    return match if match is not None and _has_digits(match) else None


def _read_decimal(match: re.Match[str]) -> Decimal:
    digits = re.sub("[, ]", "", match["digits"])
    exponent = (match["exponent"] or "0").replace(" ", "")
    return Decimal(f"{match['sign']}{'0' if digits.startswith('.') else ''}{digits}e{exponent}")


def _read_mixed(match: re.Match[str]) -> Fraction | None:
    top = match["top"] or match["t"] or match["above"]
    bottom = match["bottom"] or match["b"] or match["below"]
    if int(bottom) == 0:
        return None
    value = int(match["whole"] or 0) + Fraction(int(top), int(bottom))
    return -value if match["sign"] == "-" else value


def _sum_words(text: str) -> int:
    total = group = 0
    for word in re.findall("[a-z]+", text):
        if word in _SCALES and _SCALES[word] >= 1000:
            total, group = total + max(group, 1) * _SCALES[word], 0
        elif word in _SCALES:
            group = max(group, 1) * _SCALES[word]
        else:
            group += _SMALL.get(word, _TENS.get(word, 0))
    return total + group
