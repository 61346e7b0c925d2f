"""What a parser or a constructor rejects, in one line that begins with the key of the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

_KEY = re.compile(r'Parser key "([\w.]+)"(?:\[\d+\])?:?\s*(.*)')
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)'")
_GIVEN = re.compile(r"\. Got value: (.*)|Given value: (?:NestedArg\(key='[^']*', val=)?(.*?)\)?$")
_MISSING = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'|No module named '([\w.]+)'")
_UNKNOWN = re.compile(
    r"(?:[Oo]ption|[Kk]ey) ['\"]([\w.]+)['\"] is not|accept option '([\w.]+)'|[Uu]nrecognized arguments: --([\w.]+)"
)
_COMPUTED = re.compile(r"argument \w+\(([\w.]+)\) --> ([\w.]+):.*")
_TYPE = re.compile(r"<class '(?:[\w.]+\.)?(\w+)'>|(?:typing|collections\.abc)\.")
_NOISE = (
    *("Does not validate", "Subtypes:", "Errors:", "Given value", "Subclass types", "Problem with given class_path"),
    *("a class path (str)", "a dict w", "Expected a <class 'NoneType'>", "Expected a path but", "did you mean "),
)
"""Beginnings of lines in a parser's message that say nothing of the mistake."""

_OURS = ("visplay.callbacks", "visplay.modules", "visplay.functional", "visplay.checking", "visplay.tiny")
"""Rooms whose classes and functions a configuration names."""


class _Leaf(NamedTuple):
    depth: int
    key: str
    text: str


def explain(message: str) -> str:
    r"""A parser's message, which may be a tree of attempts, as the line that says what is wrong.

    Example:
        >>> explain('Parser key "self_play.iterations":\n  Expected a <class \'int\'>. Got value: two')
        "self_play.iterations: need int, got 'two'"
        >>> explain("the following arguments are required: fit.data, fit.model")
        'data, model: not given; name a configuration that has it, such as --config tiny'
    """
    if computed := _COMPUTED.fullmatch(message):
        return f"{computed[2]}: follows from {computed[1]}; give that instead"
    if required := re.fullmatch(r"the following arguments are required: (.*)", message):
        names = re.sub(r"\b(fit|validate|test)\.", "", required[1])
        return f"{names}: not given; name a configuration that has it, such as --config tiny"
    hint = next(iter(re.findall(r"did you mean ('[\w.]+')\?", message)), None)
    leaves = _leaves(message) if "\n  " in message or _KEY.match(message) else []
    if not leaves:
        leaves = [_Leaf(0, "", " ".join(message.partition("\ndid you mean")[0].split()))]
    deepest = max(leaf.depth for leaf in leaves)
    found = [leaf for leaf in leaves if leaf.depth == deepest]
    key, text = found[0].key, found[0].text
    given = _shown(next((a or b for a, b in _GIVEN.findall(message)), ""))
    if kind := re.search(r"does not correspond to a subclass of (\w+)", text):
        return f"{key}: need a {kind[1]}, got {given}"
    if re.match("Unable to load config|Expected a dot import path", text):
        return f"{key}: need a class, or settings of one as {{name: value}}, got {given}"
    if text.startswith("Expected a "):
        wanted = dict.fromkeys(_readable(leaf.text) for leaf in found if leaf.text.startswith("Expected a "))
        return f"{key}: need {' or '.join(wanted)}, got {given}"
    if unknown := next((name for each in _UNKNOWN.findall(text) for name in each if name), None):
        name, classes = _as_typed(".".join(filter(None, (key, unknown)))), _CLASS.findall(message)
        what = f"no setting of {classes[-1]}" if classes else "unknown key"
        further = f"did you mean {hint}?" if hint else "`visplay fit --help=all` lists what there is"
        return f"{name}: {what}; {further}"
    if missing := _MISSING.search(text):
        module, name, _ = missing.groups()
        near = nearest(name, import_module(module).__all__) if module in _OURS else None
        further = f"did you mean '{module}.{near}'?" if near else missing[0]
        return f"{key}: {_CLASS.findall(message)[-1]!r} is no class or function; {further}"
    if text.startswith("Not a valid subclass"):
        return f"{key}: no class_path is given; name a configuration that has one first, such as --config tiny"
    if unrecognized := re.fullmatch(r"[Uu]nrecognized arguments: (.*)", text):
        return f"{unrecognized[1]}: no setting; give one as --key=value"
    return ": ".join(filter(None, (key, text)))


