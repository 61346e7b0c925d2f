"""What a run with vLLM in its process opens: sockets of this machine alone, which nobody is connected to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sockets import watch
from visplay.tiny import BASE

pytestmark = pytest.mark.timeout(900)  # a process that loads all there is

ROOT = Path(__file__).parents[3]
OPTIONS = [
    *("--data.n_images=6", "--data.heldout_questions=4", "--data.heldout_votes=2", "--self_play.iterations=1"),
    *(f"--model.{role}.grpo={{steps: 1, prompts_per_step: 2}}" for role in ("questioner", "reasoner")),
    "--self_play.curation={images: 4, questions_per_image: 2, low: 0, high: 1, gates: [], second_view: null}",
]


def test_sockets_are_of_this_machine(tmp_path):
    configs = [f"--config={ROOT / 'configs' / name}.yaml" for name in ("tiny", "vllm")]
    command = [sys.executable, "-m", "visplay", "fit", *configs, f"--model.vlm.path={BASE}", *OPTIONS]
    with (tmp_path / "log").open("wb") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    sockets = watch(process)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert sockets, "torch.distributed opens some"
    asked = {each for each in sockets if each[0] == "NONE" and each[4] == 53}  # UDP: the name server, vLLM's own name
    assert {(status, ip, other) for status, ip, other, *_ in sockets - asked} == {("LISTEN", "127.0.0.1", ())}
