"""One of several ranks: asks vLLM its part of the questions and writes what was sampled."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from live_bytes import Stream
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
    shapes = policy.weight_shapes()
    policy.shard(init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
    assert any(isinstance(weight, DTensor) for weight in policy.model.parameters())
    assert policy.weight_shapes() == shapes
    for name, weight in policy.weights():
        assert weight.equal(whole.pop(name))
    assert not whole
    stream = Stream(policy.weights())
    rollout._running.load(stream)
    assert stream.peak < 2 * stream.largest < stream.total / 4, (stream.peak, stream.largest, stream.total)
    policy.version += 1
    rollout.load(policy)


def abort_once(rollout):
    """Have vLLM abort a request: all ranks that answer it make it again, whoever of them asked."""
    answer = rollout._running._answer

    def abort(asked):
        rollout._running._answer = answer
        outputs = answer(asked)
        outputs[0].outputs[0].finish_reason = "abort"
        return outputs

    rollout._running._answer = abort


def main(directory: str, tensor_parallel_size: int, ranks: int) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["VISPLAY_TEST_RANK"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=ranks)
    policy = make_policy()
    before = ProcessState.take()
    rollout = VLLMRollout(replace(SETTINGS, tensor_parallel_size=tensor_parallel_size))
    prompts = prompts_of(policy)
    rollout.generate(policy, prompts[:1] if rank == 0 else [], SAMPLING)  # the others start with the first
    abort_once(rollout)
    groups = rollout.generate(policy, prompts[rank::ranks], SAMPLING)
    assert ProcessState.take().process_group is before.process_group
    assert ProcessState.take().environment == before.environment
    sampled = [[[list(each.token_ids), list(each.logps)] for each in group] for group in groups]
    Path(directory, f"{rank}.json").write_text(json.dumps(sampled))
    load_shards(policy, rollout)
    rollout.close()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
