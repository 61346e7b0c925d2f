import pytest
import torch

from helpers import plain_image
from visplay.modules.policy.prefill import SharedPrefixes, find_shared_prefixes, group_by_images
from visplay.prompts import ANSWER, ASK
from visplay.types import Prompt

QUESTIONS = ["Is there a red circle?", "b2", "How many small blue triangles are there in row 3?", "x y", "Where?"]


@pytest.fixture
def read(base, monkeypatch):
    """Shapes (sequences, tokens) of all passes of the language model."""
    passes = []
    run = type(base).language_model

    def noted(self, embeddings, *rest):
        passes.append(tuple(embeddings.shape[:2]))
        return run(self, embeddings, *rest)

    monkeypatch.setattr(type(base), "language_model", noted)
    return passes


def _mixed(vlm):
    """Two images with several questions each, in turns; then a lone image, and two prompts without one."""
    images = [plain_image(40), plain_image(90, (40, 56))]
    shared = [vlm.encode(f"{i}/{j}", ANSWER, images[i], question=q) for j, q in enumerate(QUESTIONS) for i in (0, 1)]
    lone = vlm.encode("lone", ANSWER, plain_image(7), question="How many?")
    return [*shared, lone, vlm.encode("blind", ANSWER, None, question="?"), Prompt("short", (5, 6), ())]


def _by_hand(vlm):
    token, image = vlm.image_token_id, plain_image(0)  # 16 tokens
    ids = [(5, token, 7, 8, 9), (6, token, 7, 8), (5, token, 7, 10), (5, 6, 7), (5,)]
    return [Prompt(str(i), row, (image,) if token in row else ()) for i, row in enumerate(ids)]


def _completions(n, g, t):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 60, (n, g, t), generator=generator)
    return ids, torch.arange(t) < torch.randint(1, t + 1, (n, g), generator=generator)[..., None]


def test_prefixes_by_hand(base):
    prompts = _by_hand(base)
    assert find_shared_prefixes(base, prompts[3:]) is None
    assert group_by_images(base, prompts) == [[0, 2], [1], [3], [4]]
    prefixes = find_shared_prefixes(base, prompts)
    assert prefixes == SharedPrefixes(
        tokens=[18, 17, 1, 0], sources=[0, 1, 3, 4], of_prompts=[0, 1, 0, 2, 3], rest_tokens=2
    )
    assert prefixes.read_tokens == 4 * 18 + 5 * 2


def test_images_are_the_same_by_identity_and_order(base):
    image, one, other = base.image_token_id, plain_image(0), plain_image(0)
    pairs = [(one, other), (other, one), (one, one), (one, other)]
    prompts = [Prompt(str(i), (image, image, i), pair) for i, pair in enumerate(pairs)]
    assert group_by_images(base, prompts) == [[0, 3], [1], [2]]
    assert find_shared_prefixes(base, prompts[:3]) is None
    assert find_shared_prefixes(base, prompts).tokens == [32, 32, 32]


def test_every_prompt_keeps_a_token_of_its_own_and_no_image_is_cut(base):
    token, image = base.image_token_id, plain_image(0)
    ending = [Prompt(key, (5, 6, token), (image,)) for key in "ab"]
    assert find_shared_prefixes(base, ending) == SharedPrefixes([2], [0], [0, 0], rest_tokens=16)
    nested = [Prompt("a", (token, 5), (image,)), Prompt("b", (token, 5, 6, 7), (image,))]
    assert find_shared_prefixes(base, nested) == SharedPrefixes([16], [0], [0, 0], rest_tokens=3)


@torch.no_grad()
def test_a_shared_prefill_and_its_extension_are_those_of_each_prompt_alone(base, read):
    prompts = _mixed(base)
    prefixes = find_shared_prefixes(base, prompts)
    hidden, context = base.prefill(prompts)
    assert read == [(5, max(prefixes.tokens)), (len(prompts), prefixes.rest_tokens)]
    assert sum(rows * tokens for rows, tokens in read) == prefixes.read_tokens
    more = torch.arange(3 * len(prompts)).view(-1, 3) + 20
    extended, longer = base.extend(context.take(torch.arange(len(prompts)).flip(0)), more.flip(0))
    extended, _ = base.extend(longer, more.flip(0))
    for row, prompt in enumerate(prompts):
        first, alone = base.prefill([prompt])
        assert context.next_position[row] == alone.next_position[0]
        assert context.mask[row].sum() == alone.mask.sum() == base.prompt_tokens(prompt)
        torch.testing.assert_close(hidden[row], first[0], rtol=0, atol=1e-5)
        _, alone = base.extend(alone, more[row, None])
        expected, _ = base.extend(alone, more[row, None])
        torch.testing.assert_close(extended.flip(0)[row], expected[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_nothing_shared_or_too_little_is_one_pass(base, read):
    image = plain_image(1)
    for prompts in (
        [base.encode(str(i), ANSWER, plain_image(i), question=q) for i, q in enumerate(QUESTIONS)],
        [base.encode(str(i), ANSWER, None, question=q) for i, q in enumerate(QUESTIONS)],
        [base.encode(str(i), template, image, **fields) for i, (template, fields) in enumerate(_OPENINGS)],
        [Prompt(q, (5, base.image_token_id, *range(6 + i, 90)), (image,)) for i, q in enumerate(QUESTIONS)],
    ):
        read.clear()
        base.prefill(prompts)
        assert read == [(len(prompts), max(map(base.prompt_tokens, prompts)))]


_OPENINGS = [(ASK, {}), (ANSWER, {"question": "Where?"})]


def test_gradients_through_a_shared_prefill(fresh_base, monkeypatch):
    monkeypatch.setattr(type(fresh_base), "why_not_packed", lambda self: "it is compared")
    prompts = _mixed(fresh_base)
    ids, mask = _completions(len(prompts), 2, 6)
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) * mask

    logps, entropies = fresh_base.logps(prompts, ids, mask, entropy_gradient=True)
    ((logps + 0.1 * entropies) * weights).sum().backward()
    shared = {name: weight.grad.clone() for name, weight in fresh_base.named_parameters()}
    fresh_base.zero_grad()
    for row, prompt in enumerate(prompts):
        one = slice(row, row + 1)
        alone, spread = fresh_base.logps([prompt], ids[one], mask[one], entropy_gradient=True)
        torch.testing.assert_close(logps[one], alone, rtol=0, atol=1e-5)
        ((alone + 0.1 * spread) * weights[one]).sum().backward()
    for name, weight in fresh_base.named_parameters():
        assert (weight.grad - shared[name]).norm() <= 1e-4 * weight.grad.norm(), name


def test_the_same_prompt_without_an_image_is_read_once(base):
    prompts = [Prompt(key, (5, 6, 7), ()) for key in "abc"] + [Prompt("d", (5, 6), ())]
    assert group_by_images(base, prompts) == [[0], [1], [2], [3]]  # so that several engines share them
    assert group_by_images(base, prompts, same_texts=True) == [[0, 1, 2], [3]]
    assert find_shared_prefixes(base, prompts) == SharedPrefixes([2, 1], [0, 3], [0, 0, 0, 1], rest_tokens=1)
