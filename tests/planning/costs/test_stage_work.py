"""Work and network bytes of stages, with numbers worked out by hand."""

import pickle
import random
from dataclasses import replace

import pytest
import torch

from visplay.planning.activations import Block
from visplay.planning.costs.cost_model import Rates, Work
from visplay.planning.costs.operations import Reading, forward_operations, training_operations
from visplay.planning.costs.stage_work import (
    EngineMemory,
    Learned,
    Sampled,
    divided,
    load_work,
    sampling_work,
    update_work,
)
from visplay.planning.costs.traffic import completion_bytes, ddp_update_bytes, fsdp_update_bytes, tensor_parallel_bytes
from visplay.planning.memory import Shape, Training
from visplay.ranks import sum_gradients
from visplay.types import Completion

BLOCK = Block(width=8, queries=8, keys=4, heads=2, inner=16, gated=True, weights=500, largest=128)
PARTS = {"vision_tower": 1000, "projector": 100, "language_model": 2300}
SHAPE = Shape(
    BLOCK, 3, BLOCK, 2, vocabulary=100, tied=True, parts=PARTS
)  # 3 layers of text, 2 of vision, a head of 800


def _learned(prompts=4, tokens=10, budget=100, updates=1, scores=0):
    return Learned(
        prompts=prompts,
        patches=16,
        prompt_tokens=20,
        group=2,
        tokens=tokens,
        updates=updates,
        scores=scores,
        tokens_per_micro_batch=budget,
    )


def test_prompts_are_read_once_and_completions_decoded_in_rounds():
    sampled = Sampled(images=2, patches=16, prompts=6, shared_tokens=20, own_tokens=4, samples=5, tokens=10, slots=15)
    work = sampling_work(SHAPE, sampled, EngineMemory(weight_bytes=2, cached_bytes=48))
    before = 30 * sum(range(25, 35))  # of 30 completions, each token sees the prompt and what was decoded
    read = Reading(
        tokens=2 * 20 + 6 * 4 + 30 * 10,
        pairs=2 * 210 + 6 * (21 + 22 + 23 + 24) + before,
        scored=6 + 300,
        images=2,
        patches=16,
    )
    assert work.operations == forward_operations(SHAPE, read)
    passes = 2 * 10  # thirty completions by fifteen
    assert work.moved_bytes == passes * 2 * (3 * 500 + 800) + before * 48
    assert work.layers == passes * 3 + 2 * (3 + 2)


def test_vllm_shares_whole_blocks():
    sampled = Sampled(images=1, patches=0, prompts=2, shared_tokens=20, own_tokens=4, samples=3, tokens=1, slots=6)
    whole, blocks = (sampling_work(SHAPE, sampled, EngineMemory(2, 48, block)) for block in (1, 8))
    tokens = 16 + 6 * 8 - (20 + 2 * 4)  # two blocks; the third is full, but the last token is always read
    pairs = 136 + 6 * sum(range(17, 25)) - (210 + 2 * sum(range(21, 25)))
    more = Reading(tokens=tokens, pairs=pairs, scored=0)
    assert blocks.operations - whole.operations == forward_operations(SHAPE, more)
    assert (blocks.moved_bytes, blocks.layers) == (whole.moved_bytes, whole.layers)


def test_nothing_to_sample_is_no_work():
    assert sampling_work(SHAPE, Sampled(0, 16, 0, 20, 4, 5, 10, 15), EngineMemory(2, 48)) == Work()


def test_engines_are_dealt_whole_images():
    sampled = Sampled(images=10, patches=16, prompts=80, shared_tokens=20, own_tokens=4, samples=5, tokens=10, slots=15)
    of_one = divided(sampled, engines=4)
    assert (of_one.images, of_one.prompts) == (3, 24)


