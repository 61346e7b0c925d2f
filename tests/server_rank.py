"""One of two ranks that share servers of vLLM, and a rank alone: what they sample, and what they raise."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from two_ranks import be_rank
from visplay.callbacks.engines.engine import RolloutError
from visplay.callbacks.engines.vllm_server import VLLMServerRollout
from visplay.callbacks.engines.vllm_server_client import RequestLimits
from visplay.callbacks.engines.vllm_server_transfer import TransferSettings
from visplay.ranks import rank, world_size
from vllm_rank import SAMPLING, make_policy, prompts_of

SETTINGS = "VISPLAY_TEST_SERVERS"  # environment variable: what of each test in JSON


def sample() -> dict[str, Any]:
    """The samples of this rank's prompts, before and after the weights have changed and FSDP2 has split them."""
    settings = json.loads(os.environ[SETTINGS])
    policy = make_policy()
    policy.limit_pixels(3136, 12544)  # of the servers
    engine = VLLMServerRollout(
        settings["urls"],
        token_variable=settings["token_variable"],
        transfer=TransferSettings(part_mib=1),
        limits=RequestLimits(request_seconds=60, retries=1, wait_seconds=0),
    )
    prompts = prompts_of(policy)
    said = {"first": _sampled(engine, policy, prompts[rank() :: world_size()])}
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.01)
    policy.version += 1
    if world_size() > 1:
        mesh = init_device_mesh("cpu", (2,))
        for layer in policy.model.model.language_model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(policy.model, mesh=mesh)
    said["second"] = _sampled(engine, policy, prompts if rank() == world_size() - 1 else [])
    engine.close()
    for name, url in settings["broken"].items():
        said[name] = _raised(url, policy, prompts)
    return said


def _sampled(engine: VLLMServerRollout, policy: Any, prompts: list) -> list:
    groups = engine.generate(policy, prompts, SAMPLING)
    return [[(each.token_ids, each.logps) for each in group] for group in groups]


def _raised(url: str, policy: Any, prompts: list) -> str:
    """What a rank raises where the last one alone has prompts, and the server fails."""
    engine = VLLMServerRollout(
        url, transfer=TransferSettings(part_mib=1), limits=RequestLimits(retries=0), verify=False
    )
    try:
        engine.generate(policy, prompts if rank() == world_size() - 1 else [], SAMPLING)
    except RolloutError as error:
        return str(error)
    finally:
        engine.close()
    return "nothing"


if __name__ == "__main__":
    be_rank(sample)
