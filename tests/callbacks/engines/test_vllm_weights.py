import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from visplay.callbacks.engines.vllm_weights import LoadedWeights, checksum, checksums, differing, loaded_weights, repack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_checksum_tells_every_bit_and_forgets_the_order(dtype):
    tensor = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert checksum(tensor) == checksum(tensor.flip(0)) == checksum(tensor.T.contiguous())
    assert checksum(tensor) == sum(checksum(row) for row in tensor) % 2**64
    assert checksum(tensor) == checksum(torch.cat([tensor, torch.zeros(4, 3, dtype=dtype)]))
    changed = tensor.clone()
    changed[7, 1] = torch.nextafter(tensor[7, 1].float(), torch.tensor(9.0)).to(dtype)
    if changed.equal(tensor):  # half precision: one unit in the last place is larger
        changed[7, 1] *= 1.01
    assert checksum(changed) != checksum(tensor)


def test_a_step_up_and_a_step_down_do_not_cancel():
    ones = torch.ones(128)
    moved = ones.clone()
    moved[:64] += 2**-20
    moved[64:] -= 2**-20
    assert checksum(moved) != checksum(ones)


def test_zeros_of_either_sign_count_nothing():
    assert checksum(torch.tensor([0.0, -0.0])) == checksum(torch.empty(0)) == 0


def test_chunks_add_up(monkeypatch):
    tensor = torch.randn(1000)
    whole = checksum(tensor)
    monkeypatch.setattr("visplay.callbacks.engines.vllm_weights._CHUNK", 7)
    assert checksum(tensor) == whole


def test_checksums_are_of_the_engines_dtype():
    weights = {"a": torch.tensor([1.0001, 2.0]), "b": torch.tensor([3.0])}
    assert checksums(weights.items(), torch.bfloat16)["a"] == checksum(torch.tensor([1.0, 2.0], dtype=torch.bfloat16))


SOURCES = {"qkv": ["q", "k"], "norm": ["norm"]}


@pytest.mark.parametrize(
    ("workers", "wrong"),
    [
        ([{"qkv": 3, "norm": 7}], []),
        ([{"qkv": 4, "norm": 7}], ["qkv"]),
        ([{"qkv": 1, "norm": 7}, {"qkv": 2, "norm": 7}], []),  # shared between two ranks; copied to both
        ([{"qkv": 1, "norm": 7}, {"qkv": 1, "norm": 7}], ["qkv"]),
        ([{"qkv": 3, "norm": 7}, {"qkv": 0, "norm": 8}], ["norm"]),
    ],
)
def test_differing(workers, wrong):
    assert differing({"q": 1, "k": 2, "norm": 7}, [LoadedWeights(worker, SOURCES) for worker in workers]) == wrong


def test_a_tensor_that_nothing_was_sent_for_differs():
    assert differing({}, [LoadedWeights({"bias": 5}, {"bias": []})]) == ["bias"]


class Layer(nn.Module):
    """A linear layer as vLLM has it on a CPU: it multiplies by a copy."""

    def __init__(self, weight, keep):
        super().__init__()
        self.input_size = weight.shape[1]
        self.copy = weight.clone()
        self.weight = nn.Parameter(weight if keep else torch.empty(0))

    def cpu_linear(self, inputs, weight, bias):
        return inputs @ self.copy.T


class Engine(nn.Module):
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj"]}  # noqa: RUF012

    def __init__(self, q, k, head):
        super().__init__()
        self.attn = nn.Module()
        self.attn.qkv_proj = Layer(torch.cat([q, k]), keep=False)
        self.lm_head = Layer(head, keep=True)


def test_what_is_loaded_is_what_a_layer_multiplies_by():
    q, k, head = torch.randn(2, 3), torch.randn(1, 3), torch.randn(5, 3)
    model = Engine(q, k, head)
    names = ["attn.q_proj.weight", "attn.k_proj.weight", "lm_head.weight"]
    sent = checksums(zip(names, (q, k, head), strict=True), torch.float32)
    assert differing(sent, [loaded_weights(model, names)]) == []
    assert loaded_weights(model, names).sources["attn.qkv_proj.weight"] == names[:2]
    model.lm_head.copy[0, 0] += 1  # a packed copy that was not renewed
    assert differing(sent, [loaded_weights(model, names)]) == ["lm_head.weight (packed)"]


def test_a_bias_that_a_kernel_keeps_in_float32_is_the_bias_that_was_sent():
    """As with AMX; one that has more digits than were sent is another one."""
    weight, bias = torch.randn(4, 3).bfloat16(), torch.randn(4).bfloat16()
    model = nn.Module()
    model.proj = Layer(weight, keep=False)
    model.proj.weight.data = model.proj.weight.data.bfloat16()
    model.proj.bias = nn.Parameter(bias.float())
    sent = checksums({"proj.weight": weight, "proj.bias": bias}.items(), torch.bfloat16)
    assert differing(sent, [loaded_weights(model, list(sent))]) == []
    model.proj.bias.data[0] *= 1 + 2**-20
    assert differing(sent, [loaded_weights(model, list(sent))]) == ["proj.bias"]
    model.proj.bias.data[0] = 2 * bias[0].float()
    assert differing(sent, [loaded_weights(model, list(sent))]) == ["proj.bias"]


class Mapper:
    """Names as vLLM maps them: a part is replaced, or its tensor ignored."""

    def __init__(self, **parts):
        self.parts = parts

    def map_name(self, name):
        for old, new in self.parts.items():
            if old in name:
                return new and name.replace(old, new, 1)
        return name


def test_models_within_the_model_map_names_too():
    q, k, head = torch.randn(2, 3), torch.randn(1, 3), torch.randn(5, 3)
    model, inner = nn.Module(), Engine(q, k, head)
    model.tower, model.hf_to_vllm_mapper = inner, Mapper(visual="tower")
    inner.packed_modules_mapping = {}
    inner.hf_to_vllm_mapper = Mapper(q_proj="qkv_proj", k_proj="qkv_proj", unused=None)
    names = [f"visual.{name}.weight" for name in ("attn.q_proj", "attn.k_proj", "lm_head", "unused.norm")]
    sources = loaded_weights(model, names).sources
    assert sources["tower.attn.qkv_proj.weight"] == names[:2]
    assert not any(names[3] in parts for parts in sources.values())
    with pytest.raises(ValueError, match=r"no tensor for \['visual.other.weight'\]"):
        loaded_weights(model, ["visual.other.weight"])


def test_a_weight_without_a_tensor_of_the_engine_is_an_error():
    model = Engine(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"Engine of vLLM has no tensor for \['attn.v_proj.weight'\]"):
        loaded_weights(model, ["attn.v_proj.weight"])


def test_only_layers_that_keep_their_weight_are_packed_again(monkeypatch):
    packed = []
    layers = SimpleNamespace(dispatch_cpu_unquantized_gemm=lambda layer, remove_weight: packed.append(layer))
    monkeypatch.setitem(sys.modules, "vllm.model_executor.layers.utils", layers)
    model = Engine(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2))
    repack(model)
    assert packed == [model.lm_head]
