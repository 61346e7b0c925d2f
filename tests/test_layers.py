"""Arrows point down, file by file, imports for type checking included, and there is no circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [  # from the ground up; a name is a file or a room, and the longest that fits counts
    ["types", "prompts", "clock", "ranks", ""],
    ["grading"],
    ["statistics"],
    ["functional"],
    ["benchmark_answers", "metrics", "judge"],
    ["data"],
    ["modules.policy"],
    ["strategy"],
    ["modules.families"],
    ["modules.learner"],
    ["modules"],
    ["tiny", "evaluation", "recipes", "viewing"],
    ["callbacks.engines"],
    ["checking"],
    ["callbacks", "callbacks.export", "callbacks.records"],
    ["planning", "data_engine"],
    ["commands"],
    ["cli", "__main__"],
]
CLOSED = {  # rooms that need less than all that is below them
    "functional": ["types", "grading", "statistics"],
    "judge": ["types", "prompts"],
    "data": ["types", "functional", "benchmark_answers"],
    "modules.families": ["modules.policy"],
    "modules.learner": ["types", "clock", "ranks", "functional", "modules.policy"],
    "modules": [
        *("types", "prompts", "clock", "ranks", "grading", "functional", "benchmark_answers", "metrics"),
        *("modules.policy", "modules.learner", "modules.families"),
    ],
    "tiny": ["types", "prompts", "grading", "functional", "data"],
    "recipes": ["types", "grading", "functional", "modules"],
    "callbacks.engines": ["types", "ranks", "functional", "modules.policy"],
    "checking": ["types", "prompts", "ranks", "data", "tiny", "modules", "modules.policy", "callbacks.engines"],
}


def _read() -> dict[str, set[str]]:
    """The files of the package by name, and the files that each imports anywhere in it."""
    files = {}
    for path in (ROOT / "visplay").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    arrows = {}
    for name, path in files.items():
        arrows[name] = found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {imported if imported in files else node.module for imported in whole} & files.keys()
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names} & files.keys()
        found.discard(name)
    return arrows


def _room(name: str) -> str:
    """The file or room of ``FLOORS`` that a file belongs to."""
    inside = name.removeprefix("visplay").removeprefix(".")
    known = [room for floor in FLOORS for room in floor]
    while inside not in known:
        inside = inside.rpartition(".")[0]
    return inside


ARROWS = _read()
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def test_there_is_no_circle():
    TopologicalSorter(ARROWS).prepare()  # raises CycleError, which names the files


@pytest.mark.parametrize("room", FLOOR)
def test_arrows_point_down(room):
    files = [name for name in ARROWS if _room(name) == room]
    assert files, f"{room}: there is no such room"
    for name in files:
        for other in ARROWS[name]:
            assert FLOOR[_room(other)] <= FLOOR[room], f"{name} imports {other}, which is above it"
            allowed = [room, *CLOSED.get(room, FLOOR)]
            assert _room(other) in allowed, f"{name} imports {other}; {room} needs nothing of {_room(other)}"


def test_a_file_name_is_its_own():
    names = [name.rpartition(".")[2] for name in ARROWS if (ROOT / f"{name.replace('.', '/')}.py").is_file()]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert twice == ["__main__"]
