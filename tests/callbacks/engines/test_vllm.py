"""Real vLLM in this process: what it samples from, what it leaves behind, and what happens when it fails."""

import random
import time
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from live_bytes import Stream
from visplay.callbacks import EngineSettings, RolloutError, VLLMRollout, WrongWeightsError
from visplay.callbacks.engines import vllm_engine
from visplay.callbacks.engines.process_state import ProcessState
from visplay.modules import Qwen2_5_VL
from visplay.modules.policy.prefill import find_shared_prefixes
from visplay.prompts import ANSWER as LONG_ANSWER
from visplay.prompts import Template
from visplay.tiny import ANSWER, BASE
from visplay.tiny.splits import heldout
from visplay.types import Sampling

SETTINGS = EngineSettings(cache_gib=0.125, max_sequences=64, max_batched_tokens=1000)
SAMPLING = Sampling(n=4, max_new_tokens=24, seed=3)


@pytest.fixture(scope="module")
def rollout():
    rollout = VLLMRollout(SETTINGS)
    yield rollout
    rollout.close()


@pytest.fixture
def policy(fresh_base):
    fresh_base.name = f"policy at {id(fresh_base)}"  # another one in every test
    return fresh_base.eval()


def asked(policy, questions=6):
    """Prompts with images of several sizes, and one with none."""
    generator = np.random.default_rng(0)
    sizes = [(56, 56), (56, 56), (112, 84), (70, 140)]
    images = [Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    examples = heldout(questions)
    prompts = [
        policy.encode(f"{number}", ANSWER, images[number % len(images)], question=example.problem)
        for number, example in enumerate(examples)
    ]
    return [*prompts, policy.encode("blind", ANSWER, None, question="How many red circles are there?")]


@torch.no_grad()
def gap(policy, prompts, groups, temperature=1.0):
    """Largest difference between reported and teacher-forced log-probabilities, nats."""
    width = max(len(each.token_ids) for group in groups for each in group)
    ids = torch.zeros(len(groups), len(groups[0]), width, dtype=torch.long)
    mask, reported = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.float)
    for row, group in enumerate(groups):
        for column, each in enumerate(group):
            tokens = len(each.token_ids)
            ids[row, column, :tokens] = torch.tensor(each.token_ids)
            reported[row, column, :tokens] = torch.tensor(each.logps)
            mask[row, column, :tokens] = True
    scored, _ = policy.logps(prompts, ids, mask, temperature)
    return float((scored - reported)[mask].abs().max())


@torch.no_grad()
def perturb(policy, scale=0.02):
    for weight in policy.model.parameters():
        weight.add_(scale * torch.randn_like(weight))
    policy.version += 1


def test_the_process_is_left_as_it_was(rollout, policy):
    before = ProcessState.take()
    first = (random.random(), float(np.random.rand()), float(torch.rand(())))
    before.restore()
    rollout.generate(policy, asked(policy), SAMPLING)
    after = ProcessState.take()
    for name in ("environment", "functions", "threads", "affinity", "default_dtype", "process_group"):
        assert getattr(after, name) == getattr(before, name), name
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == first
    assert not torch.distributed.is_initialized()


def test_it_samples_from_the_trainers_weights_whichever_policy_is_asked(rollout, policy):
    other = Qwen2_5_VL(str(BASE))
    other.load()
    other.eval().name = "other"
    prompts = asked(policy)
    repeated = [replace(prompts[0], key="again"), *prompts]
    for _ in range(5):
        for each in (policy, other):
            perturb(each)
            groups = rollout.generate(each, repeated, SAMPLING)
            assert rollout.loaded == (each.name, each.version)
            assert gap(each, repeated, groups) < 1e-4


def test_the_trainers_autocast_is_not_the_engines(rollout, policy):
    prompts = asked(policy)
    with torch.autocast("cpu", torch.bfloat16):
        groups = rollout.generate(policy, prompts, SAMPLING)
    assert gap(policy, prompts, groups) < 1e-4


def test_log_probabilities_are_those_before_truncation(rollout, policy):
    sampling = replace(SAMPLING, temperature=0.7, top_p=0.8, top_k=20)
    prompts = asked(policy)
    assert gap(policy, prompts, rollout.generate(policy, prompts, sampling), 0.7) < 1e-4


def test_greedy_is_the_likeliest_token_of_the_training_forward(rollout, policy):
    (group, *_) = rollout.generate(policy, asked(policy), replace(SAMPLING, n=2, temperature=0.0))
    assert group[0] == group[1]
    hidden, _ = policy.prefill(asked(policy)[:1])
    assert group[0].token_ids[0] == int(policy.logits(hidden).argmax())


