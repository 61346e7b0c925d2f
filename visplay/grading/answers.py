r"""The canonical form of an answer, and what a sentence around it says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from visplay.grading.measurements import write_number
from visplay.grading.units import spell_cased_unit, split_unit

MAX_CHARACTERS = 1000  # a longer answer is compared as it is
_CACHED_TEXTS = 65536
_OPTION = re.compile(r"(?:(?:option|choice|answer)\s+)?[(\[]?(?P<letter>[a-z])[)\].:]?")
_LABELLED = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice) )?(?:[(\[](?P<in_brackets>[A-Za-z])[)\]][:.]?\s+"
    r"|(?P<letter>[A-Za-z])[).:](?![A-Za-z](?:\.|$))\s*"
    r"|(?P<dashed>[a-z]) - (?=[a-z]{2}))(?P<text>[\w\\($\"'-].*)"
)
_LETTERS = re.compile(r"[a-j](?:(?:, ?(?:and )?| and | & )[a-j])+")
_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ('"', '"'),
    ("'", "'"),
    ("`", "`"),
    ("{", "}"),
)
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_PUNCTUATION = str.maketrans({"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "“": '"', "”": '"', "’": "'", "‘": "'"})
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}", r"\1"),
        (r"\\(?:displaystyle|left(?![a-z])|right(?![a-z]))\s*", ""),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree\b|°)\s*", " degree "),
        (r"\\([%$&])", r"\1"),
        (r"(?<!\\)\\[,;:! ]|\\quad\b|~", " "),
        (r"(?<=[0-9])\{,\}(?=[0-9])", ","),
        (r"\{\{([^{}]*)\}\}", r"{\1}"),
        (r"^([0-9.]+)(?:\"|'')$", r"\1 in"),
        (r"²", "^2"),
        (r"³", "^3"),
        (r"\s+", " "),
        (r"(?<=\S)\s*\.$", ""),
        (r"(?<=[A-Za-z]{2})!+$", ""),
    )
)
_ALGEBRA = re.compile(r"(?=.*[\^*/+=_])(?!.*[A-Za-z]{3})[A-Za-z0-9\s{}()\[\]+\-*/^_=.,]*")
_FUNCTIONS = re.compile("sqrt|sin|cos|tan|log")

_YES_NO = re.compile(
    r"(?P<answer>yes|no|true|false)(?:\s*[,;:!-]\s*|\s*\.\s+(?![0-9])|\s+(?=(?:it|there|he|she|they|i|you|we|this|that)\s"
    r"(?:is|are|was|were|isn't|aren't|does|do|has|have|can)\b))(?P<rest>.*)"
)
_TAKES_BACK = re.compile(r"(?:or|and|but|maybe|perhaps|not sure|unclear|i do not know)\b.*|yes\b.*|no|true|false")
_CONTRAST = re.compile(
    r"(?P<answer>.+?)(?:,? \((?:and )?not (?P<bracketed>[^()]+)\)|, (?:and |but )?not (?P<other>.+)"
    r"|,? (?:and not|rather than|instead of) (?P<instead>.+)|,? (?:because|since) .+)"
)
_DOUBT = re.compile(r"(?:only|just|sure|certain|clear|entirely|necessarily|counting|including|quite|really)\b.*")
_CORRECT = re.compile(r"(?P<answer>.+?) is (?:the )?(?:correct|right)(?: answer| option| choice| one)?")
_ANSWER_IS = re.compile(
    r"(?:so |thus |therefore |hence )?,?\s*(?:my |the |your )?(?:final |correct |right |best )?"
    r"(?:answer|option|choice|result)(?: to the question)?(?: is| are|:| =)+ (?P<answer>.+)"
)
_SENTENCE = re.compile(
    r"(?P<subject>it|this|that|there|they|he|she|these|those|(?:the|this|that|its|his|her|their)(?: [a-z0-9'-]+){1,8}?)"
    r"(?:(?<=\bit|\bhe)'s|(?<=\bthat|here)'s|(?<=\bshe)'s| is| are| was| were| says| reads| equals| shows)(?: that)?:?"
    r" (?P<answer>.+)"
)
_EQUATION = re.compile(
    r"(?P<subject>(?:\\[A-Za-z]+|[A-Za-z])(?:_\{?\w+\}?)?(?:\([a-z]\))?|\\angle [A-Za-z]{1,3}"
    r"|[A-Za-z]{2,}(?: [A-Za-z]{2,}){0,3})\s*=\s*(?P<answer>[^=<>]+)"
)
_ABOUT = re.compile(r"(?:(?:about|approximately|approx\.?|roughly|around)\s+|(?:≈|\\approx)\s*)(?P<answer>\S.*)")
_EMPTY_SUBJECTS = frozenset(("it", "this", "that", "there", "they", "he", "she", "these", "those"))

_BRITISH = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\bgrey", "gray"),
        (r"\b(col|fav|harb|neighb|flav|hon|lab|arm|hum|vap)our", r"\1or"),
        (r"\b(cent|theat|lit|met|fib)re(s?)\b", r"\1er\2"),
        (r"\btyre(s?)\b", r"tire\1"),
        (r"\baeroplane", "airplane"),
        (r"\baluminium\b", "aluminum"),
        (r"\bjewellery\b", "jewelry"),
        (r"\bdoughnut", "donut"),
        (r"\byoghurt", "yogurt"),
        (r"\bmoustache", "mustache"),
        (r"\bpyjamas\b", "pajamas"),
        (r"\bcheque", "check"),
    )
)
_ABBREVIATION = re.compile(r"\b(?:(?:[a-z]\.){2,}|(?:[a-z]\.)+[a-z])(?![a-z])")
_PLACES = "and|or|of|in|on|at|to|by|with|from|near|behind|for|is"
_FOLDS = (
    (re.compile(r"(?<=[a-z])-(?=[a-z]{3})|(?<=[a-z]{3})-(?=[a-z])"), " "),
    (re.compile(r"\s*&\s*"), " and "),
    (re.compile(r"\s*,\s*"), ", "),
    (re.compile(r"\b(?:the|an) (?=[a-z0-9\"'])"), ""),
    (re.compile(rf"(^|\b(?:{_PLACES}) |, )a (?!(?:and|or|is|of)\b)(?=[a-z]{{2}})"), r"\1"),
    *_BRITISH,
)
_ACCENTED = re.compile(r"[À-ɏḀ-ỿ]")
_ACCENTED_NAME = re.compile(r"\\N\{LATIN (?:SMALL|CAPITAL) L[A-Z]+ (?P<letters>[A-Z]{1,2})(?: WITH [A-Z ]+)?\}")
_LATEX_SPACE = re.compile(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Reading:
    """What an answer says. A part counts only where both answers state it.

    Args:
        option: Its option letter; "" where there is none.
        subject: What a sentence or an equation is about; "" where there is none.
        body: The canonical form of the answer itself.
    """

    option: str
    subject: str
    body: str


@lru_cache(maxsize=_CACHED_TEXTS)
def normalise_answer(text: str) -> str:
    r"""Bring an answer to its canonical form, the same for the same number, option letter or text.

    Drops what does not mean anything: white space, a final full stop, quotes, dollar signs around mathematics,
    ``\text{}``, brackets around an option letter, separators of thousands and trailing zeros. Lower-cases text, except
    where case means something: next to LaTeX commands and in a formula with a letter in both cases.

    Args:
        text: An answer.

    Returns:
        The canonical form; normalising it again changes nothing.

    Example:
        >>> [normalise_answer(text) for text in ("1,000.0", "(B)", r"$\text{ Yes.}$", "50 percent", r"\Delta t")]
        ['1000', 'b', 'yes', '50 %', '\\Delta t']
    """
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        return text
    text = _clean(text.translate(_FULL_WIDTH).translate(_PUNCTUATION))
    if option := _OPTION.fullmatch(text):
        return option["letter"]
    magnitude, unit = split_unit(text)
    return f"{write_number(magnitude)} {unit}" if unit else write_number(text)


@lru_cache(maxsize=_CACHED_TEXTS)
def read_answer(form: str) -> Reading:
    """Take a canonical form apart: its option letter, its subject, and the answer without the sentence around it.

    Example:
        >>> read_answer("b. the color is red, not blue")
        Reading(option='b', subject='color', body='red')
    """
    body, option, subject = form, "", ""
    for _ in range(4):
        before = body
        body = _drop_explanation(body)
        if match := _LABELLED.fullmatch(body):
            option = option or (match["letter"] or match["in_brackets"] or match["dashed"]).lower()
            body = normalise_answer(match["text"])
        elif match := _SENTENCE.fullmatch(body) or _EQUATION.fullmatch(body):
            subject = subject or _name_subject(match["subject"])
            body = normalise_answer(match["answer"])
        if body == before:
            break
    return Reading(option, subject, body)


def is_letter(text: str) -> bool:
    """Whether a canonical form can be the letter of an option."""
    return len(text) == 1 and "a" <= text <= "z"


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
        return ", ".join(sorted(set(re.findall(r"\b[a-j]\b", form))))
    form = _ABBREVIATION.sub(lambda match: match[0].replace(".", ""), form)
    form = _ACCENTED.sub(lambda match: _drop_accent(match[0]), re.sub("[\u0300-\u036f]", "", form))
    for pattern, replacement in _FOLDS:
        form = pattern.sub(replacement, form)
    return form.strip()


def _drop_explanation(text: str) -> str:
    """The answer without what explains it, rules others out or announces it."""
    match = _YES_NO.fullmatch(text)
    if match:
        return text if _TAKES_BACK.fullmatch(match["rest"]) else match["answer"]
    match = _CONTRAST.fullmatch(text)
    if match:
        other = match["bracketed"] or match["other"] or match["instead"] or ""
        text = text if _DOUBT.fullmatch(other) else normalise_answer(match["answer"])
    for pattern in (_CORRECT, _ANSWER_IS, _ABOUT):
        if match := pattern.fullmatch(text):
            text = normalise_answer(match["answer"])
    return text


def _name_subject(subject: str) -> str:
    return "" if subject in _EMPTY_SUBJECTS else fold_text(subject)


def _clean(text: str) -> str:
    """Rewrite and unwrap until nothing changes."""
    text = text.strip()
    while True:
        cleaned = text
        for pattern, replacement in _REWRITES:
            cleaned = pattern.sub(replacement, cleaned)
        cleaned = _lower(_unwrap(cleaned.strip()))
        if cleaned in ("", text):
            return text
        text = cleaned


def _lower(text: str) -> str:
    """In lower case, unless case means something."""
    if "\\" in text:
        return text
    if _ALGEBRA.fullmatch(_FUNCTIONS.sub("", text)) and any(c.isupper() and c.lower() in text for c in text):
        return text
    return spell_cased_unit(text).lower()


def _unwrap(text: str) -> str:
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inner.strip() and closing not in inner:
            return inner.strip()
    return text


@lru_cache(maxsize=1024)
def _drop_accent(letter: str) -> str:
    match = _ACCENTED_NAME.fullmatch(letter.encode("ascii", "namereplace").decode())
    return match["letters"].lower() if match else letter
