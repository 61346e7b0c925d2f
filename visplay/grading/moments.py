"""Dates and times of day, read by dateutil where a text is surely one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)[a-z]*\.?"
_DAY, _YEAR = r"(?:the )?[0-3]?[0-9](?:st|nd|rd|th)?", r"[0-9]{4}"
_DATE = re.compile(
    rf"{_DAY} (?:of )?{_MONTH}(?:,? {_YEAR})?|{_MONTH} {_DAY}(?:,? {_YEAR})?|{_MONTH},? {_YEAR}|{_YEAR} {_MONTH}"
    rf"|{_YEAR}-[01][0-9]|{_YEAR}(?P<first>[-/.])[01]?[0-9](?P=first)[0-3]?[0-9]|[0-3]?[0-9](?P<between>[/.-])[0-3]?[0-9](?P=between){_YEAR}"
)
_CHINESE_DATE = re.compile(r"(?:(?P<year>[0-9]{4})年)?(?P<month>[0-9]{1,2})月(?:(?P<day>[0-9]{1,2})[日号])?")
_ERA = re.compile(r"(?:a\.?d\.? ?)?(?P<year>[0-9]{1,4})(?: ?(?P<era>a\.?d|b\.?c|c\.?e|b\.?c\.?e)\.?)")
_TIME = re.compile(
    r"(?:at )?(?P<hour>[0-2]?[0-9])(?:[:.](?P<minute>[0-5][0-9]))?(?: ?(?P<half>[ap])\.?m\.?| (?P<clock>o'clock))?"
)
_SPOKEN = re.compile(
    r"(?P<minute>half|(?:a )?quarter|[0-9]{1,2})(?: minutes?)? (?P<way>past|after|to|before) (?P<hour>[01]?[0-9])"
)
_CHINESE_TIME = re.compile(
    "(?P<half>[上下]午|早上|凌晨|晚上)?(?P<hour>[0-2]?[0-9])[点时](?:(?P<minute>[0-5]?[0-9]|半)分?)?"
)
_CHINESE_HALVES = {"上午": "a", "早上": "a", "凌晨": "a", "下午": "p", "晚上": "p"}
_DEFAULTS = datetime(1904, 2, 28), datetime(1808, 10, 11)  # what a text does not state differs between them


@dataclass(frozen=True)
class Moment:
    """What a text states of a date and of a time of day; None for what it does not.

    Args:
        year: The year, negative before Christ.
        month: 1 to 12.
        day: 1 to 31.
        minute: Minutes since midnight; since noon as well where ``half`` is not stated.
        half: "a" or "p", also where the hour says it, as 15:30 does; None where it is open.
    """

    year: int | None = None
    month: int | None = None
    day: int | None = None
    minute: int | None = None
    half: str | None = None

    def agrees(self, other: Moment) -> bool:
        """Whether two moments are the same in all that both state; a month, a day or a time must be stated by both."""
        if (self.month, self.day) != (other.month, other.day) or (self.minute is None) != (other.minute is None):
            return False
        if self.year is not None and other.year is not None and self.year != other.year:
            return False
        if self.minute is None or other.minute is None or self.half and other.half:
            return self.minute == other.minute
        return self.minute % 720 == other.minute % 720


_NAMED = {"noon": Moment(minute=720, half="p"), "midnight": Moment(minute=0, half="a")}


@lru_cache(maxsize=16384)
def read_moment(text: str) -> Moment | None:
    """The date or the time of day that a canonical form states; None for any other text.

    Example:
        >>> read_moment("jan. 5, 2024") == Moment(year=2024, month=1, day=5), read_moment("3:30 pm").minute
        (True, 930)
    """
    text = text.lower()
    if match := _CHINESE_DATE.fullmatch(text):
        parts = {name: int(part) for name, part in match.groupdict().items() if part}
        return Moment(parts.get("year"), parts.get("month"), parts.get("day"))
    if _DATE.fullmatch(text):
        return _read_date(re.sub(r"^the ", "", text).replace(" of ", " "))
    if (match := _ERA.fullmatch(text)) and int(match["year"]):
        return Moment(year=int(match["year"]) * (-1 if match["era"][0] == "b" else 1))
    if match := _SPOKEN.fullmatch(text):
        minutes = {"h": 30, "q": 15, "a": 15}.get(match["minute"][0]) or int(match["minute"])
        return _read_time(int(match["hour"]), minutes if match["way"] in ("past", "after") else -minutes, None)
    if match := _CHINESE_TIME.fullmatch(text):
        minute = 30 if match["minute"] == "半" else int(match["minute"] or 0)
        return _read_time(int(match["hour"]), minute, _CHINESE_HALVES.get(match["half"]))
    if text in _NAMED:
        return _NAMED[text]
    match = _TIME.fullmatch(text)
    if match is None or not (match["half"] or match["clock"] or (match["minute"] and ":" in text)):
        return None
    return _read_time(int(match["hour"]), int(match["minute"] or 0), match["half"])


def _read_time(hour: int, minute: int, half: str | None) -> Moment | None:
    if hour > 24 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    elif hour > 12 or hour == 0:
        half = "p" if hour else "a"
    return Moment(minute=(60 * hour + minute) % 1440, half=half)


def _read_date(text: str) -> Moment | None:
    from dateutil import parser

    try:
        found = [parser.parse(text, default=default) for default in _DEFAULTS]
    except (ValueError, OverflowError):
        return None
    one, other = found
    stated = {
        name: getattr(one, name) for name in ("year", "month", "day") if getattr(one, name) == getattr(other, name)
    }
    return Moment(**stated)
