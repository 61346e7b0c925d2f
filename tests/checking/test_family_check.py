"""What the check finds in families that are wrong in one place each; in those that are right it finds nothing."""

import pytest
import torch

from examples.add_a_vlm import Llava
from families import FAMILIES, Tiny, gemma3, internvl, llava, qwen2_5_vl
from visplay.checking import FamilyCheck, FamilyError
from visplay.modules import Gemma3, InternVL, Qwen2_5_VL
from visplay.modules.policy.contract import AttentionContract


def windowed(directory):
    llava(directory, model_type="mistral", sliding_window=12)


def check(family, directory, write, **settings):
    write(directory)
    vlm = family(str(directory))
    vlm.load()
    return list(FamilyCheck(vlm, **settings).run())


RIGHT = FAMILIES | {"LLaVA 1.5": Tiny(Llava, llava), "LLaVA on a windowed Mistral": Tiny(Llava, windowed)}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_family(name, tmp_path):
    lines = check(RIGHT[name].family, tmp_path, RIGHT[name].write)
    parts = ["ids", "log-probabilities", "batches", "samples", "images", "names", "saving"]
    assert [line.partition(":")[0] for line in lines] == parts
    rows = "padded" if name in ("Gemma 3", "LLaVA on a windowed Mistral") else "packed and padded"
    assert lines[1].startswith(f"log-probabilities: those of {rows} rows are the model's own within ")


class CausalImages(Gemma3):
    attention = AttentionContract(window=24)


class PlainlyCausal(Gemma3):
    attention = AttentionContract()


class WithoutWindows(Llava):
    attention = AttentionContract()


class PaddedWithoutWindows(WithoutWindows):
    packs = False


class FeaturesOnPlaceholders(Gemma3):
    @property
    def feature_token_id(self):
        return self.image_token_id


class PlaceholdersRepeated(Gemma3):
    def image_token_ids(self, image):
        return [self.image_token_id] * self.most_image_tokens


class FeaturesAsPlaceholders(Gemma3):
    @property
    def image_token_id(self):
        return self.feature_token_id


class FeaturesAlone(Gemma3):
    def image_token_ids(self, image):
        return [self.feature_token_id] * 16


class Unmerged(Gemma3):
    def expand(self, prompt):
        images = iter(prompt.images)
        pieces = ([t] if t != self.image_token_id else self.image_token_ids(next(images)) for t in prompt.token_ids)
        return [token for piece in pieces for token in piece]


class OneTileLess(InternVL):
    def image_tokens(self, image):
        return super().image_tokens(image) - 4


class PlainPositions(Qwen2_5_VL):
    def prompt_positions(self, input_ids, mask, pixels, image_index):
        return self.text_positions((mask.long().cumsum(-1) - 1).clamp(min=0))


class OtherFeatures(Llava):
    def image_features(self, pixels):
        return [1.1 * image for image in super().image_features(pixels)]


class FewerFeatures(Llava):
    def image_features(self, pixels):
        return [image[1:] for image in super().image_features(pixels)]


class OtherHead(Llava):
    @property
    def head_weight(self):
        return 0.5 * super().head_weight


class OtherNames(Llava):
    def released_name(self, name):
        return name.replace("multi_modal_projector", "projector")


class LostInSaving(Llava):
    def unloaded(self):
        fresh = super().unloaded()
        fresh.image_features = lambda pixels: [0 * image for image in Llava.image_features(fresh, pixels)]
        return fresh


WRONG = [
    (CausalImages, gemma3, "attention mask", "padded rows, one image.* both ways in the model, and causally here"),
    (
        PlainlyCausal,
        gemma3,
        "attention mask",
        "packed rows.* both ways .*within windows of 24 tokens; here neither is so",
    ),
    (WithoutWindows, windowed, "windows", "packed rows, one image.*without its windows of 12 tokens"),
    (PaddedWithoutWindows, windowed, "windows", "padded rows of a batch and those of each prompt alone"),
    (
        FeaturesOnPlaceholders,
        gemma3,
        "placeholder",
        r"feature_token_id: .*<start_of_image>.*own to .*<image_soft_token>",
    ),
    (PlaceholdersRepeated, gemma3, "placeholder", r"image_token_ids: .*<start_of_image>.*own to .*<image_soft_token>"),
    (FeaturesAsPlaceholders, gemma3, "placeholder", "image_token_id: .* has 0 of <image_soft_token> for 1 images"),
    (FeaturesAlone, gemma3, "expansion", "image_token_ids: a prompt with images of 64 x 48 pixels has 31 tokens"),
    (Unmerged, gemma3, "expansion", "image_token_ids: .* has 35 tokens, .* the processor's 34, "),
    (OneTileLess, internvl, "expansion", "image_tokens: .* has 24 tokens for features, and the processor's 28"),
    (PlainPositions, qwen2_5_vl, "positions", "packed rows, one image.*prompt_positions and text_positions"),
    (OtherFeatures, llava, "image features", "packed rows, one image.*; 16 of 16 are not the model's"),
    (FewerFeatures, llava, "image features", "16 image tokens for 15 features"),
    (OtherHead, llava, "logits", "of the model's own hidden states other logits are made"),
    (OtherNames, llava, "names", "released_name: 4 names are not the checkpoint's, such as 'model.projector.linear_1"),
    (LostInSaving, llava, "names", "saved and loaded again, log-probabilities are"),
]


