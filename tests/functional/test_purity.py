import ast
import subprocess
import sys
from pathlib import Path

import pytest

import visplay.functional

MODULES = sorted(Path(visplay.functional.__file__).parent.rglob("*.py"))
STANDARD = {"__future__", "collections", "dataclasses", "decimal", "fractions", "functools", "itertools", "math", "re"}
ALLOWED = STANDARD | {"threading", "typing", "math_verify", "numpy", "scipy", "torch"}
FORBIDDEN = ("lightning", "pytorch_lightning", "transformers", "vllm", "datasets", "requests", "math_verify", "sklearn")


def _imports(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_only_what_is_pure(path):
    names = _imports(ast.parse(path.read_text()))
    ours = {name for name in names if name.split(".")[0] == "visplay"}
    assert {name.split(".")[0] for name in names - ours} <= ALLOWED
    rooms = {".".join(name.split(".")[:2]) for name in ours}
    assert rooms <= {"visplay.types", "visplay.functional", "visplay.grading", "visplay.statistics"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_math_verify_only_where_it_is_needed(path):
    at_import = ast.Module([node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.FunctionDef)])
    assert "math_verify" not in {name.split(".")[0] for name in _imports(at_import)}


def test_importing_loads_no_framework():
    code = f"import sys, visplay.functional; print([name for name in {FORBIDDEN} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_all_names_are_there():
    assert all(hasattr(visplay.functional, name) for name in visplay.functional.__all__)
