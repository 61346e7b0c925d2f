"""``python docs/generate.py`` writes ``docs/configuration.md``: every key of ``visplay fit``, from the constructors.

A key's type and default are those of a constructor's argument, and its meaning is the argument's line in the docstring,
as for ``visplay fit --help``. A test compares the page with what this would write.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, get_args, get_type_hints

import docstring_parser
from lightning.pytorch.callbacks import ProgressBar

import visplay.callbacks
import visplay.data.module
import visplay.modules
import visplay.tiny.data
from visplay.cli import CALLBACKS
from visplay.commands.settings.configuration import TRAINER_DEFAULTS

PAGE = Path(__file__).with_name("configuration.md")
PUBLIC = ("visplay.functional", "visplay.modules", "visplay.callbacks")
"""Packages by whose names their exports are called."""
GROUPS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "model": {"model": (visplay.modules.VisPlay, visplay.modules.Questioner, visplay.modules.Reasoner)},
    "data": {"data": (visplay.data.module.SelfPlayData, visplay.tiny.data.TinyWorld)},
    "rollout": {"rollout": (visplay.callbacks.RolloutEngine,)},
    "self_play": {"self_play": (visplay.callbacks.SelfPlay,)},
    "evaluation": {"evaluation": (visplay.callbacks.Evaluation,)},
    "callbacks of every run": {
        key: (visplay.callbacks.PhaseProgress if kind is ProgressBar else kind,)
        for key, (kind, _) in CALLBACKS.items()
        if kind.__module__.startswith("visplay") or kind is ProgressBar
    },
}
"""Sections of the page: keys of the top level, and of which classes they are."""
HEAD = """\
# Settings

<!-- Written by `python docs/generate.py`; do not edit. -->

Every setting is the argument of a constructor. A key of the command line is the path to it
(`--model.questioner.grpo.steps=10`); in YAML a class that is one of several stands as `class_path` with `init_args`,
and `visplay fit --config FILE --print_config` prints how. A section below is a class, and says at which keys it stands.
What may be one of several classes or functions takes any import path, yours too ([extending.md](extending.md)). A
setting whose default is – has to be given. YAML states what differs from the defaults; of several `--config` files the
later one wins.
"""


@dataclasses.dataclass
class Section:
    """A class, and where it stands."""

    kind: type
    group: str
    keys: list[str] = dataclasses.field(default_factory=list)


def sections() -> dict[type, Section]:
    """Every class that a key leads to, in the order in which the keys do."""
    found: dict[type, Section] = {}
    for group, keys in GROUPS.items():
        for key, kinds in keys.items():
            for kind in kinds:
                _visit(kind, key, group, found)
    return found


def _visit(kind: type, key: str, group: str, found: dict[type, Section]) -> None:
    """Note a class at a key, or the classes that implement it, and what its arguments lead to."""
    if inspect.isabstract(kind) and kind is not visplay.modules.VLM:
        for implementation in implementations(kind):
            _visit(implementation, key, group, found)
        return
    section = found.setdefault(kind, Section(kind, group))
    if key in section.keys:
        return
    section.keys.append(key)
    if kind is not visplay.modules.VLM:  # whose families have its settings
        for derived in implementations(kind):
            _visit(derived, key, group, found)
    alone = kind in (visplay.modules.Questioner, visplay.modules.Reasoner) and key != "model"
    for name, (hint, _) in arguments(kind).items():
        if not (alone and name in ("vlm", "reasoner", "seed")):  # for a role that is fitted alone
            for each in classes(hint):
                _visit(each, f"{key}.{name}", group, found)


def implementations(kind: type) -> list[type]:
    """What this package exports of an abstract class."""
    exported = [getattr(importlib.import_module(name), each) for name in PUBLIC for each in _exports(name)]
    return [each for each in exported if isinstance(each, type) and issubclass(each, kind) and each is not kind]


def arguments(kind: type) -> dict[str, tuple[Any, inspect.Parameter]]:
    """A constructor's arguments, those that it hands on to its base class after its own."""
    hints = get_type_hints(kind.__init__)
    parameters = inspect.signature(kind).parameters
    own = {name: (hints.get(name), each) for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD}
    handed_on = arguments(kind.__mro__[1]) if len(own) < len(parameters) else {}
    return own | {name: each for name, each in handed_on.items() if name not in own}


