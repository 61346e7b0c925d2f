r"""The canonical form of an answer: one spelling for what Unicode, LaTeX and typography write in many ways."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from visplay.grading.mathematics import SYMBOLS
from visplay.grading.moments import read_moment
from visplay.grading.quantities import spell_numbers, write_quantity
from visplay.grading.rules import DEFAULT_RULES, GradingRules

MAX_CHARACTERS = 1000  # a longer answer is compared as it is
_CACHED_TEXTS = 65536
_LOOK_ALIKES = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒―﹣", "-"),
        **dict.fromkeys("“”„〝〞", '"'),
        **dict.fromkeys("’‘‛′", "'"),
        **dict.fromkeys("º˚", "°"),
        **{
            "。": ".",
            "、": ", ",
            "″": "''",
            "∶": ":",
            "⁄": "/",
            "ℝ": r"\mathbb{R}",
            "△": "∆",
            "⋅": "·",
            "∙": "·",
            "µ": "μ",
        },
    }
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_ROOT = re.compile("(?P<sign>[√∛∜]) ?(?P<of>[0-9.]+|[A-Za-z])?")
_AFTER_BASE = re.compile(r"[\w)\]}]")
_OPERATORS = "".join(symbol for symbol in SYMBOLS if not symbol.isalpha())
_COMMANDS = {command: symbol for symbol, command in SYMBOLS.items()}
_COMMANDS |= {"leq": "≤", "geq": "≥", "neq": "≠", "varnothing": "∅", "degree": "°", "colon": ":", "lt": "<", "gt": ">"}
_COMMAND = re.compile(rf"\\(?:text)?({'|'.join(sorted(_COMMANDS, key=len, reverse=True))})(?![A-Za-z])\s*")
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname|overline(?=\{[A-Z]{2}\}))\s*\{([^{}]*)\}",
            r"\1",
        ),
        (r"\\(?:displaystyle|left(?![a-z])|right(?![a-z]))\s*", ""),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b|(?<=[0-9])\^\{?o\}?(?![A-Za-z])", "°"),
        (r"\^?\{?\\prime(?![A-Za-z])\}?", "'"),
        (r"(?<=[0-9])\s*:\s*(?=[0-9])", ":"),
        (r"(?<=[0-9])\s*~\s*(?=[0-9])", "-"),
        (r"(?<=[0-9])\s*;\s*(?=[0-9])", ", "),
        (r"(?<=[0-9]0)'(?=s$)", ""),
        (r"^(\S+) \(\1\)$", r"\1"),
        (r"</?(?:b|i|u|em|strong|span|p)>", ""),
        (r"->", "→"),
        (r"^m(?=∠)", ""),
        (r"^[Bb]etween ([0-9.]+) and ([0-9.]+)$", r"\1-\2"),
        (r"\[\s*\\begin\{array\}\{[clr| ]*\}(.*?)\\end\{array\}\s*\]", r"\\begin{bmatrix}\1\\end{bmatrix}"),
        (r"\(\s*\\begin\{array\}\{[clr| ]*\}(.*?)\\end\{array\}\s*\)", r"\\begin{pmatrix}\1\\end{pmatrix}"),
        (r"^<answer>(.*)</answer>$|^#### (?=\S)", r"\1"),
        (r"\\([%$&#])", r"\1"),
        (r"(?<!\\)\\[,;:! ]|\\quad\b|~", " "),
        (r"(?<=[0-9])\{,\}(?=[0-9])", ","),
        (r"\{\{([^{}]*)\}\}", r"{\1}"),
        (r"(?<=[\w)\]}])\s*\*\*\s*(?=[\w({-])", "^"),
        (r"(?<![A-Za-z\\])(?:pi|Pi)(?![A-Za-z])", "π"),
        (r"^(?:[+]|[Pp]ositive )?[Ii]nfinity$", "∞"),
        (r"^(?:-|[Nn]egative |[Mm]inus )[Ii]nfinity$", "-∞"),
        (r"^(?:\\mathbb\s*\{?R\}?|[Aa]ll real(?: number)?s)$", "(-∞,∞)"),
        (r"^(?:[Nn]o\.|[Nn]umber|#) ?(?=[0-9]+$)", ""),
        (r"(?<=\w)[ \t]*\n\s*(?=[A-Z])", ". "),
        (r"^([^<>=≤≥≠]+)>([^<>=≤≥≠]+)>([^<>=≤≥≠]+)$", r"\3<\2<\1"),
        (r"\s+", " "),
        (r"(?<=\S)\s*(?<!\.)\.$", ""),
        (r"(?<=\w\w)!+$", ""),
        (r"^(?:答案|选项?|回答)\s*(?:是|为|:)?\s*(?=\S)|^(?:大约|约)\s*(?=[0-9一-鿿])|(?<=[A-Za-z])选项$", ""),
        (rf"\s*([{_OPERATORS}])\s*", r"\1"),
        (r"^([0-9.]+) to ([0-9.]+)$", r"\1-\2"),
        (r"^(是|对|有)的$", r"\1"),
        (r"^\(([^()\[\],]+)\)$", r"\1"),
    )
)
_WRAPPERS = tuple(pair.split() for pair in (r"$$ $$", "$ $", r"\( \)", r"\[ \]", "** **", '" "', "' '", "` `", "{ }"))
_ALGEBRA = re.compile(r"(?=.*[\^*/+=_])(?!.*[A-Za-z]{3})[A-Za-z0-9\s{}()\[\]+\-*/^_=.,']*")
_FUNCTIONS = re.compile("sqrt|sin|cos|tan|log")
_OPTION = re.compile(r"(?:(?:option|choice|answer)\s+)?[(\[]?(?P<letter>[a-z])[)\].:]?")
_LETTERS = re.compile(r"(?:both )?(?:[a-j]|[ivx]+)(?:(?:, ?(?:and )?| and | & )(?:[a-j]|[ivx]+))+")
_SEGMENT = re.compile("[a-h]{2}")
_TITLES = re.compile(r"\b(mr|mrs|ms|dr|st|jr|sr|vs|prof)\.(?= |$)")
_ABBREVIATION = re.compile(r"\b(?:(?:[a-z]\.){2,}|(?:[a-z]\.)+[a-z])(?![a-z])")
_PREPOSITIONS = "and|or|of|in|on|at|to|by|with|from|near|behind|for|is"
_BRITISH = {
    "tyre": "tire", "aeroplane": "airplane", "aluminium": "aluminum", "jewellery": "jewelry", "doughnut": "donut",
    "yoghurt": "yogurt", "moustache": "mustache", "pyjamas": "pajamas", "cheque": "check",
}  # fmt: skip
_FOLDS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=[a-z])-(?=[a-z]{3})|(?<=[a-z]{3})-(?=[a-z])", " "),
        (r"^(?:on|in|at|to) the (?=(?:left|right|middle|center|top|bottom|back|front|(?:back|fore)ground)$)", ""),
        (r"\s*&\s*", " and "),
        (r"^both (?=.+ and )", ""),
        (r"(?<=[a-z])'(?=s\b)", ""),
        (r"^([a-z]{1,3}) (?=[0-9]+$)", r"\1"),
        (r"(?<=[一-鿿]{2})的$", ""),
        (r"\s*,\s*", ", "),
        (r"(?<=[A-Za-z])_\{?([0-9]+|[a-z])\}?", r"\1"),
        (r"(?<=[a-z]{4})-(?=[0-9])", " "),
        (r"(?<=[0-9]) ?[×x] ?(?=[0-9])", "x"),
        (r"^(mon|tue|wed|thu|fri)(?:s|nes|rs?)?(?:day)?\.?$", r"\1"),
        (r"\b(?:the|an) (?=[a-z0-9\"'])", ""),
        (rf"(^|\b(?:{_PREPOSITIONS}) |, )a (?!(?:and|or|is|of)\b)(?=[a-z]{{2}})", r"\1"),
        (r"\bgrey", "gray"),
        (r"\b(col|fav|harb|neighb|flav|hon|lab|arm|hum|vap)our", r"\1or"),
        (r"\b(catalog|dialog|analog)ue", r"\1"),
        (r"\b(cent|theat|lit|met|fib)re(s?)\b", r"\1er\2"),
        (rf"\b(?:{'|'.join(_BRITISH)})", lambda match: _BRITISH[match[0]]),
    )
)
_WITHOUT_ACCENT = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ı": "i", "ß": "ss", "æ": "ae", "œ": "oe"})
_LATEX_SPACE = re.compile(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])")


@lru_cache(maxsize=_CACHED_TEXTS)
def normalise_answer(text: str, rules: GradingRules = DEFAULT_RULES) -> str:
    r"""Bring an answer to its canonical form, the same for the same number, quantity, option letter or text.

    Drops what does not mean anything: white space, a final full stop, quotes, dollar signs around mathematics,
    ``\text{}``, brackets around an option letter, separators of thousands and trailing zeros. Symbols are Unicode's,
    numbers are digits, units are pint's. Lower-cases text, except where case means something: next to LaTeX commands
    and symbols, in a formula with a letter in both cases, in a unit.

    Args:
        text: An answer.
        rules: What counts as the same.

    Returns:
        The canonical form; normalising it again changes nothing.

    Example:
        >>> [normalise_answer(text) for text in ("1,000.0", "(B)", r"$\text{ Yes.}$", "fifty percent", "10⁻³")]
        ['1000', 'b', 'yes', '50 %', '10^{-3}']
    """
    text = text.strip()
    for _ in range(8):
        if len(text) > MAX_CHARACTERS:
            break
        before, text = text, _normalise_once(text, rules)
        if text == before:
            break
    return text


@lru_cache(maxsize=_CACHED_TEXTS)
def fold_text(form: str) -> str:
    r"""A key that is the same for texts that differ only in spelling: accents, articles, hyphens, British, spaces.

    Example:
        >>> [fold_text(text) for text in ("a café", "the u.s.a.", "grey & white t-shirt", r"\{1, 2\}", "c and a")]
        ['cafe', 'usa', 'gray and white t shirt', '\\{1,2\\}', 'a, c']
    """
    if "\\" in form:
        return _LATEX_SPACE.sub("", form)
    if _LETTERS.fullmatch(form):
        return ", ".join(sorted(set(re.findall(r"\b(?:[a-j]|[ivx]+)\b", form))))
    if _SEGMENT.fullmatch(form):
        return "".join(sorted(form))
    form = _TITLES.sub(r"\1", _ABBREVIATION.sub(lambda match: match[0].replace(".", ""), form))
    if not form.isascii():
        form = unicodedata.normalize("NFKD", form)
        form = "".join(c for c in form if not unicodedata.combining(c)).translate(_WITHOUT_ACCENT)
    for pattern, replacement in _FOLDS:
        form = pattern.sub(replacement, form)
    if re.search(" and |[^和]{2}和[^和]{2}", form) and not re.search("[0-9]", form):  # a list in words has no order
        form = " and ".join(sorted(re.split(",? and |, |和", form)))
    return form.strip()


def _normalise_once(text: str, rules: GradingRules) -> str:
    cleaned = _clean(text)
    if option := _OPTION.fullmatch(cleaned.lower()):
        return option["letter"]
    if read_moment(cleaned):
        return cleaned.lower()
    return write_quantity(cleaned, rules) or _lower(spell_numbers(cleaned, rules))


def _clean(text: str) -> str:
    """Rewrite symbols and LaTeX, and unwrap, until nothing changes."""
    while True:
        cleaned = _COMMAND.sub(lambda match: _COMMANDS[match[1]], _write_symbols(text))
        for pattern, replacement in _REWRITES:
            cleaned = pattern.sub(replacement, cleaned)
        cleaned = _unwrap(cleaned.strip())
        if cleaned in ("", text):
            return text
        text = cleaned


def _write_symbols(text: str) -> str:
    """NFKC, where fractions stay apart from the whole before them and exponents from their base."""
    if text.isascii():
        return text
    text = _SUPERSCRIPT.sub(_write_superscript, text.translate(_LOOK_ALIKES))
    text = re.sub("(?<=[0-9])(?=[¼-¾⅐-⅞])", " ", _ROOT.sub(_write_root, text).replace("√", r"\sqrt"))
    return unicodedata.normalize("NFKC", text).translate(_LOOK_ALIKES)


def _write_root(match: re.Match[str]) -> str:
    root = {"√": "", "∛": "[3]", "∜": "[4]"}[match["sign"]]
    return rf"\sqrt{root}{{{match['of']}}}" if match["of"] else rf"\sqrt{root}"


def _write_superscript(match: re.Match[str]) -> str:
    plain = unicodedata.normalize("NFKC", match[0]).replace("−", "-")
    if not _AFTER_BASE.match(match.string[match.start() - 1 : match.start()]):
        return plain
    return f"^{plain}" if len(plain) == 1 else f"^{{{plain}}}"


def _lower(text: str) -> str:
    """In lower case, unless case means something."""
    if "\\" in text or any(symbol in SYMBOLS for symbol in text):
        return text
    if _ALGEBRA.fullmatch(_FUNCTIONS.sub("", text)) and any(c.isupper() and c.lower() in text for c in text):
        return text
    return text.lower()


def _unwrap(text: str) -> str:
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inner.strip() and closing not in inner:
            return inner.strip()
    return text