@pytest.mark.parametrize(
    ("family", "write", "kind", "message"), WRONG, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_wrong_family(family, write, kind, message, tmp_path):
    with pytest.raises(FamilyError, match=rf"{family.__name__} with '.*' is not .*: {kind}: .*{message}") as found:
        check(family, tmp_path, write)
    assert found.value.kind == kind


class Unbroken(Gemma3):
    """Nothing of an image merges with text, so that prefixes could be shared."""

    packs = False

    def image_token_ids(self, image):
        return super().image_token_ids(image)[1:-1]

    def image_tokens(self, image):
        return super().image_tokens(image) - 2

    def language_model(self, embeddings, mask, positions, cache, token_types=None):
        whole = token_types is not None and token_types.shape == mask.shape == embeddings.shape[:2]
        return super().language_model(embeddings, mask, positions, cache, token_types if whole else None)


def test_prefixes_are_not_shared_where_they_could_end_within_an_image(tmp_path, monkeypatch):
    gemma3(tmp_path)
    vlm = Unbroken(str(tmp_path))
    vlm.load()
    with torch.no_grad():
        FamilyCheck(vlm).batch()
        monkeypatch.setattr(AttentionContract, "why_not_causal", lambda self, context_tokens: None)
        with pytest.raises(FamilyError, match="attention mask: padded rows of a batch and those of each prompt alone"):
            FamilyCheck(vlm).batch()


def test_what_is_large_is_saved_on_demand(tmp_path, monkeypatch):
    monkeypatch.setattr("visplay.checking.family_check.SAVED_BYTES", 0)
    assert not any(line.startswith("saving") for line in check(Llava, tmp_path / "a", llava))
    assert any(line.startswith("saving") for line in check(Llava, tmp_path / "b", llava, whole=True))


def test_a_short_context(tmp_path):
    internvl(tmp_path)
    vlm = InternVL(str(tmp_path), max_context_tokens=100)
    vlm.load()
    lines = list(FamilyCheck(vlm).run())
    assert len(lines) == 7
    assert lines[2] == "batch: left out, as the context of 100 tokens has no room"


@pytest.mark.parametrize(("family", "write"), [(Llava, llava), (WithoutWindows, windowed)])
def test_packed_rows_that_need_half_precision(family, write, tmp_path, monkeypatch):
    """As on CUDA, whose kernels take no float32."""

    def kernels(device, dtype):
        return None if dtype == torch.bfloat16 else f"there is no kernel for {dtype} on {device.type}"

    monkeypatch.setattr("visplay.modules.policy.family.why_not_attended", kernels)
    if family is Llava:
        assert "those of packed half-precision and padded rows" in check(family, tmp_path, write)[1]
        return
    with pytest.raises(FamilyError, match="windows: packed half-precision rows, one image"):
        check(family, tmp_path, write)


def test_nothing_is_left_changed(tmp_path):
    windowed(tmp_path)
    vlm = Llava(str(tmp_path), gradient_checkpointing=True)
    vlm.load()
    before = (
        vlm.fingerprint(),
        vlm.training,
        vlm.model.config._attn_implementation,
        vlm.text_model.config.sliding_window,
    )
    assert len(list(FamilyCheck(vlm).run())) == 7
    now = vlm.fingerprint(), vlm.training, vlm.model.config._attn_implementation, vlm.text_model.config.sliding_window
    assert now == before
    assert vlm.gradient_checkpointing
    assert "hidden_states" not in vlm.__dict__


def test_vllm_whose_attention_is_causal_on_a_cpu(tmp_path):
    with pytest.raises(
        FamilyError, match=r"attention mask: .*vLLM .* with images alone; its attention is causal there"
    ):
        check(Gemma3, tmp_path, gemma3, vllm=True)
