import socket

import datasets
import huggingface_hub
import pyarrow.parquet as pq
import pytest

from data.rows import rows


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Whoever connects fails."""

    def reject(_, address):
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", reject)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def path(tmp_path):
    """A table of five rows."""
    pq.write_table(rows(5), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"
