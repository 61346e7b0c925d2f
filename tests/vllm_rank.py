"""One of two ranks: asks vLLM its half of the questions and writes what was sampled."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from visplay.callbacks import EngineSettings, VLLMRollout
from visplay.callbacks.engines.process_state import ProcessState
from visplay.modules import Qwen2_5_VL
from visplay.tiny import ANSWER, BASE
from visplay.tiny.splits import heldout
from visplay.types import Sampling

SAMPLING = Sampling(n=4, max_new_tokens=24, seed=3)
SETTINGS = EngineSettings(cache_gib=0.125, max_sequences=64)


def make_policy() -> Qwen2_5_VL:
    """The base, moved a little, so that the file on the disk is of no use."""
    torch.manual_seed(5)
    policy = Qwen2_5_VL(str(BASE))
    policy.load()
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    return policy.eval()


def prompts_of(policy):
    return [policy.encode(e.key, ANSWER, e.image, question=e.problem) for e in heldout(8)]


def load_shards(policy, rollout):
    """Weights that FSDP2 has split between the ranks arrive whole; the engine's checksums see to that."""
    whole = {name: weight.clone() for name, weight in policy.weights()}
    mesh = init_device_mesh("cpu", (2,))
    for layer in policy.model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(policy.model, mesh=mesh)
    assert any(isinstance(weight, DTensor) for weight in policy.model.parameters())
    gathered = dict(policy.weights())
    assert list(gathered) == list(whole)
    assert all(gathered[name].equal(weight) for name, weight in whole.items())
    policy.version += 1
    rollout.load(policy)


def main(directory: str, tensor_parallel_size: int) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["VISPLAY_TEST_RANK"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    policy = make_policy()
    before = ProcessState.take()
    rollout = VLLMRollout(replace(SETTINGS, tensor_parallel_size=tensor_parallel_size))
    groups = rollout.generate(policy, prompts_of(policy)[rank::2], SAMPLING)
    assert ProcessState.take().process_group is before.process_group
    assert ProcessState.take().environment == before.environment
    sampled = [[[list(each.token_ids), list(each.logps)] for each in group] for group in groups]
    Path(directory, f"{rank}.json").write_text(json.dumps(sampled))
    load_shards(policy, rollout)
    rollout.close()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
