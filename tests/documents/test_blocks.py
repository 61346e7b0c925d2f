"""Every command and snippet of the documents is parsed or run, or says in a comment before it why it is not."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from documents.blocks import BLOCKS, ROOT, blocks_of
from documents.commands import commands, settings_of, split_configs, visplay_words
from visplay import cli

SHELL = ("bash", "sh")
RUN = [block for block in BLOCKS if block.not_run is None]
OTHERS = ("export", "pre-commit", "source", "tensorboard")
"""Programs of which there is nothing to check here."""
COMMANDS = sorted({each for block in RUN if block.language in SHELL for each in commands(block)})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """The repository as a reader has it, with the files that the documents show or tell him to write."""
    directory = tmp_path_factory.mktemp("workspace")
    for name in ("visplay", "configs", "examples", "docs", "tests", "setup.py"):
        (directory / name).symlink_to(ROOT / name)
    (directory / "mine.yaml").write_text("model: {init_args: {seed: 3}}\n")
    for block in BLOCKS:
        if block.file is not None:
            (directory / block.file).write_text(block.text)
    return directory


@pytest.fixture(autouse=True)
def _in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(str(workspace))
    monkeypatch.setattr(sys, "argv", ["visplay"])
    yield
    torch.use_deterministic_algorithms(False)


def build(arguments):
    """What the arguments of ``fit`` configure; a wrong one ends the test with the parser's words."""
    return cli.instantiate(list(arguments))


def batches(options):
    """Options that several commands give, put together where no two set the same part, as parsing is slow."""
    together = []
    for each in sorted(set(options)):
        parts = {".".join(re.split(r"[=+]", word)[0].split(".")[:2]) for word in each}
        fitting = next((batch for batch in together if not parts & batch[0]), None)
        if fitting is None:
            together.append((parts, [each]))
        else:
            fitting[0].update(parts)
            fitting[1].append(each)
    return [each for _, each in together]


def check_module(words):
    """A module that is run with ``python -m`` is there and knows the options."""
    name, *rest = words
    spec = find_spec(f"{name}.__main__") if find_spec(name).submodule_search_locations else find_spec(name)
    source = Path(spec.origin).read_text()
    for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
        assert f'"{option}"' in source, f"{name} has no option {option}"


def check_command(words):
    program, *rest = words
    name = Path(program).name
    if (given := visplay_words(words)) is not None:
        configs, _ = split_configs(settings_of(given) or ())
        assert all(Path(config.partition("=")[2]).is_file() for config in configs)
    elif name.startswith("python") and rest[0] == "-m":
        check_module(rest[1:])
    elif name.startswith("python"):
        assert Path(rest[0]).is_file()
    elif name == "make":
        targets = re.findall(r"^([a-z ]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert rest[0] in {name for target in targets for name in target.split()}
    elif name == "pip":
        asked = re.findall(r"\[([\w,]+)\]", " ".join(rest))
        assert {extra for each in asked for extra in each.split(",")} <= _extras()
    elif name == "pytest":
        assert all((ROOT / word).exists() for word in rest if "/" in word)
    elif name not in OTHERS:
        pytest.fail(f"{' '.join(words)}: neither checked here nor tagged `<!-- not run: why -->`")


def _extras():
    tree = ast.parse((ROOT / "setup.py").read_text())
    found = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "EXTRAS")
    return set(ast.literal_eval(found))


@pytest.mark.parametrize(("words", "variables"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_a_command_is_known(words, variables):
    check_command(words)
    own = [word for word in words if re.search(r"=(examples|own_\w+)\.", word)]
    assert not own or "PYTHONPATH=." in variables, f"{own}: found only with PYTHONPATH=."


@pytest.mark.parametrize("base", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_its_settings_are_accepted(base):
    """Those of configuration files alone are built by test_configs.py and recipes/test_overlays.py."""
    given = [settings_of(words) for each, _ in COMMANDS if (words := visplay_words(each)) is not None]
    asked = [split_configs(settings) for settings in given if settings]
    asked = [(configs, options) for configs, options in asked if configs[:1] == (f"--config=configs/{base}",)]
    for configs in dict.fromkeys(configs for configs, _ in asked):
        for batch in batches(options for each, options in asked if each == configs and options):
            _build_each(configs, batch)


def _build_each(configs, batch):
    """Build all at once; where that fails, one by one, to say which it is."""
    try:
        build([*configs, *(word for options in batch for word in options)])
    except SystemExit:
        for options in batch:
            build([*configs, *options])


def test_what_sets_one_part_is_not_parsed_together():
    options = [("--a.b.c=1",), ("--a.b+=2", "--d=3"), ("--e=4",), ("--a.b.c=1",)]
    assert batches(options) == [[("--a.b+=2", "--d=3"), ("--e=4",)], [("--a.b.c=1",)]]


@pytest.mark.parametrize("block", [each for each in RUN if each.language == "yaml"], ids=str)
def test_yaml_is_a_configuration(block, workspace):
    (workspace / "block.yaml").write_text(block.text)
    given = yaml.safe_load(block.text)
    whole = "class_path" in given.get("model", {})
    base = "qwen2_5_vl_3b" if "data" in given else "tiny"  # the small world has images of its own
    build([*([] if whole else [f"--config=configs/{base}.yaml"]), "--config=block.yaml"])


@pytest.mark.parametrize("block", [each for each in RUN if each.language == "python"], ids=str)
def test_python_runs(block):
    exec(compile(block.text, str(block), "exec"), {"__name__": "documents"})


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.language == "python" and each.not_run], ids=str)
def test_what_is_not_run_names_what_there_is(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.language == "json"], ids=str)
def test_json_parses(block):
    json.loads(block.text)


def test_no_other_language_goes_unseen():
    seen = {*SHELL, "yaml", "python", "json", "text"}
    assert [str(block) for block in RUN if block.language not in seen] == []


def test_blocks_and_tags_are_found():
    tagged = "<!-- not run: needs a GPU -->\n\n  ```bash\n  ls\n  ```\n"
    shown = "<!-- file: a.py -->\n```python\nx = 1\n```\n```\nno\n```\n"
    first, second = blocks_of("p.md", tagged + shown)
    assert (first.language, first.text, first.not_run, str(first)) == ("bash", "ls", "needs a GPU", "p.md:4")
    assert (second.text, second.file, second.not_run) == ("x = 1", "a.py", None)