def classes(hint: Any) -> Iterator[type]:
    """The classes of this package in a type, however deep."""
    if isinstance(hint, type) and hint.__module__.startswith("visplay") and not getattr(hint, "_is_protocol", False):
        yield hint
    for part in get_args(hint):
        if part is not hint:
            yield from classes(part)


def write() -> str:
    """The page."""
    found = sections()
    parts = [HEAD]
    for group in GROUPS:
        parts.append(f"## {group}\n")
        parts += [_section(each) for each in found.values() if each.group == group and arguments(each.kind)]
        silent = [each for each in found.values() if each.group == group and not arguments(each.kind)]
        parts += [f"`{each.keys[0]}`: `{public_name(each.kind)}`. {_purpose(each.kind)}\n" for each in silent]
    return "\n".join([*parts, _trainer()])


def _section(section: Section) -> str:
    keys = ", ".join(f"`{key}`" for key in section.keys)
    rows = []
    for name, (hint, each) in arguments(section.kind).items():
        text = _cell(meaning(section.kind, name))
        rows.append(f"| `{name}` | {_type(hint, each.annotation)} | {_default(each.default)} | {text} |")
    where = f"`{public_name(section.kind)}`, at {keys}. {_purpose(section.kind)}"
    lines = [f"### {section.kind.__name__}", "", where, ""]
    return "\n".join([*lines, "| setting | type | default | meaning |", "|---|---|---|---|", *rows, ""])


def _trainer() -> str:
    rows = "\n".join(f"| `trainer.{name}` | `{_plain(value)}` |" for name, value in TRAINER_DEFAULTS.items())
    return f"""\
## trainer

The arguments of [Lightning's `Trainer`](https://lightning.ai/docs/pytorch/stable/common/trainer.html), and
`strategy: fsdp2` ([scaling.md](scaling.md)). These differ from its defaults; `max_epochs` follows from
`self_play.iterations`:

| setting | default |
|---|---|
{rows}

`checkpoint` is Lightning's `ModelCheckpoint`, which keeps one checkpoint per phase. `--auto_resume` and `--ckpt_path`
belong to `fit` ([reliability.md](reliability.md)).
"""


def meaning(kind: type, name: str) -> str:
    """What the docstring of a class, or of the one that it hands an argument on to, says of the argument."""
    for base in kind.__mro__:
        for parameter in docstring_parser.parse(base.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE).params:
            if parameter.arg_name == name:
                return " ".join((parameter.description or "").split())
    return ""


def public_name(value: Any) -> str:
    """The shortest import path of a class or function."""
    for name in PUBLIC:
        if value.__name__ in _exports(name) and getattr(importlib.import_module(name), value.__name__) is value:
            return f"{name}.{value.__name__}"
    return f"{value.__module__}.{value.__qualname__}"


def _exports(package: str) -> list[str]:
    return list(importlib.import_module(package).__all__)


def _purpose(kind: type) -> str:
    return _cell(" ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split()))


def _type(hint: Any, annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(hint)
    named = list(dict.fromkeys(classes(hint)))
    links = [f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in named if not inspect.isabstract(kind)]
    if [text] == [kind.__name__ for kind in named] and links:
        return links[0]
    names = [f"`{each.__name__}`" for kind in named if inspect.isabstract(kind) for each in implementations(kind)]
    return f"`{_cell(text)}`" + (f" ({', '.join(links + names)})" if links + names else "")


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "–"
    if isinstance(value, FunctionType | type):
        return f"`{public_name(value)}`"
    if dataclasses.is_dataclass(value):
        changed = {each.name: getattr(value, each.name) for each in dataclasses.fields(value) if _differs(value, each)}
        return ", ".join(f"`{name}: {_plain(each)}`" for name, each in changed.items()) or "its defaults"
    return f"`{_plain(value)}`"


def _differs(value: Any, field: dataclasses.Field[Any]) -> bool:
    default = field.default_factory() if callable(field.default_factory) else field.default
    return bool(getattr(value, field.name) != default)


def _plain(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_plain(each) for each in value) + "]"
    return _cell(" ".join(str(value).split())) if not isinstance(value, FunctionType) else public_name(value)


def _cell(text: str) -> str:
    """Text that stays in one cell of a table and is read as it is."""
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(write(), encoding="utf-8")
