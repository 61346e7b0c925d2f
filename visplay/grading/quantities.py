r"""Numbers in digits and in words, and what they count or measure: words by text2num and cn2an, units by pint."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from visplay.grading.rules import DEFAULT_RULES, GradingRules

_DIGITS = (
    r"(?:[1-9][0-9]{0,2}(?:,[0-9]{2,3})*,[0-9]{3}(?![0-9])|(?<![+])[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9])|[0-9]{1,40})"
    r"(?:\.[0-9]{0,40})?|\.[0-9]{1,40}"
    r"|[1-9][0-9]{0,2}(?:[. ][0-9]{3})+,[0-9]{1,2}(?![0-9,])|[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,}(?![0-9.])"
    r"|(?:0,[0-9]+|[0-9]{2,},[0-9]|[0-9]+,(?:[0-9]{2}|[0-9]{4,40}))(?![0-9,])"
)
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?P<whole>[0-9]{{1,40}}) (?=[0-9]+ ?/))?(?P<digits>{_DIGITS})"
    r"(?:e(?P<e>[+-]?[0-9]{1,2})|\s*[×·*x]\s*10\s*\^\s*(?P<brace>\{)?(?P<power>[+-]?\s*[0-9]{1,2})(?(brace)\}))?"
    r"(?:\s*/\s*(?P<bottom>[0-9]{1,40}))?",
    re.IGNORECASE,
)
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{2,3})*,[0-9]{3}(?:\.[0-9]*)?")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*([0-9]{1,40})\s*\}\s*\{\s*([0-9]{1,40})\s*\}|([0-9])([0-9]))$")
_CODES = ("CHF", "AUD", "CAD", "HKD", "KRW", "RUB", "BRL", "MXN", "SEK", "SGD")  # pint's grammar has no sign for them
_SIGNS = ("US$", "A$", "C$", "HK$", "S$", "R$", "JP¥", "CN¥", "$", "€", "£", "¥", "₹", "Rs.", "Rs", "₩", "₽")
_CURRENCIES = (*_SIGNS, *_CODES, "USD", "EUR", "GBP", "JPY", "CNY", "RMB", "INR")
_SPELLINGS = {
    "A$": "AUD", "C$": "CAD", "HK$": "HKD", "S$": "SGD", "R$": "BRL", "JP¥": "yen", "CN¥": "yuan", "₩": "KRW",
    "₽": "RUB", "US$": "dollar", "$": "dollar", "€": "euro", "£": "pound_sterling", "¥": "yen", "₹": "rupee",
    "¢": "cent", "·": "*", "美元": "dollar", "欧元": "euro", "英镑": "pound_sterling", "日元": "yen",
    "人民币": "yuan", "元": "yuan", "公里": "kilometer", "公斤": "kilogram", "千": "kilo", "厘": "centi",
    "毫": "milli", "微": "micro", "米": "meter", "克": "gram", "升": "liter", "瓦": "watt", "秒": "second",
    "分钟": "minute", "小时": "hour", "天": "day", "年": "year", "摄氏度": "degC", "度": "degree", "平方": "square ",
    "立方": "cubic ",
}  # fmt: skip
_SPELLED = re.compile("|".join(re.escape(name) for name in sorted(_SPELLINGS, key=len, reverse=True)))
_UNIT_GRAMMAR = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"^rs\.?$", "rupee"),
        (r"^us[ _]dollars?$", "dollar"),
        (r"\b(sq|cu|hr|min|sec|ft|in)\.", r"\1"),
        (r"^(?:°|deg(?:ree)?s?)[ _]*c(?:elsius)?$", "degC"),
        (r"^(?:°|deg(?:ree)?s?)[ _]*f(?:ahrenheit)?$", "degF"),
        (r"(?<=[a-z])([23])$", r"^\1"),
        (r"^mph$", "mile/hour"),
        (r"^k(?:mp?|p)h$", "km/h"),
        (r"^amps?$", "ampere"),
        (r"^microns?$", "micrometer"),
        (r"^(?-i:Nm)$", "N*m"),
        (r"^c$", "degC"),
        (r"^f$", "degF"),
        (r"^kb$", "kB"),
        (r"^pct\.?$", "percent"),
    )
)
_CURRENCY = re.compile(
    rf"(?P<sign>[+-]?)(?P<symbol>{'|'.join(map(re.escape, _CURRENCIES))})\s*(?P<rest>[+-]?[0-9.].*)", re.IGNORECASE
)
_UNIT = r"[A-Za-zμΩ°%‰¢$€£¥₹一-鿿][A-Za-zμΩ°%‰¢$€£¥₹ .*·/()^{}23一-鿿-]*"
_QUANTITY = re.compile(rf"(?P<number>.*?[0-9.}}])(?P<space>\s*)(?P<unit>{_UNIT})?")
POUNDS = "pounds"  # of mass or of sterling
_PAIR = re.compile("^([0-9]),([0-9])$")  # before a unit it is a decimal
_NO_QUANTITY = re.compile("(?:[0-9]{2})?[0-9]0'?s|[0-9]+(?:st|nd|rd|th)")  # the 80s are no seconds
_LETTERS = frozenset("mgshlLtAVWNJKCFΩBb")  # the units of one letter; a, c, e, k, x and the others are variables
_ANGLE = re.compile(r"([0-9]+)\s*°\s*([0-9]{1,2})\s*'(?:\s*([0-9]{1,2})\s*(?:\"|''))?")
_FEET = re.compile(r"([0-9]+)\s*'\s*([0-9.]+)\s*(?:\"|''|inches|in)$")
_INCHES = re.compile(r"^([0-9.]+)\s*(?:\"|'')$")
_ONLY_FEET = re.compile(r"^([0-9.]+)\s*'$")
_SCALES = {"k": 10**3, "m": 10**6, "b": 10**9, "bn": 10**9, "hundred": 100, "thousand": 10**3, "million": 10**6}
_SCALES |= {"百": 100, "千": 10**3, "万": 10**4, "亿": 10**8, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALED = re.compile(
    r"(?<![A-Za-z0-9])(?P<number>[0-9][0-9.,]*)"
    r"(?P<scale>[KMB]|bn|k|(?: (?:hundred|thousand|million|billion|trillion|dozen)))(?![A-Za-z0-9/^])"
)
_ORDINAL = r"(?:half|halves|quarters?|2nds?|3rds?|[0-9]+ths?)"
_PART = re.compile(rf"(?<![A-Za-z0-9.])(?:(?P<top>[0-9]+)[ -]|a (?=\S+$|\S+ of ))(?P<part>{_ORDINAL})(?![A-Za-z0-9])")
_BEFORE_PART = re.compile(r"-(?=(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s?\b)", re.IGNORECASE)
_COUNT = re.compile(rf"(?P<number>[+-]?(?:[0-9]+ )?(?:{_DIGITS})(?:/[0-9]+)?(?:e[+-]?[0-9]+)?)(?P<rest>[ -]?[^0-9]*)")
_COMPOUND = re.compile(rf"\s*(?P<number>[0-9][0-9.]*(?:/[0-9]+)?)\s*(?P<unit>{_UNIT}?)(?:,? and |, ?| )?(?=[0-9]|$)")
_NOUN = re.compile(r"(?:of (?:the |these |those |them|all )?)?[a-z][a-z'-]+(?: [a-z][a-z'-]*){0,3}|[一-鿿]{1,4}")
_OTHER_WORDS = (
    "or and not nor than more less fewer least most to through plus minus over under above below between per but "
    "except before after ago past versus vs point squared cubed factorial choose modulo mod divided multiplied if when "
    "unless maybe perhaps probably sqrt sin cos tan log exp ln out with without ad bc bce ce half"
)
_NOT_A_NOUN = frozenset(_OTHER_WORDS.split())
_ADDS_NOTHING = re.compile(
    r"(?:in (?:total|all)|total|altogether|items?|of (?:it|them)|times|o'clock|(?:square |cubic )?units?)?"
)
_CHINESE_NUMBER = re.compile(
    "(?P<percent>百分之)?(?<![0-9])(?P<number>[零一二两三四五六七八九十](?:[零一二三四五六七八九十百万亿]|千(?![克米瓦卡]))*"
    "(?:点[零一二三四五六七八九]+)?)(?![样起些般直定])"
)
_CHINESE_SCALE = re.compile("(?P<number>[0-9][0-9.]*)(?P<scale>[百千万亿])(?![克米瓦卡])")
_ROUGHLY = re.compile(r"(?<![0-9] )\b(?:ten|dozen|hundred|thousand|million|billion)s\b", re.IGNORECASE)
_NONE_OF = re.compile(r"no (?P<noun>[a-z]+(?<![us])s)")


@dataclass(frozen=True)
class Quantity:
    """A magnitude and what it counts or measures.

    Args:
        magnitude: As written.
        value: Its exact value; None where it is no plain number.
        rounds: Whether it is written as a fraction, which equals a decimal to six places.
        unit: The canonical unit, or the noun that is counted; "" where there is none.
        stated: Whether the unit may be a variable, as in 3m: then it is part of the answer and not elaboration.
    """

    magnitude: str
    value: Fraction | None = None
    rounds: bool = False
    unit: str = ""
    stated: bool = False


def read_number(text: str, rules: GradingRules = DEFAULT_RULES) -> Fraction | None:
    r"""The exact value of a number in digits: plain, with separators, a fraction, mixed or in scientific notation.

    A comma separates thousands where three digits follow it, else decimals, but in two digits (1,2) it makes a pair.

    Example:
        >>> [str(read_number(text)) for text in ("1,000.50", "1 1/2", r"2×10^{-1}", r"\frac{3}{4}", "3,14", "1,2")]
        ['2001/2', '3/2', '1/5', '3/4', '157/50', 'None']
    """
    match = _match_number(text, rules)
    if match is None or (match["bottom"] and int(match["bottom"]) == 0):
        return None
    value = Fraction(_read_decimal(match)) / int(match["bottom"] or 1) + int(match["whole"] or 0)
    return -value if match["sign"] == "-" else value


def write_quantity(text: str, rules: GradingRules = DEFAULT_RULES) -> str:
    """A number, or a number and its unit, in canonical form; "" for any other text.

    Example:
        >>> [write_quantity(text) for text in ("$1.20M", "12 Centimetres", "5 MW", "35°12'", "3 apples")]
        ['1200000 $', '12 cm', '5 MW', '35.2 °', '']
    """
    text = _spell_marks(text)
    if number := _match_number(text, rules):
        return _write_number(number)
    match = None if _NO_QUANTITY.fullmatch(text) else _QUANTITY.fullmatch(text)
    number = match and _match_number(_PAIR.sub(r"\1.\2", match["number"]), rules)
    if match is None or number is None:
        return ""
    unit = read_unit(match["unit"] or "")
    glued = not match["space"] and len(match["unit"] or "") == 1 and unit.isalpha()
    return f"{_write_number(number)}{'' if glued else ' '}{unit}" if unit else ""


def spell_numbers(text: str, rules: GradingRules = DEFAULT_RULES) -> str:
    """Digits for numbers in words, English and Chinese; any other text as it is.

    Example:
        >>> [spell_numbers(text) for text in ("Two thirds", "minus a hundred", "first", "a dozen eggs", "三个")]
        ['2/3', '-100', '1st', '12 eggs', '3个']
    """
    if "\\" in text or len(text) == 1 and text.isascii():
        return text
    if "zh" in rules.languages:
        text = _CHINESE_SCALE.sub(_multiply, _CHINESE_NUMBER.sub(_read_chinese, text))
    if _ROUGHLY.search(text) or not re.search(r"[^\W0-9_]{2}", text):
        return text
    text = re.sub(r"\bno one\b", "nobody", _BEFORE_PART.sub(" ", text), flags=re.IGNORECASE)
    for language in rules.languages:
        if language not in ("en", "zh"):
            text = _words().alpha2digit(text, language, threshold=0)
    if "en" not in rules.languages or not text.isascii():
        return text
    text = re.sub(r"(?<![0-9] )(?<!per )(?<!ty[ -])\bsecond\b(?! squared)", "2nd", text, flags=re.IGNORECASE)
    text = re.sub(r"\ba (?=hundred|thousand|million|billion|dozen)", "1 ", text, flags=re.IGNORECASE)
    text = _words().alpha2digit(_SCALED.sub(_multiply, text), "en", threshold=0)
    text = _SCALED.sub(_multiply, text)
    text = re.sub(r"^half(?=$| of )", "1/2", re.sub(r"([0-9]+) and (?:a|1) half\b", r"\1.5", text), flags=re.IGNORECASE)
    text = re.sub(r"([0-9]+) and (?=[0-9]+/[0-9]+$)", r"\1 ", text)
    return re.sub(r"^(?:minus|negative) (?=[0-9])", "-", _PART.sub(_divide, text), flags=re.IGNORECASE)


@lru_cache(maxsize=4096)
def read_unit(text: str) -> str:
    """The canonical form of a unit, or "" if the text is none.

    Example:
        >>> [read_unit(text) for text in ("square centimetres", "miles per hour", "Mg", "平方米", "apples")]
        ['cm^2', 'mi/h', 'Mg', 'm^2', '']
    """
    text = text.strip()
    if (len(text) == 1 and text.isascii() and text.isalpha() and text not in _LETTERS) or _ADDS_NOTHING.fullmatch(text):
        return ""
    if text.lower() in ("pound", "pounds"):
        return POUNDS
    for spelling in (text, text.lower(), text.capitalize()):
        for name in (spelling, spelling.replace(" ", "_")):
            try:
                unit = _units().parse_units(name)
            except Exception:  # whatever pint and Python's tokenizer raise for what is no unit
                continue
            return re.sub("^deg$", "°", f"{unit:~C}".replace("**", "^").replace("µ", "μ"))
    return ""


def read_quantities(text: str, rules: GradingRules = DEFAULT_RULES) -> tuple[Quantity, ...]:
    """One quantity, or as many as a compound such as 5 ft 10 in has; never none.

    Args:
        text: A canonical form.
        rules: What counts as the same.
    """
    if parts := _read_compound(text, rules):
        return parts
    if match := _NONE_OF.fullmatch(text):
        return (Quantity("0", Fraction(0), unit=_read_noun(match["noun"], rules) or ""),)
    match = None if _NO_QUANTITY.fullmatch(text) else _QUANTITY.fullmatch(text)
    if match and match["unit"] and (unit := read_unit(match["unit"])):
        number, stated = match["number"].strip(), not match["space"] and unit.isalpha()
        value = read_number(number, rules)
        if value is not None or not re.search("[A-Za-z]", re.sub(r"\\(?:[dt]?frac|sqrt)", "", number)):
            return (Quantity(number, value, _is_fraction(number), unit, stated and len(match["unit"]) == 1),)
    if (value := read_number(text, rules)) is not None:
        return (Quantity(text, value, _is_fraction(text)),)
    return (_read_counted(text, rules) or Quantity(text),)


def convert(quantity: Quantity, unit: str) -> Quantity:
    """A quantity in another unit, "" for a fraction of one; as it is where there is no way."""
    if quantity.value is None or not quantity.unit or quantity.unit == unit:
        return quantity
    try:
        source, target = _units().parse_units(quantity.unit), _units().parse_units(unit)
        factor = _units().convert(Fraction(1), source, target)
        if _units().convert(Fraction(0), source, target) != 0:
            return quantity
    except Exception:  # as for what is no unit
        return quantity
    return replace(quantity, value=quantity.value * Fraction(factor).limit_denominator(10**9), unit=unit)


def _read_counted(text: str, rules: GradingRules) -> Quantity | None:
    """A number with a noun: 3 apples, 3个, 2/3 of the cake, 20 % of the people."""
    match = _COUNT.fullmatch(text)
    value = match and read_number(match["number"], rules)
    if match is None or value is None:
        return None
    rest = match["rest"]
    whole = re.fullmatch(r"\s*(?P<unit>.*?) of (?:the |all |these |those )?[a-z' -]+", rest)
    words = rest.lstrip(" -")
    if whole and not _NOT_A_NOUN & set(words.split()) and (known := read_unit(whole["unit"])):
        unit: str | None = known
    elif words.isascii() and words and not rest.startswith((" ", "-")):
        return None  # 3x, 20s
    else:
        unit = "" if _ADDS_NOTHING.fullmatch(words) else _read_noun(words, rules)
    return None if unit is None else Quantity(match["number"], value, _is_fraction(match["number"]), unit)


def _read_noun(text: str, rules: GradingRules) -> str | None:
    """A counted noun in a form without number: apples, apple."""
    words = text.split()
    if (
        not words
        or _NOUN.fullmatch(text) is None
        or _NOT_A_NOUN & set(words)
        or re.search("[0-9]", spell_numbers(text, rules))
    ):
        return None
    if words[0] == "of":
        return ""
    if not text.isascii():
        return "" if len(text) == 1 else text  # a measure word of one character says nothing of its own
    if len(words[0]) < 2 or (len(words[0]) < 3 and len(words) == 1):
        return None
    return re.sub(r"(?<=[a-rt-z])s$", "", re.sub("ies$", "y", re.sub(r"(?<=[sxh])es$", "", text)))


def _read_compound(text: str, rules: GradingRules) -> tuple[Quantity, ...]:
    """The parts of a compound quantity, or nothing where there are fewer than two."""
    text, parts, position = _spell_marks(text), [], 0
    while position < len(text):
        match = _COMPOUND.match(text, position)
        if match is None or not (unit := read_unit(match["unit"].rstrip(" ,"))):
            return ()
        parts.append(Quantity(match["number"], read_number(match["number"], rules), "/" in match["number"], unit))
        position = match.end()
    return tuple(parts) if len({part.unit for part in parts}) == len(parts) > 1 else ()


def _spell_marks(text: str) -> str:
    """What marks, signs of currencies and letters of scale stand for, in a form with the unit behind the number."""
    if match := _ANGLE.fullmatch(text):
        degrees, minutes, seconds = (int(part or 0) for part in match.groups())
        return f"{float(degrees + Fraction(minutes, 60) + Fraction(seconds, 3600)):.6g} °"
    text = _FEET.sub(r"\1 ft \2 in", text)
    text = _ONLY_FEET.sub(r"\1 ft", _INCHES.sub(r"\1 in", text))
    if match := _CURRENCY.fullmatch(text):
        text = f"{match['sign']}{_SCALED.sub(_multiply, match['rest'])} {match['symbol']}"
    return _SCALED.sub(_multiply, text)


def _multiply(match: re.Match[str]) -> str:
    value = read_number(match["number"])
    if value is None:
        return match[0]
    return _write_fraction(value * _SCALES[match["scale"].strip().lower()])


def _divide(match: re.Match[str]) -> str:
    part = match["part"].lower()
    bottom = {"h": "2", "q": "4"}.get(part[0]) or re.match("[0-9]+", part)[0]  # type: ignore[index]
    return f"{match['top'] or 1}/{bottom}"


def _write_fraction(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{Decimal(value.numerator) / value.denominator:f}"


def _is_fraction(text: str) -> bool:
    return "/" in text or "frac" in text


def _match_number(text: str, rules: GradingRules) -> re.Match[str] | None:
    match = _NUMBER.fullmatch(
        _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", text).strip().replace("- ", "-")
    )
    if match and not rules.decimal_comma and "," in match["digits"] and not _THOUSANDS.fullmatch(match["digits"]):
        return None
    return match


def _read_decimal(match: re.Match[str]) -> Decimal:
    digits = match["digits"]
    digits = digits.replace(".", "") if re.search("[.].*[.,]", digits) else digits
    digits = digits.replace(",", "" if _THOUSANDS.fullmatch(digits) else ".").replace(" ", "")
    return Decimal(f"{digits}e{(match['e'] or match['power'] or '0').replace(' ', '')}")


def _write_number(match: re.Match[str]) -> str:
    sign = "-" if match["sign"] == "-" else ""
    digits = format(_read_decimal(match), "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    if match["bottom"] is None:
        return "0" if digits == "0" else sign + digits
    return f"{sign}{match['whole'] + ' ' if match['whole'] else ''}{digits}/{match['bottom']}"


@cache
def _units() -> Any:
    import pint

    units: Any = pint.UnitRegistry(preprocessors=[_spell_unit])
    for definition in (
        "dollar = [USD] = $ = USD", "euro = [EUR] = € = EUR", "pound_sterling = [GBP] = £ = GBP",
        "yen = [JPY] = ¥ = JPY", "yuan = [CNY] = CNY = RMB", "rupee = [INR] = ₹ = INR",
        *(f"{code} = [{code}]" for code in _CODES), "cent = 0.01 dollar = ¢", "@alias percent = per_cent",
    ):  # fmt: skip
        units.define(definition)
    return units


def _spell_unit(text: str) -> str:
    """A unit as pint's grammar has it."""
    text = _SPELLED.sub(lambda match: _SPELLINGS[match[0]], text.replace("{", "").replace("}", ""))
    for pattern, replacement in _UNIT_GRAMMAR:
        text = pattern.sub(replacement, text)
    return text


@cache
def _words() -> Any:
    import text_to_num

    return text_to_num


def _read_chinese(match: re.Match[str]) -> str:
    import cn2an

    try:
        return f"{cn2an.cn2an(match['number'], 'smart'):g}{'%' if match['percent'] else ''}"
    except ValueError:
        return match[0]
