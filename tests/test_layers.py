"""Arrows point one way: functional <- modules <- callbacks, data; the embedded default stands outside."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "visplay"
PROGRAM = ["cli", "commands"]
FORBIDDEN = {
    "functional": [
        *("modules", "callbacks", "data", "metrics", "judge", "evaluation", "planning", "tiny", "prompts", "clock"),
        "answered",
        *PROGRAM,
    ],
    "metrics": ["modules", "callbacks", "data", "judge", "evaluation", "tiny", *PROGRAM],
    "judge": ["modules", "callbacks", "data", "metrics", "evaluation", "tiny", *PROGRAM],
    "evaluation": ["modules", "callbacks", "tiny", *PROGRAM],
    "modules": ["callbacks", "data", "judge", "evaluation", "tiny", *PROGRAM],
    "data": ["modules", "callbacks", "metrics", "judge", "evaluation", "tiny", *PROGRAM],
    "callbacks": ["tiny", *PROGRAM],
    "tiny": ["modules", "callbacks", "metrics", "judge", "evaluation", *PROGRAM],
    "planning": ["metrics", "judge", "evaluation", "tiny", *PROGRAM],
    "commands": ["cli"],
}


def _imports(path: Path) -> set[str]:
    """Modules of this package that a file imports anywhere, type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("visplay.")}


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_a_layer_imports_only_what_is_below(layer):
    files = list((PACKAGE / layer).rglob("*.py"))
    assert files
    for path in files:
        for name in _imports(path):
            assert name.split(".")[1] not in FORBIDDEN[layer], f"{path.relative_to(PACKAGE)} imports {name}"
