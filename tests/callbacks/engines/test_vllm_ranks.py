"""Two ranks sample what one does: each with an engine of its own, or both sharing one copy of the weights."""

import json
import os
import subprocess
import sys

import pytest
import torch

import vllm_rank
from two_ranks import ROOT, assert_close, fit_on_ranks
from visplay.callbacks import VLLMRollout
from vllm_rank import SAMPLING, SETTINGS, make_policy, prompts_of

pytestmark = pytest.mark.timeout(900)  # two processes, which load all there is
TIMEOUT_SECONDS = 600


@pytest.fixture(scope="module")
def alone():
    """What one rank samples, as [[(ids, log-probabilities)]]."""
    rollout, policy = VLLMRollout(SETTINGS), make_policy()
    groups = rollout.generate(policy, prompts_of(policy), SAMPLING)
    rollout.close()
    return [[(each.token_ids, each.logps) for each in group] for group in groups]


@pytest.mark.parametrize("tensor_parallel_size", [1, 2])
def test_two_ranks_sample_what_one_does(alone, tmp_path, tensor_parallel_size):
    command = [sys.executable, vllm_rank.__file__, str(tmp_path), str(tensor_parallel_size), "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(command, env=environment | {"VISPLAY_TEST_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=TIMEOUT_SECONDS)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(error[-2000:] for error in errors)
    halves = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    together = [group for pair in zip(*halves, strict=True) for group in pair]
    for group, other in zip(alone, together, strict=True):
        for (ids, logps), (other_ids, other_logps) in zip(group, other, strict=True):
            assert list(ids) == other_ids
            assert list(logps) == pytest.approx(other_logps, abs=1e-5)


def test_a_run_on_two_ranks_with_sharded_weights_is_that_of_one(tmp_path):
    settings = "--rollout.init_args.engine={cache_gib: 0.125, max_sequences: 64}"
    vllm = [f"--config={ROOT / 'configs/vllm.yaml'}", settings]
    runs = fit_on_ranks(tmp_path, *vllm, names=["one", "sharded"], timeout_seconds=800)
    one, two = (directory for directory, _ in runs.values())
    generated = [(directory / "generated" / "iteration-1.parquet").read_bytes() for directory in (one, two)]
    assert generated[0] == generated[1]
    summaries = [json.loads((directory / "summary.json").read_text()) for directory in (one, two)]
    assert [row["iteration"] for row in summaries[0]] == [0, 1]
    for row, other in zip(*summaries, strict=True):
        assert other == pytest.approx(row, abs=5e-4)
    states = [torch.load(directory / "checkpoints" / "phase-01.ckpt")["state_dict"] for directory in (one, two)]
    assert_close(*states)
