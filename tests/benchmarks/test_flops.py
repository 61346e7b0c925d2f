import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import Work, forward_flops, packed_work, update_flops
from helpers import plain_image
from visplay.modules import Qwen2_5_VL
from visplay.modules.learner.group_batch import GroupBatch
from visplay.tiny import ANSWER, BASE
from visplay.types import Completion, Rollout


@pytest.fixture(scope="module")
def eager():
    policy = Qwen2_5_VL(str(BASE), attn_implementation="eager")  # its products are the ones that torch counts
    policy.load()
    policy.model.model.visual.config.fullatt_block_indexes = [1]
    policy.model.model.visual.fullatt_block_indexes = [1]
    return policy


def _prompt(policy, size):
    return policy.encode("one", ANSWER, plain_image(7, size), question="How many?")


@pytest.mark.parametrize("size", [(56, 56), (84, 42), (140, 70)])
def test_formula_counts_what_torch_counts(eager, size):
    prompt = _prompt(eager, size)
    batch = eager.collate([prompt])
    ids, tokens = batch.input_ids, eager.prompt_tokens(prompt)

    def loss():
        arguments = {
            "pixel_values": batch.pixels.values,
            "image_grid_thw": batch.pixels.grids,
            "mm_token_type_ids": (ids == eager.image_token_id).int(),
        }
        return eager.model(input_ids=ids, **arguments, use_cache=False).logits.sum()

    with FlopCounterMode(display=False) as forward:
        total = loss()
    with FlopCounterMode(display=False) as backward:
        total.backward()
    eager.zero_grad()
    grids = [tuple(grid) for grid in batch.pixels.grids.tolist()]
    work = Work(tokens, tokens**2, tokens, grids)
    counted = forward.get_total_flops()
    assert counted == sum(forward_flops(eager.model.config, work).values())
    assert counted + backward.get_total_flops() == update_flops(eager.model.config, work)


def test_packed_work_reads_prompts_once_and_no_last_token(eager):
    images = plain_image(1), plain_image(2)
    first = eager.encode("a", ANSWER, images[0], question="How many?")
    again = eager.encode("b", ANSWER, images[0], question="How many?")
    p = eager.prompt_tokens(first)
    answers = [Completion((5,) * n, (-1.0,) * n, "", True) for n in (1, 4)]
    rollout = Rollout((first, again), (tuple(answers), tuple(answers)))
    work = packed_work(eager, GroupBatch.collate(rollout, [p, p]))
    assert work.text_tokens == 2 * (p + 3)
    assert work.text_pairs == 2 * (p * (p + 1) // 2 + 3 * p + 6)
    assert work.head_rows == 10
    assert work.grids == [(1, 8, 8)]