@pytest.mark.parametrize(
    ("prompts", "tokens", "budget", "parts", "micro_batches"),
    [
        (4, 10, 100, 1, 2),  # groups of 40 tokens, two at a time
        (4, 10, 40, 1, 4),
        (4, 10, 39, 2, 8),  # one completion of ten behind each prompt of twenty
        (4, 40, 50, 2, 8),  # none has room, and one is the least
        (0, 10, 100, 1, 1),  # takes part without any
    ],
)
def test_micro_batches(prompts, tokens, budget, parts, micro_batches):
    learned = _learned(prompts, tokens, budget)
    assert (learned.parts, learned.micro_batches(prompts)) == (parts, micro_batches)


def test_an_update():
    learned = _learned(budget=39, updates=2, scores=2)
    read = learned.reading
    assert read.tokens == 8 * 20 + 8 * 9  # each of eight parts reads the prompt again; no last token
    assert read.pairs == 8 * 210 + 8 * sum(range(21, 30))
    assert (read.scored, read.images) == (80, 8)
    work = update_work(SHAPE, learned, Training(), shards=4)
    assert work.operations == training_operations(SHAPE, read, Training()) + 2 * forward_operations(SHAPE, read)
    micro_batches = 2 * 2 * 2  # updates, prompts of each, parts
    assert work.moved_bytes == 3400 * (2 * 40 / 4 + micro_batches * 20)
    assert work.layers == 5 * (3 * micro_batches + 2 * 8)
    checkpointed = update_work(SHAPE, learned, Training(checkpointed=True), shards=4)
    assert checkpointed.layers - work.layers == 5 * micro_batches


def test_a_load_and_its_seconds():
    work = load_work(SHAPE, weight_bytes=2)
    assert work == Work(moved_bytes=3400 * 8, layers=5)
    assert Rates(1.0, 3400.0, float("inf")).seconds(work) == 8
    assert Work(1, 2, 3) + Work(1, 1, 1).times(2) == Work(3, 4, 5)


def test_network_bytes():
    assert ddp_update_bytes(1000, updates=3, ranks=4) == 3 * 2 * 4000 * 3 / 4
    assert ddp_update_bytes(1000, updates=3, ranks=1) == 0
    learned = _learned(updates=2, scores=1)  # two micro-batches, one in each update
    gathered = 2 * 4 * (2 * 3400 - (3400 - 5 * 500))  # twice, but what is in no layer once
    scoring = 2 * 4 * 3400
    assert fsdp_update_bytes(SHAPE, 3400, learned, ranks=4) == (gathered + 2 * 4 * 3400 + scoring) * 3 / 4
    adapted = replace(SHAPE, adapters={"language_model": 50})
    summed = ddp_update_bytes(50, updates=2, ranks=4)
    assert fsdp_update_bytes(adapted, 50, learned, ranks=4) == (gathered + scoring) * 3 / 4 + summed
    assert completion_bytes(10, 20, ranks=2) == 10 * 20 * 18 / 2
    assert tensor_parallel_bytes(SHAPE, 10, 2, ranks=2) == 2 * 2 * 3 * 10 * 8 * 2 / 2
    assert tensor_parallel_bytes(SHAPE, 10, 2, ranks=1) == 0


def test_what_ranks_sum_is_what_is_planned(monkeypatch):
    sent = []
    monkeypatch.setattr("visplay.ranks.world_size", lambda: 2)
    monkeypatch.setattr("visplay.ranks.distributed.all_reduce", sent.append)
    weights = [torch.nn.Parameter(torch.zeros(size)) for size in (3, 1000)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    sum_gradients(weights)
    summed = sum(tensor.nbytes for tensor in sent if tensor.is_floating_point())
    assert ddp_update_bytes(1003, updates=1, ranks=2) == 2 * summed / 2


def test_a_pickled_completion():
    draw = random.Random(0)
    ids, logps = (tuple(draw.randrange(151_000) for _ in range(512)), tuple(draw.random() for _ in range(512)))
    pickled = len(pickle.dumps(Completion(ids, logps, "word " * 450, True)))
    assert completion_bytes(1, 512, ranks=2) == pytest.approx(pickled / 2, rel=0.1)