def test_samples_follow_from_the_seed_in_any_order(rollout, policy):
    prompts = asked(policy)
    groups = rollout.generate(policy, prompts, SAMPLING)
    backwards = rollout.generate(policy, prompts[::-1], SAMPLING)
    assert [[each.token_ids for each in g] for g in groups] == [[each.token_ids for each in g] for g in backwards[::-1]]
    (alone,) = rollout.generate(policy, prompts[2:3], replace(SAMPLING, n=2))
    assert [each.token_ids for each in alone] == [each.token_ids for each in groups[2][:2]]
    others = rollout.generate(policy, prompts, replace(SAMPLING, seed=4))
    assert [[each.token_ids for each in g] for g in groups] != [[each.token_ids for each in g] for g in others]


def test_what_prompts_about_one_image_begin_with_is_computed_once(rollout, policy, monkeypatch):
    template = Template(system=LONG_ANSWER.system, user="Answer this question about the image in a word: {question}")
    image = asked(policy)[0].images[0]
    prompts = [policy.encode(q, template, image, question=q) for q in ("Where?", "Is it red?", "How many are there?")]
    (front,) = find_shared_prefixes(policy, prompts).tokens
    rollout.load(policy)
    answer, outputs = rollout._running.generate, []
    monkeypatch.setattr(rollout._running, "generate", lambda *asked: outputs.extend(answer(*asked)) or outputs)
    rollout.generate(policy, prompts, replace(SAMPLING, n=1, max_new_tokens=2))
    whole_blocks = front // 32 * 32
    assert prompts[0].token_ids.index(policy.image_token_id) + policy.image_tokens(image) <= whole_blocks
    assert [output.num_cached_tokens for output in outputs] == [0, whole_blocks, whole_blocks]


def test_more_prompts_than_one_pass_takes(rollout, policy):
    """On a CPU none is read in pieces, which a request with a seed would not survive."""
    many = [replace(prompt, key=f"{copy}/{prompt.key}") for copy in range(40) for prompt in asked(policy)]
    groups = rollout.generate(policy, many, replace(SAMPLING, n=2, max_new_tokens=8))
    assert gap(policy, many, groups) < 1e-4


def test_control_tokens_are_never_sampled(rollout, policy):
    with torch.no_grad():
        policy.head_weight[policy.banned_token_ids] *= 50  # it would like nothing better
    policy.version += 1
    groups = rollout.generate(policy, asked(policy), SAMPLING)
    assert {token for group in groups for each in group for token in each.token_ids}.isdisjoint(
        policy.banned_token_ids.tolist()
    )
    assert gap(policy, asked(policy), groups) < 1e-4


def test_completions_are_cut_at_the_limit_and_end_with_their_stop_token(rollout, policy):
    for group in rollout.generate(policy, asked(policy), replace(SAMPLING, max_new_tokens=5)):
        for each in group:
            assert each.finished == (each.token_ids[-1] in policy.stop_token_ids)
            assert each.finished or len(each.token_ids) == 5


def learn(policy):
    """One real step of AdamW at the learning rate of the published method."""
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-6, weight_decay=0.0)
    ids = torch.tensor([[[20, 30, 40]]])
    logps, _ = policy.logps(asked(policy)[:1], ids, torch.ones_like(ids, dtype=torch.bool))
    (-logps.sum()).backward()
    optimizer.step()
    policy.version += 1


@pytest.mark.parametrize(
    "skipped", ["model.visual.", "model.language_model.embed_tokens.", "model.language_model.layers.2.", "norm.weight"]
)
def test_a_load_that_skips_a_part_is_caught(rollout, policy, monkeypatch, skipped):
    """The embeddings are the head as well."""
    rollout.load(policy)
    learn(policy)
    load = rollout._running.load
    monkeypatch.setattr(rollout._running, "load", lambda weights: load(w for w in weights if skipped not in w[0]))
    with pytest.raises(WrongWeightsError, match=r"holds other weights than .* in \d+ of \d+ tensors"):
        rollout.generate(policy, asked(policy), SAMPLING)
    assert rollout.loaded != (policy.name, policy.version)
    monkeypatch.undo()
    assert gap(policy, asked(policy), rollout.generate(policy, asked(policy), SAMPLING)) < 1e-4


