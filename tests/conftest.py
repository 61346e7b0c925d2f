"""Fixtures shared by the tests."""

from __future__ import annotations

import datasets
import pytest
import torch

from visplay.modules import Qwen2_5_VL
from visplay.tiny import BASE


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """Tables are converted into a cache of the test run's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


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
