"""Fixtures shared by the tests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import datasets
import pytest
import torch
import yaml
from hypothesis import settings

import marks
from data.benchmark_tables import CONFIGS, DirectoryHub
from judge_server import KEY, JudgeServer, Reply, Seen, honest
from visplay.commands import prepare
from visplay.modules import Qwen2_5_VL
from visplay.tiny import BASE

settings.register_profile("patient", deadline=None)  # the first call of math-verify takes a second
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    marks.mark(items)
    items.sort(key=marks.order)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """Tables are converted into a cache of the test run's own, and checks of models are noted there."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    monkeypatch.setenv("VISPLAY_CACHE", str(tmp_path_factory.getbasetemp() / "visplay"))


@pytest.fixture(scope="session")
def _loaded_base() -> Qwen2_5_VL:
    vlm = Qwen2_5_VL(str(BASE))
    vlm.load()
    return vlm


@pytest.fixture
def base(_loaded_base) -> Qwen2_5_VL:
    """The embedded base; a test that changes weights must take ``fresh_base``."""
    return _loaded_base


@pytest.fixture
def fresh_base() -> Qwen2_5_VL:
    vlm = Qwen2_5_VL(str(BASE))
    vlm.load()
    return vlm


@pytest.fixture
def serve(monkeypatch):
    """Start a judge's server and point the environment to it."""
    with ExitStack() as servers:

        def start(script: Callable[[Seen, int], Reply] = honest) -> JudgeServer:
            server = servers.enter_context(JudgeServer(script))
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            monkeypatch.setenv("OPENAI_API_KEY", KEY)
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            return server

        yield start


@pytest.fixture
def prepared(tmp_path):
    """The configuration of the eight with a directory of its own, prepared from a stand-in for the Hub."""
    directory = tmp_path / "prepared"
    override = tmp_path / "directory.yaml"
    override.write_text(yaml.safe_dump({"data": {"init_args": {"benchmarks": {"directory": str(directory)}}}}))
    hub = DirectoryHub(tmp_path / "hub")
    arguments = [f"--config={CONFIGS / 'benchmarks.yaml'}", f"--config={override}"]
    prepare.run(arguments, hub)
    return arguments, hub, directory


@pytest.fixture
def suite(prepared):
    return prepare.read_suite([argument.removeprefix("--config=") for argument in prepared[0]])