def test_a_head_that_stays_packed_as_it_was_is_caught(rollout, policy, monkeypatch):
    rollout.load(policy)
    learn(policy)
    monkeypatch.setattr("visplay.callbacks.engines.vllm_weights.repack", lambda model: None)
    with pytest.raises(WrongWeightsError, match="lm_head"):
        rollout.generate(policy, asked(policy), SAMPLING)


def test_the_weights_of_the_other_role_are_caught(rollout, policy, base, monkeypatch):
    rollout.load(policy)
    learn(policy)
    load = rollout._running.load
    monkeypatch.setattr(rollout._running, "load", lambda weights: load(base.weights()))
    with pytest.raises(WrongWeightsError, match="holds other weights"):
        rollout.generate(policy, asked(policy), SAMPLING)


def test_images_that_are_cut_differently_are_caught(rollout, policy, monkeypatch):
    monkeypatch.setattr(type(policy), "image_tokens", lambda self, image: 3)
    with pytest.raises(RolloutError, match=r"vLLM reads \d+ tokens and the policy \d+"):
        rollout.generate(policy, asked(policy), SAMPLING)


def test_weights_come_in_one_at_a_time(rollout, policy):
    """vLLM keeps the parts of a layer that it fuses until it has all, and the embeddings to the end."""
    rollout.load(policy)
    stream = Stream((name, weight.clone()) for name, weight in policy.weights())
    rollout._running.load(stream)
    assert stream.total == sum(weight.nbytes for weight in policy.model.parameters())
    assert stream.peak < 2 * stream.largest < stream.total / 4


def test_an_engine_that_dies_is_built_anew_and_goes_on(rollout, policy, monkeypatch, caplog):
    prompts = asked(policy)
    before = rollout.generate(policy, prompts, SAMPLING)
    first = rollout._running

    def die():
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(first._llm.llm_engine, "step", die)
    assert rollout.generate(policy, prompts, SAMPLING) == before
    assert rollout._running is not first
    assert "it is built anew: RuntimeError: the device is gone" in caplog.text


def test_one_that_fails_again_ends_the_run_and_leaves_the_policy(rollout, policy, monkeypatch):
    weights = policy.fingerprint()

    def fail(self, requests, parameters):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr("visplay.callbacks.engines.vllm_engine.VLLMEngine.generate", fail)
    with pytest.raises(RolloutError, match=r"failed while .* no kernel image.*weights are untouched"):
        rollout.generate(policy, asked(policy), SAMPLING)
    assert policy.fingerprint() == weights
    assert rollout.loaded is None
    assert rollout._running is None


def test_one_that_hangs_is_built_anew(rollout, policy, monkeypatch, caplog):
    rollout.load(policy)
    monkeypatch.setattr(rollout._running, "timeout_seconds", 0.2)
    monkeypatch.setattr(rollout._running._llm.llm_engine, "step", lambda: time.sleep(60))
    assert len(rollout.generate(policy, asked(policy), SAMPLING)) == 7
    assert "no step within 0.2 s" in caplog.text


def test_a_load_that_hangs_is_cut_too(rollout, policy, monkeypatch, caplog):
    prompts = asked(policy)
    before = rollout.generate(policy, prompts, SAMPLING)
    read, calls = vllm_engine.loaded_weights, []

    def hang_once(*given):
        calls.append(given)
        if len(calls) == 1:
            time.sleep(60)
        return read(*given)

    monkeypatch.setattr(vllm_engine, "loaded_weights", hang_once)
    monkeypatch.setattr(rollout._running, "timeout_seconds", 10.0)  # closing the engine is under it too
    rollout.loaded = None
    assert rollout.generate(policy, prompts, SAMPLING) == before
    assert "no step within 10 s" in caplog.text


def test_an_aborted_request_is_asked_again(rollout, policy, monkeypatch):
    prompts = asked(policy)
    before = rollout.generate(policy, prompts, SAMPLING)
    answer, calls = rollout._running._answer, []

    def abort(asked):
        outputs = answer(asked)
        if not calls:
            outputs[1].outputs[0].finish_reason = "abort"
        calls.append(len(asked))
        return outputs

    monkeypatch.setattr(rollout._running, "_answer", abort)
    assert rollout.generate(policy, prompts, SAMPLING) == before
    assert calls == [7, 1]


def test_a_request_that_is_aborted_twice_is_a_failure(rollout, policy, monkeypatch):
    rollout.load(policy)
    answer = rollout._running._answer

    def abort(asked):
        outputs = answer(asked)
        outputs[-1].outputs[0].finish_reason = "abort"
        return outputs

    monkeypatch.setattr(rollout._running, "_answer", abort)
    with pytest.raises(RuntimeError, match=r"request 6 was aborted twice \(abort\)"):
        rollout._running.generate([{"prompt_token_ids": [5]}] * 7, [{"max_tokens": 1}] * 7)


