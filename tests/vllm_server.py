"""vLLM's OpenAI server as a process of its own, ended with the test that started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from visplay.tiny import BASE

START_SECONDS = 240
DIE_WITH_ME = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"  # Linux
ENVIRONMENT = {
    **{"VLLM_USE_V2_MODEL_RUNNER": "0", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"},
    **{"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"},
}


@contextmanager
def serve_base(directory: Path, *arguments: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Serve the embedded base on this machine's CPU.

    Args:
        directory: Where the server's log is written.
        arguments: Options of the server besides those that every test needs.
        environment: Environment variables of the server besides those that every test needs.

    Yields:
        The server's address.
    """
    port, log = free_port(), directory / "log"
    command = [
        *(sys.executable, "-c", DIE_WITH_ME),
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(BASE)),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
        *("--kv-cache-memory-bytes", "134217728", "--max-model-len", "1024", "--block-size", "32"),
        *("--distributed-executor-backend", "uni", "--generation-config", "vllm", *arguments),
    ]
    settings = os.environ | ENVIRONMENT | environment
    with log.open("w") as output:
        process = subprocess.Popen(command, env=settings, stdout=output, stderr=output, start_new_session=True)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        _end(process)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(START_SECONDS):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


def _end(process: subprocess.Popen) -> None:
    process.terminate()  # lets it clear its shared memory
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
