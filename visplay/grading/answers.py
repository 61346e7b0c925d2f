"""What a sentence around an answer says: the letter of an option, the subject, the answer itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from visplay.grading.rules import DEFAULT_RULES, GradingRules
from visplay.grading.text import fold_text, normalise_answer

_CACHED_TEXTS = 65536
_LABELLED = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice) )?(?:[(\[](?P<in_brackets>[A-Za-z])[)\]][:.]?\s+"
    r"|(?P<letter>[A-Za-z])[).:](?![A-Za-z](?:\.|$))\s*"
    r"|(?P<dashed>[a-z]) - (?=[a-z]{2}))(?P<text>[\w\\($\"'-].*)"
)
_LABEL_BEHIND = re.compile(r"(?P<text>.{2,}|[0-9]) \((?P<letter>[A-Ja-j])\)")
_ASIDE = re.compile(r"(?P<text>[a-z][a-z' -]*[a-z]) \((?P<aside>[a-z][a-z ,'-]+)\)")
_SOLUTIONS = re.compile(r"(?P<variable>[A-Za-z]) ?= ?[^=<>]+?(?:(?:,? or |,? and |, ?)(?P=variable) ?= ?[^=<>]+?)+")
_RAY = re.compile(r"(?P<variable>[A-Za-z]) ?(?P<sign>[<>≤≥]) ?(?P<end>[^<>=≤≥,]+)")
_BOTH_SIGNS = re.compile(r"± ?([^±+,-]+)")
_YES_NO = re.compile(
    r"(?P<answer>yes|no|true|false|(?:不?[是对]|否|错|没?有)的?)(?:\s*[,;:!-]\s*|\s*\.\s+(?![0-9])|\s+(?=(?:it|there|he|she|they|i|you|we|this|that)\s"
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
    r"(?P<subject>(?:\\[A-Za-z]+|[A-Za-zΑ-Ωα-ω])'*(?:_\{?\w+\}?)?(?:\([^()=]+\))?|[∠∆] ?[A-Za-z]{1,3}"
    r"|[A-Za-z]{2,}(?: [A-Za-z]{2,}){0,3})\s*=\s*(?P<answer>[^=<>]+)"
)
_NAMED = re.compile(
    r"(?P<subject>[a-z]{3,}(?: [a-z]+){0,2}): (?P<answer>\S.*)|(?P<point>[a-eg-z]) ?(?P<at>\([^()]+,[^()]+\))"
)
_ABOUT = re.compile(r"(?:(?:about|approximately|approx\.?|roughly|around)\s+|≈)(?P<answer>\S.*)")
_EMPTY_SUBJECTS = frozenset(("it", "this", "that", "there", "they", "he", "she", "these", "those"))


@dataclass(frozen=True)
class Reading:
    """What an answer says. A part counts only where both answers state it.

    Args:
        option: Its option letter; "" where there is none.
        subject: What a sentence or an equation is about; "" where there is none.
        aside: Words in brackets behind it; "" where there are none.
        body: The canonical form of the answer itself.
    """

    option: str
    subject: str
    aside: str
    body: str


@lru_cache(maxsize=_CACHED_TEXTS)
def read_answer(form: str, rules: GradingRules = DEFAULT_RULES) -> Reading:
    """Take a canonical form apart: its option letter, its subject, and the answer without the sentence around it.

    Example:
        >>> read_answer("b. the color is red, not blue")
        Reading(option='b', subject='color', aside='', body='red')
    """
    body, option, subject, aside = form, "", "", ""
    for _ in range(4):
        before = body
        body = _drop_explanation(body, rules)
        if match := _LABELLED.fullmatch(body) or _LABEL_BEHIND.fullmatch(body):
            option = option or next(letter for letter in match.groups() if letter and len(letter) == 1).lower()
            body = normalise_answer(match["text"], rules)
        elif match := _SOLUTIONS.fullmatch(body):
            subject, body = match["variable"], ", ".join(re.findall(r"= ?([^=]+?)(?:,? or |,? and |, ?|$)", body))
        elif match := _SENTENCE.fullmatch(body) or _EQUATION.fullmatch(body):
            subject = subject or _name_subject(match["subject"])
            body = normalise_answer(match["answer"], rules)
        elif match := _NAMED.fullmatch(body):
            subject = subject or _name_subject(match["subject"] or match["point"])
            body = normalise_answer(match["answer"] or match["at"], rules)
        elif match := _ASIDE.fullmatch(body):
            aside, body = match["aside"], normalise_answer(match["text"], rules)
        elif rays := _read_rays(body):
            subject, body = rays
        elif match := _BOTH_SIGNS.fullmatch(body):
            body = f"{match[1]}, -{match[1]}"
        if body == before:
            break
    return Reading(option, subject, aside, body)


def _read_rays(text: str) -> tuple[str, str] | None:
    """The variable and the set of numbers of x<-2 or x>2, (-∞,-2)∪(2,∞)."""
    rays = [_RAY.fullmatch(part) for part in text.split(" or ")]
    if len(rays) < 2 or not all(rays) or len({ray["variable"] for ray in rays if ray}) > 1:
        return None
    ends = [(ray["sign"], ray["end"].strip()) for ray in rays if ray]
    closing, opening = {"<": ")", "≤": "]"}, {">": "(", "≥": "["}
    sets = [f"(-∞,{end}{closing[sign]}" if sign in closing else f"{opening[sign]}{end},∞)" for sign, end in ends]
    return rays[0]["variable"], "∪".join(sets)  # type: ignore[index]


def is_letter(text: str) -> bool:
    """Whether a canonical form can be the letter of an option."""
    return len(text) == 1 and "a" <= text <= "z"


def _drop_explanation(text: str, rules: GradingRules) -> str:
    """The answer without what explains it, rules others out or announces it."""
    match = _YES_NO.fullmatch(text)
    if match:
        return text if _TAKES_BACK.fullmatch(match["rest"]) else normalise_answer(match["answer"], rules)
    match = _CONTRAST.fullmatch(text)
    if match:
        other = match["bracketed"] or match["other"] or match["instead"] or ""
        text = text if _DOUBT.fullmatch(other) else normalise_answer(match["answer"], rules)
    for pattern in (_CORRECT, _ANSWER_IS, _ABOUT):
        if match := pattern.fullmatch(text):
            text = normalise_answer(match["answer"], rules)
    return text


def _name_subject(subject: str) -> str:
    return "" if subject in _EMPTY_SUBJECTS else fold_text(subject)