def unknown_keys(message: str) -> list[str]:
    """Keys that a message says are unknown, and for which it has no suggestion yet."""
    if "did you mean" in message:
        return []
    return [*dict.fromkeys(name for found in _UNKNOWN.findall(message) for name in found if name)]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that may have been meant: one that is spelled alike, or that has it in itself.

    Example:
        >>> nearest("iteratons", ["iterations", "seed"]), nearest("loss", ["policy_loss"]), nearest("x", ["seed"])
        ('iterations', 'policy_loss', None)
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1) or [each for each in names if len(name) > 2 and name in each]
    return close[0] if close else None


def name_key(message: str, settings: Mapping[str, Any]) -> str:
    """A constructor's message, which names its own argument, with that argument's key on the command line.

    Args:
        message: It begins with the argument's name and a colon.
        settings: All that is configured, by dotted key.

    Returns:
        The message, with the key where only one setting has that name, or is that path, and the value in question.

    Example:
        >>> name_key("votes: 1 must be at least 2", {"model.init_args.votes": 1, "other.votes": 10})
        'model.votes: 1 must be at least 2'
        >>> name_key("root: 'x' is empty", {"data.init_args.images": "x"})
        "data.images: 'x' is empty"
    """
    name, colon, rest = message.partition(": ")
    if not colon or not re.fullmatch(r"\w+", name):
        return message
    about = [key for key, value in settings.items() if _is_about(rest, value)]
    named = [key for key in about if key.rpartition(".")[2] == name]
    inside = [key for key in about if name in key.split(".")]  # a template's text, where it is of the template
    is_known = any(name in key.split(".") for key in settings)
    texts = [] if is_known else [key for key in about if settings[key] and isinstance(settings[key], str)]
    found = next((keys for keys in (named, inside, texts) if len(keys) == 1), None)
    if found is None:
        return message
    return f"{_as_typed(found[0])}: {rest}"


def describe_os_error(error: OSError, settings: Mapping[str, Any]) -> str:
    """What the system says about a file, with the key of the setting whose path leads to it.

    Example:
        >>> describe_os_error(FileExistsError(17, "File exists", "/x/runs"), {"trainer.default_root_dir": "/x"})
        "trainer.default_root_dir: '/x': File exists: '/x/runs'"
    """
    file, text = str(error.filename), f"{error.strerror}: {str(error.filename)!r}"
    paths = {key: value for key, value in settings.items() if isinstance(value, str) and value}
    leading = [key for key, value in paths.items() if file == value or file.startswith(value.rstrip("/") + "/")]
    if not leading:
        return text
    key = min(leading, key=lambda key: (-len(paths[key]), not key.startswith("trainer.default_root_dir")))
    key, value = _as_typed(key), paths[key]
    return f"{key}: {text}" if value == file else f"{key}: {value!r}: {text}"


def _is_about(rest: str, value: Any) -> bool:
    """Whether the words after an argument's name begin with its value, or quote it."""
    if isinstance(value, str):
        return repr(value) in rest
    shown = "null" if value is None else str(value)
    return re.match(rf"{re.escape(shown)}(?![\w.])", rest) is not None or rest.endswith(f"got {shown}")


def _leaves(message: str) -> list[_Leaf]:
    """What each attempt failed with, and at which key."""
    keys: list[tuple[int, str]] = []
    leaves = []
    for line in message.splitlines():
        text = line.strip().removeprefix("- ").strip()
        depth = len(line) - len(line.lstrip(" -"))
        if found := _KEY.match(text):
            keys = [(at, key) for at, key in keys if at < depth]
            keys += [(depth, found[1])] if not keys or keys[-1][1] != found[1] else []
            text = found[2]
        if text and not text.startswith(_NOISE):
            leaves.append(_Leaf(depth, ".".join(key for at, key in keys if at <= depth), text))
    return leaves


def _as_typed(key: str) -> str:
    """A key as it is given on the command line."""
    return re.sub(r"\.(init_args|dict_kwargs)\b", "", key)


def _readable(text: str) -> str:
    """A type that was expected, as a person would write it."""
    wanted = text.removeprefix("Expected a ").partition(". Got value: ")[0]
    wanted = _TYPE.sub(lambda found: found[1] or "", wanted)
    return re.sub(r"Literal\[(.*?)\]", r"one of \1", wanted)


def _shown(given: str) -> str:
    return "null" if given == "None" else given if given.startswith(("'", "[", "{")) else repr(given)
