"""Fewer items than ranks: in a step, a curation and a validation, with images that are too large for the context."""

import json

import pytest
import torch

from benchmarks.ranks import SMALL
from helpers import plain_image
from two_ranks import ON_TWO, assert_close, fit_on_ranks, kill_all, start_fit
from visplay.tiny.self_play_images import write_images

pytestmark = pytest.mark.timeout(900)  # five processes, which load all there is
FEW = [
    "--self_play.curation={images: 1, images_per_batch: 1, questions_per_image: 4, low: 0.0, high: 1.0}",
    "--self_play.curation.gates=[]",
    "--model.questioner.init_args.grpo.prompts_per_step=1",
    "--model.reasoner.init_args.grpo.prompts_per_step=1",
    "--model.reasoner.init_args.grpo.prompts_per_update=1",
    "--data={heldout_questions: 2, validation_batch_size: 8}",
]


def on_images(directory, good, too_large):
    """Options of a run on so many images of the small world, and so many that the context has no room for."""
    directory.mkdir()
    if good:
        write_images(directory, good, seed=0)
    for number in range(too_large):
        plain_image(number, (98, 98)).save(directory / f"large-{number}.png")
    lengths = {"questioner": 64, "reasoner": 16}
    policy = "--model.init_args.vlm.init_args={max_pixels: 9800, max_context_tokens: 115}"
    most = [f"--model.{role}.init_args.grpo.max_new_tokens={tokens}" for role, tokens in lengths.items()]
    return [f"--data.images={directory}", policy, *most]


def test_the_run_is_that_of_one_rank(tmp_path):
    further = [*FEW, *on_images(tmp_path / "images", good=3, too_large=3)]
    one, *several = (directory for directory, _ in fit_on_ranks(tmp_path, further=further).values())
    assert len(several) == 2
    for two in several:
        for name in ("generated/iteration-1.parquet", "generated/iteration-1/00000.jsonl"):
            assert (one / name).read_bytes() == (two / name).read_bytes()
        rows, others = (json.loads((run / "summary.json").read_text()) for run in (one, two))
        for row, other in zip(rows, others, strict=True):
            assert other == pytest.approx(row, abs=5e-4)
        states = [torch.load(run / "checkpoints" / "phase-01.ckpt")["state_dict"] for run in (one, two)]
        assert_close(*states)


def test_images_that_are_all_too_large_end_the_run_with_the_reason(tmp_path):
    options = on_images(tmp_path / "images", good=0, too_large=4)
    run = start_fit(tmp_path, *SMALL, *options, *ON_TWO, "--trainer.num_sanity_val_steps=0")
    try:
        _, said = run.communicate(timeout=300)
    finally:
        kill_all(run)
    assert run.returncode == 2, said[-3000:]
    assert said.count("none of the 4 can be used") == 1
    assert "Traceback" not in said
