"""Units of measurement: one canonical spelling for each, compounds such as cm^2 and m/s included."""

from __future__ import annotations

import re
from functools import lru_cache

_PLAIN = {
    "%": ("percent", "per cent", "pct"),
    "percentage point": ("percentage points", "pp"),
    "‰": ("per mille", "permille", "per mil"),
    "degree": ("degrees", "deg"),
    "celsius": ("degree c", "degrees c", "degree celsius", "degrees celsius", "℃"),
    "fahrenheit": ("degree f", "degrees f", "degree fahrenheit", "degrees fahrenheit", "℉"),
    "kelvin": ("kelvins",),
    "rad": ("radian", "radians"),
    "in": ("inch", "inches"),
    "ft": ("foot", "feet"),
    "yd": ("yds", "yard", "yards"),
    "mi": ("mile", "miles"),
    "lb": ("lbs", "pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "t": ("ton", "tons", "tonne", "tonnes"),
    "gal": ("gallon", "gallons"),
    "acre": ("acres",),
    "ha": ("hectare", "hectares"),
    "l": ("liter", "liters", "litre", "litres"),
    "s": ("sec", "secs", "second", "seconds"),
    "min": ("mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "day": ("days",),
    "week": ("weeks", "wk", "wks"),
    "month": ("months",),
    "year": ("years", "yr", "yrs"),
    "km/h": ("kmh", "kph", "kmph"),
    "mi/h": ("mph",),
    "cm^3": ("cc",),
    "kwh": ("kilowatt hour", "kilowatt hours", "kilowatt-hour", "kilowatt-hours"),
    "kcal": ("kilocalorie", "kilocalories"),
    "cal": ("calorie", "calories"),
    "ohm": ("ohms", "ω"),
    "volt": ("volts",),
    "ampere": ("amperes", "amp", "amps"),
    "watt": ("watts",),
    "newton": ("newtons",),
    "joule": ("joules",),
    "db": ("decibel", "decibels"),
    "mol": ("mole", "moles"),
    "byte": ("bytes",),
    "bit": ("bits",),
    "usd": ("dollar", "dollars", "us dollar", "us dollars"),
    "eur": ("euro", "euros"),
    "gbp": ("pounds sterling",),
    "cent": ("cents",),
    "pixel": ("pixels", "px"),
}
_PREFIXES = {
    "milli": "m", "centi": "c", "kilo": "k", "micro": "μ", "nano": "n", "deci": "d", "hecto": "h",
}  # fmt: skip
_PREFIXED = {
    "m": (("meter", "metre"), ("milli", "centi", "kilo", "micro", "nano", "deci")),
    "g": (("gram", "gramme"), ("milli", "kilo", "micro")),
    "l": (("liter", "litre"), ("milli", "centi", "deci")),
    "s": (("second",), ("milli", "micro", "nano")),
    "w": (("watt",), ("milli", "kilo")),
    "j": (("joule",), ("milli", "kilo")),
    "v": (("volt",), ("milli", "kilo")),
    "n": (("newton",), ("milli", "kilo")),
    "hz": (("hertz",), ("kilo",)),
    "pa": (("pascal",), ("hecto", "kilo")),
}
_MEGA = {"W": "watt", "J": "joule", "V": "volt", "N": "newton", "Pa": "pascal", "g": "gram", "Hz": "hertz", "B": "byte"}
_LARGE = {
    "megahertz": ("mhz",), "gigahertz": ("ghz",), "kilobyte": ("kb",), "megabyte": ("mb",), "gigabyte": ("gb",),
    "terabyte": ("tb",), "megabit": (), "gigabit": (), "hz": ("hertz",), "pa": ("pascal", "pascals"),
    "m": ("meter", "meters", "metre", "metres"), "g": ("gram", "grams", "gramme", "grammes"),
    "gigawatt": ("gw",),
}  # fmt: skip
_SPELLED_WITH_CASE = {
    **{f"M{symbol}": f"mega{name}" for symbol, name in _MEGA.items()},
    **{"Mb": "megabit", "Gb": "gigabit", "V": "volt", "W": "watt", "N": "newton", "J": "joule"},
    **{"A": "ampere", "K": "kelvin", "Ω": "ohm"},
}
_CASED = re.compile(rf"(?<=[0-9])(?P<space>\s*)(?P<unit>{'|'.join(_SPELLED_WITH_CASE)})$")
CURRENCIES = {"$": "usd", "€": "eur", "£": "gbp", "¥": "yen", "₹": "rupee"}


def _spell_units() -> dict[str, str]:
    """Every spelling of a unit without exponents, and its canonical form."""
    names = {name: unit for unit, names in (_PLAIN | _LARGE).items() for name in (unit, *names)}
    for symbol, (words, prefixes) in _PREFIXED.items():
        for prefix in prefixes:
            canonical = _PREFIXES[prefix] + symbol
            spellings = [canonical, *(prefix + word + plural for word in words for plural in ("", "s"))]
            names |= dict.fromkeys(spellings, canonical)
    mega = [f"mega{name}" for name in _MEGA.values()]
    for name in (*mega, "gigabyte", "gigahertz", "gigawatt", "gigabit", "kilobyte", "terabyte", "rupee"):
        names |= {name: name, f"{name}s": name}
    return names | {"µm": "μm", "µs": "μs", "µg": "μg", "micron": "μm", "microns": "μm", "yen": "yen", "yuan": "yuan"}


_NAMES = _spell_units()
_BASE = "|".join(re.escape(name) for name in sorted(_NAMES, key=len, reverse=True))
_FACTOR = rf"(?:(?:square|sq\.?|cubic|cu\.?) )?(?:{_BASE})(?: ?\^ ?\{{?[23]\}}?|[23](?![0-9])| squared| cubed)?"
UNIT = rf"{_FACTOR}(?:(?: ?/ ?| per ){_FACTOR})*"
_ONE_FACTOR = re.compile(
    rf"(?:(?P<before>square|sq\.?|cubic|cu\.?) )?(?P<base>{_BASE})"
    r"(?P<after> ?\^ ?\{?[23]\}?|[23]| squared| cubed)?"
)
_WHOLE = re.compile(UNIT)
_QUANTITY = re.compile(rf"(?P<magnitude>.*[0-9.}})!])\s*(?P<unit>{UNIT})")
_CURRENCY = re.compile(rf"(?P<sign>[+-]?)(?:us)?(?P<unit>[{''.join(CURRENCIES)}])\s*(?P<magnitude>[0-9.,]*[0-9])")
_COMMAND = re.compile(r"\\[A-Za-z]+")


def spell_cased_unit(text: str) -> str:
    """Spell out a unit at the end that lower case would turn into another: 5 MW is not 5 mW.

    Example:
        >>> spell_cased_unit("250 Mg"), spell_cased_unit("300 K"), spell_cased_unit("3N")
        ('250 megagram', '300 kelvin', '3N')
    """
    match = _CASED.search(text)
    if match is None or (len(match["unit"]) == 1 and not match["space"]):
        return text
    return f"{text[: match.start()]} {_SPELLED_WITH_CASE[match['unit']]}"


@lru_cache(maxsize=1024)
def read_unit(text: str) -> str:
    """The canonical form of a unit, or "" if the text is none.

    Example:
        >>> [read_unit(text) for text in ("square centimetres", "miles per hour", "apples")]
        ['cm^2', 'mi/h', '']
    """
    if _WHOLE.fullmatch(text) is None:
        return ""
    if text in _NAMES:
        return _NAMES[text]
    return "/".join(_write_factor(factor) for factor in re.split(r" ?/ ?| per (?!cent|mil)", text))


def split_unit(text: str) -> tuple[str, str]:
    """The magnitude and the canonical unit of a quantity in digits, or the text and "" where there is no unit."""
    if match := _CURRENCY.fullmatch(text):
        return match["sign"] + match["magnitude"], CURRENCIES[match["unit"]]
    match = _QUANTITY.fullmatch(text)
    if match is None or re.search("[A-Za-z]", _COMMAND.sub("", match["magnitude"])):
        return text, ""
    unit = read_unit(match["unit"])
    return (match["magnitude"].strip(), unit) if unit else (text, "")


def _write_factor(text: str) -> str:
    match = _ONE_FACTOR.fullmatch(text)
    if match is None:
        return text
    power = re.search("[23]", match["after"] or "")
    word = (match["before"] or match["after"] or "").strip()[:2]
    exponent = power[0] if power else {"sq": "2", "cu": "3"}.get(word, "")
    base = _NAMES[match["base"]]
    return f"{base}^{exponent}" if exponent else base
