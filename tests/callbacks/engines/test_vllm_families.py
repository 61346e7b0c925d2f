"""Real vLLM with a tiny model of every family that its CPU build has: names of weights, tokens of images, numbers."""

import pytest
import torch
from PIL import Image

from families import FAMILIES
from visplay.callbacks import EngineSettings, VLLMRollout
from visplay.prompts import Template
from visplay.types import Sampling

SETTINGS = EngineSettings(cache_gib=0.125, max_sequences=16, max_batched_tokens=1000, images_per_prompt=2)
TEMPLATE = Template(user="{question}", system="Be good.")
IMAGES = [Image.effect_noise(size, 90).convert("RGB") for size in [(56, 56), (80, 40), (30, 90)]]


@pytest.fixture(scope="module", params=["Qwen3-VL", "Idefics3", "SmolVLM2", "LLaVA-OneVision"])
def vlm(request, tmp_path_factory):
    tiny = FAMILIES[request.param]
    directory = tmp_path_factory.mktemp("tiny")
    tiny.write(directory)
    vlm = tiny.family(str(directory), max_pixels=56 * 84)
    vlm.load()
    if request.param != "LLaVA-OneVision":
        return vlm.eval()
    vlm.save(directory / "limited")  # vLLM takes a choice of canvases from a checkpoint only
    saved = tiny.family(str(directory / "limited"))
    saved.load()
    assert saved.most_image_tokens == vlm.most_image_tokens
    return saved.eval()


@torch.no_grad()
def gap(vlm, prompt, group):
    """Largest difference between reported and teacher-forced log-probabilities, nats."""
    gaps = []
    for completion in group:
        token_ids = torch.tensor(completion.token_ids)[None, None]
        logps, _ = vlm.logps([prompt], token_ids, torch.ones_like(token_ids, dtype=torch.bool))
        gaps.append((logps[0, 0] - torch.tensor(completion.logps)).abs().max().item())
    return max(gaps)


def test_vllm_holds_every_weight_and_samples_what_training_scores(vlm):
    """Names and checksums are compared by the engine after every load."""
    chosen = [IMAGES[:1], IMAGES[1:2], IMAGES[2:], IMAGES[:2], []]
    prompts = [vlm.encode(f"{i}", TEMPLATE, images, question="How many?") for i, images in enumerate(chosen)]
    rollout = VLLMRollout(SETTINGS)
    try:
        for seed in range(2):
            groups = rollout.generate(vlm, prompts, Sampling(n=3, max_new_tokens=8, seed=seed))
            gaps = [gap(vlm, prompt, group) for prompt, group in zip(prompts, groups, strict=True)]
            assert max(gaps) < 1e-4
            sampled = {token for group in groups for completion in group for token in completion.token_ids}
            assert not sampled & set(vlm.banned_token_ids.tolist())
            with torch.no_grad():
                for weight in vlm.model.parameters():
                    weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
            vlm.version += 1
    finally:
        rollout.close()