def test_ranks_are_divided_into_groups_of_equal_size(monkeypatch):
    rollout, module = VLLMRollout(EngineSettings(tensor_parallel_size=2)), Mock(roles={})
    rollout.setup(Mock(world_size=4), module, "fit")
    for ranks in (1, 3):
        with pytest.raises(ValueError, match=f"tensor_parallel_size: 2 must divide the number of ranks, {ranks} "):
            rollout.setup(Mock(world_size=ranks), module, "fit")


def test_an_engine_of_several_is_on_its_trainers_device(monkeypatch):
    monkeypatch.setattr(vllm_engine, "rank", lambda: 9)
    monkeypatch.setattr(vllm_engine, "world_size", lambda: 16)
    expected = {"RANK": "9", "WORLD_SIZE": "16"}
    assert vllm_engine.rank_variables(torch.device("cuda:1")) == expected | {"LOCAL_RANK": "1"}
    assert vllm_engine.rank_variables(torch.device("cpu")) == expected | {"LOCAL_RANK": "9"}


def test_one_of_several_that_does_not_sleep_ends_the_run(rollout, policy, monkeypatch):
    """Alone it could not be built anew, and the others would wait for it."""
    rollout.load(policy)
    monkeypatch.setattr(rollout._running, "sleep", lambda: 1 / 0)
    monkeypatch.setattr("visplay.callbacks.engines.vllm.world_size", lambda: 2)
    with pytest.raises(RolloutError, match="vLLM does not sleep on rank 0: ZeroDivisionError"):
        rollout.sleep()
    monkeypatch.undo()


def test_an_engine_that_cannot_start_says_what_to_change(policy):
    policy.max_context_tokens = 1024
    rollout = VLLMRollout(replace(SETTINGS, cache_gib=0.0001))
    with pytest.raises(
        RolloutError, match=r"does not start with .*cache_gib=0.0001.*raise gpu_memory_utilization or cache_gib"
    ):
        rollout.generate(policy, asked(policy), SAMPLING)


def test_an_engine_that_cannot_start_names_the_type_of_the_error(policy, monkeypatch):
    def start(*arguments):
        raise KeyError("\n")

    monkeypatch.setattr("visplay.callbacks.engines.vllm.VLLMEngine", start)
    with pytest.raises(RolloutError, match=r"and a context of \d+ tokens: KeyError: '\\n'\. See the settings"):
        VLLMRollout(SETTINGS).generate(policy, asked(policy), SAMPLING)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization: 1.5 must be above 0 and at most 1"),
        ({"cache_gib": 0}, "cache_gib: 0 must be above 0, or null"),
        ({"max_sequences": 0}, "max_sequences: 0 must be at least 1"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size: 0 must be at least 1"),
    ],
)
def test_settings_that_no_engine_starts_with(settings, message):
    with pytest.raises(ValueError, match=message):
        EngineSettings(**settings)


class Recorded:
    """Stands for an engine on a GPU: notes what it is told."""

    def __init__(self):
        self.told = []
        self.asleep = False

    def sleep(self):
        self.told.append("sleep")
        self.asleep = True
        return True

    def wake(self, part):
        self.told.append(f"wake {part}")

    def load(self, weights):
        self.told.append("load")


def test_weights_wake_before_they_are_loaded_and_the_cache_after(policy):
    """vLLM keeps nothing of a deep sleep: what is asked next is loaded, even if its version is the same."""
    rollout = VLLMRollout(verify=False)
    rollout._running = engine = Recorded()
    rollout.load(policy)
    rollout.sleep()
    rollout.wake()
    rollout.load(policy)
    assert engine.told == ["load", "wake kv_cache", "sleep", "wake weights", "load", "wake kv_cache"]
    plain = VLLMRollout(verify=False, sleep_in_update=False)
    plain._running = engine = Recorded()
    plain.sleep()
    assert engine.told == []


def test_an_engine_that_does_not_sleep_is_dropped(policy, caplog):
    class Restless(Recorded):
        def sleep(self):
            raise RuntimeError("memory usage increased after sleeping")

        def close(self):
            self.told.append("close")

    rollout = VLLMRollout(verify=False)
    rollout._running = engine = Restless()
    rollout.load(policy)
    rollout.sleep()
    assert engine.told[-1] == "close"
    assert rollout.loaded is None
    assert "the next rollout builds it anew" in caplog.text
