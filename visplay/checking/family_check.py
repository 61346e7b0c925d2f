"""Whether a family computes what its checkpoint's processor and model do; a deviation says which part it is.

Prompts, images and completions are made up: nothing is needed but the checkpoint.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NoReturn

import torch
from jinja2 import TemplateError
from PIL import Image, ImageOps
from safetensors import safe_open
from torch import Tensor
from transformers.utils import cached_file

from visplay.callbacks.engines.engine import RolloutEngine, RolloutError
from visplay.callbacks.engines.transformers import TransformersRollout
from visplay.callbacks.engines.vllm import VLLMRollout
from visplay.callbacks.engines.vllm_engine import EngineSettings
from visplay.callbacks.engines.vllm_weights import WrongWeightsError
from visplay.checking.deviation import (
    Case,
    Comparison,
    FamilyError,
    Kind,
    Way,
    agrees_without_windows,
    computing,
    largest,
    score,
)
from visplay.checking.reference import Reference, attention_of, model_feature_id
from visplay.modules.policy.attention import GROUPED_SDPA
from visplay.modules.policy.collation import ImageFeaturesError, PromptTooLongError
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.saving import ExportFormat, export_bytes, write_policy
from visplay.modules.policy.weights.tuning import Tuning
from visplay.prompts import Template, render_prompt
from visplay.types import Sampling

SIZES = ((64, 48), (120, 50), (45, 140), (300, 200), (17, 33))
"""Width and height of the images whose tokens are compared."""
TOKENS = 24
"""Of a completion."""
LIMIT = 1e-4
"""Largest difference of a log-probability in nats; more where the model's own forward varies by more."""
NOISE_FACTOR = 10.0
"""How many times that variation is no deviation yet."""
ENGINE_LIMIT = 1e-3
"""Of vLLM, in nats."""
SAVED_BYTES = 2**30
"""A larger model is saved and loaded again only on demand."""
_WRAPPERS = re.compile(r"\b(language_model|vision_model|model)\.")
"""What engines know how to put on a weight's name and to take off."""
_OPENING = "Look at this image from the left to the right and from the top to the bottom. " * 2
# The rest of the longest is what prompts about other images are cut before: with less text, within the image.
_ENDINGS = ("How many small blue triangles are there?", "Is it red?", "What is in front, and what behind?", "Where?")


class FamilyCheck:
    """Compares a family with the checkpoint's processor and with the model's own forward, part by part.

    Args:
        vlm: A policy that is loaded.
        whole: Whether a model of any size is saved and loaded again.
        vllm: Whether samples of vLLM are compared too, which takes its start.
    """

    def __init__(self, vlm: VLM, *, whole: bool = False, vllm: bool = False) -> None:
        self.vlm = vlm
        self.whole = whole
        self.vllm = vllm
        self.reference = Reference(vlm)
        self.comparison = Comparison(vlm, self.reference)
        self.limit = LIMIT
        self._draw = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def run(self) -> Iterator[str]:
        """Check one part after another; yields a line for each that is as it should be.

        Raises:
            FamilyError: One is not.
        """
        parts = (self.ids, self.scores, self.batch, self.samples, self.images, self.names, self.saved, self.engine)
        for part in parts:
            try:
                with _inference(self.vlm):
                    line = part()
            except PromptTooLongError:
                line = f"{part.__name__}: left out, as the context of {self.vlm.context_tokens} tokens has no room"
            except ImageFeaturesError as error:
                raise FamilyError(self.vlm, "image features", str(error)) from error
            if line is not None:
                yield line

    def ids(self) -> str:
        """The tokens of prompts with images of several sizes are those of the processor."""
        if self.vlm.takes_images and self.vlm.feature_token_id != model_feature_id(self.vlm):
            self._fail("placeholder", f"feature_token_id: {self._clash(self.vlm.feature_token_id)}")
        images, compared = [_noise(size) for size in SIZES], 0
        chosen = [[], *([image] for image in images), images[:2], images[2:4]] if self.vlm.takes_images else [[]]
        for template in self._templates():
            for given in chosen:
                prompt = self.vlm.encode("ids", template, given)
                if (found := prompt.token_ids.count(self.vlm.image_token_id)) != len(given):
                    token = self.vlm.tokenizer.convert_ids_to_tokens(self.vlm.image_token_id)
                    text = f"the chat template has {found} of {token} for {len(given)} images"
                    self._fail("placeholder", f"image_token_id: {text}")
                theirs = self.reference.read(render_prompt(self.vlm.tokenizer, template, len(given)), given)
                with suppress(PromptTooLongError):
                    self._compare_ids(self.vlm.collate([prompt]).input_ids[0], theirs["input_ids"][0], given)
                    compared += 1
        if not self.vlm.takes_images:
            return f"ids: {compared} prompts have the tokenizer's tokens"
        return f"ids: {compared} prompts with images of {len(SIZES)} sizes have the processor's tokens"

    def scores(self) -> str:
        """Log-probabilities are those of the model's own forward, packed and padded, for no image, one and two."""
        cases, ways = self._cases(), self._ways()
        with attention_of(self.vlm.model, "eager"):
            other, _ = self.reference.logps(cases[0].inputs, cases[0].token_ids)
        self.limit = max(LIMIT, NOISE_FACTOR * largest(other, self.comparison.plain(cases[0], ways[-1])[0]))
        gap = max(self.comparison.gap(case, way, self.limit) for case in cases for way in ways)
        names = " and ".join(way.name for way in ways)
        return f"log-probabilities: those of {names} rows are the model's own within {gap:.1g} nats"

    def batch(self) -> str:
        """A batch of prompts, several about one image, is what each of them is alone."""
        shared, longest = self._images(1), max(_ENDINGS, key=len)
        asked = [(_OPENING + ending, shared) for ending in _ENDINGS]
        asked += [(longest[: len(longest) * n // 6], self._images(n - 1)[-1:]) for n in (3, 4)] + [(_OPENING, [])]
        prompts = [self.vlm.encode(f"{n}", Template(user=text), given) for n, (text, given) in enumerate(asked)]
        ids = self._made_up((len(prompts), 2, TOKENS))
        lengths = torch.randint(1, TOKENS + 1, ids.shape[:2], generator=self._draw).to(ids.device)
        mask = torch.arange(TOKENS, device=ids.device) < lengths[..., None]

        def gap() -> float:
            together = self.vlm.logps(prompts, ids, mask)[0]
            alone = [self.vlm.logps([p], ids[n : n + 1], mask[n : n + 1])[0] for n, p in enumerate(prompts)]
            return largest(together[mask], torch.cat(alone)[mask])

        for way in (way for way in self._ways() if not way.half):
            with computing(self.vlm, way):
                self._attend(gap, f"{way.name} rows of a batch and those of each prompt alone")
        share = f", of which {len(_ENDINGS)} share an image," if shared else ""
        return f"batches: {len(prompts)} prompts{share} are what each is alone"

    def samples(self) -> str:
        """What is sampled has the log-probabilities that are scored."""

        def gap() -> float:
            return max(self._reported(TransformersRollout(), most=1))

        found = self._attend(gap, "log-probabilities sampled token by token and those scored")
        return f"samples: sampled and scored log-probabilities agree within {found:.1g} nats"

    def images(self) -> str | None:
        """Another image makes another answer likely."""
        if not self.vlm.takes_images:
            return None
        image, ids = _noise(SIZES[0]), self._made_up((TOKENS,))
        pair = (image, ImageOps.invert(image))
        seen = [score(self.vlm, self.vlm.encode("image", Template(user="Where?"), each), ids) for each in pair]
        if (found := largest(*seen)) == 0:
            self._fail("image features", "an image and its negative give the same log-probabilities")
        return f"images: those of an image and its negative are {found:.2g} nats apart"

    def names(self) -> str | None:
        """Engines are sent weights under the names that the checkpoint has them under."""
        known = {_WRAPPERS.sub("", name) for name in _checkpoint_names(self.vlm)}
        if not known:
            return None
        sent = [name for name, _ in self.vlm.weights() if ".experts." not in name]  # which transformers joins
        unknown = [name for name in sent if _WRAPPERS.sub("", name) not in known | {"lm_head.weight"}]
        if unknown:
            text = f"released_name: {len(unknown)} names are not the checkpoint's, such as {unknown[0]!r}"
            self._fail("names", text)
        return f"names: {len(sent)} weights have the checkpoint's names"

    def saved(self) -> str | None:
        """A model that is saved and loaded again has the same log-probabilities."""
        form = ExportFormat("float32")
        if not self.whole and export_bytes(self.vlm, form) > SAVED_BYTES:
            return None
        case = self._cases()[0]
        with tempfile.TemporaryDirectory() as directory:
            write_policy(self.vlm, directory, form)
            again = self.vlm.unloaded()
            again.path, again.revision, again.tuning = directory, None, Tuning()
            again.load()
            again.eval().to(self.vlm.device)
        if (found := largest(*(score(vlm, case.prompt, case.token_ids) for vlm in (self.vlm, again)))) > self.limit:
            self._fail("names", f"saved and loaded again, log-probabilities are {found:.2g} nats from what they were")
        return "saving: a saved model that is loaded again has the same log-probabilities"

    def engine(self) -> str | None:
        """What vLLM samples has the log-probabilities that are scored."""
        if not self.vllm:
            return None
        rollout = VLLMRollout(EngineSettings(dtype="float32", images_per_prompt=2, max_sequences=8, eager=True))
        try:
            gaps = self._reported(rollout, most=2)
        except WrongWeightsError as error:
            self._fail("names", f"vLLM has other weights: {error}")
        except RolloutError as error:
            self._fail("engine", str(error))
        finally:
            rollout.close()
        if max(gaps) > ENGINE_LIMIT:
            text = f"log-probabilities of vLLM and those scored are up to {max(gaps):.2g} nats apart"
            if gaps[0] <= ENGINE_LIMIT and self.comparison.contract.images_both_ways:
                self._fail("attention mask", f"{text} with images alone; its attention is causal there (as on a CPU)")
            self._fail("engine", f"{text}; {gaps[0]:.2g} without an image")
        return f"vLLM: its log-probabilities and those scored agree within {max(gaps):.1g} nats"

    def _fail(self, kind: Kind, text: str) -> NoReturn:
        raise FamilyError(self.vlm, kind, text)

    def _attend(self, gap: Callable[[], float], what: str) -> float:
        """See that two ways to attend are the same, or say whether it is the windows that are not."""
        found = gap()
        if found > self.limit:
            windows = agrees_without_windows(self.vlm, gap, self.limit)
            self._fail("windows" if windows else "attention mask", f"{what} are up to {found:.2g} nats apart")
        return found

    def _templates(self) -> list[Template]:
        """With a system message too, where the chat template takes one."""
        templates = [Template(user="Where is it?"), Template(user="\nWhere is it?")]
        with suppress(TemplateError, ValueError):
            template = Template(user="Where is it?", system="Be good.")
            render_prompt(self.vlm.tokenizer, template, int(self.vlm.takes_images))
            templates.append(template)
        return templates

    def _compare_ids(self, ours: Tensor, theirs: Tensor, images: Sequence[Image.Image]) -> None:
        if torch.equal(ours, theirs):
            return
        features = [int((ids == model_feature_id(self.vlm)).sum()) for ids in (ours, theirs)]
        sizes = " and ".join(f"{image.width} x {image.height}" for image in images)
        of = f"a prompt with images of {sizes} pixels" if images else "a prompt without an image"
        if images and not features[0]:
            self._fail("placeholder", f"image_token_ids: {self._clash(int(ours.mode().values))}")
        if features[0] != features[1]:
            text = f"image_tokens: {of} has {features[0]} tokens for features, and the processor's {features[1]}"
            self._fail("expansion", text)
        shorter = min(len(ours), len(theirs))
        first = int(torch.cat([ours[:shorter] != theirs[:shorter], ours.new_ones(1, dtype=torch.bool)]).int().argmax())
        around = slice(max(0, first - 2), first + 3)
        shown = [self.vlm.tokenizer.convert_ids_to_tokens(ids[around].tolist()) for ids in (ours, theirs)]
        text = f"{of} has {len(ours)} tokens, {shown[0]} around {first}; the processor's {len(theirs)}, {shown[1]}"
        self._fail("expansion", f"image_token_ids: {text}")

    def _clash(self, token: int) -> str:
        features = model_feature_id(self.vlm)
        names = self.vlm.tokenizer.convert_ids_to_tokens([token, features])
        return f"features go to {token} ({names[0]}), and the model's own to {features} ({names[1]})"

    def _images(self, number: int) -> list[Image.Image]:
        """So many images of random pixels; none where the model takes none."""
        return [_noise(size) for size in SIZES[:number]] if self.vlm.takes_images else []

    def _made_up(self, shape: tuple[int, ...]) -> Tensor:
        """Ids of ordinary tokens."""
        vocabulary = min(len(self.vlm.tokenizer), len(self.vlm.head_weight))
        barred = {*self.vlm.banned_token_ids.tolist(), *self.vlm.stop_token_ids, *self.vlm.tokenizer.all_special_ids}
        ordinary = torch.tensor([token for token in range(vocabulary) if token not in barred])
        return ordinary[torch.randint(len(ordinary), shape, generator=self._draw)].to(self.vlm.device)

    def _cases(self) -> list[Case]:
        """One image first; also a prompt longer than the window, where the model has windows."""
        asked = [("no image", "Where is it?", 0)]
        if self.vlm.takes_images:
            asked = [("one image", "Where is it?", 1), *asked, ("two images", "Where are they?", 2)]
        window = self.comparison.contract.window
        if window is not None and window < self.vlm.context_tokens:
            asked.append(("a long prompt", "Where is it? " * (window // 4 + 8), 0))
        cases = []
        for name, text, images in asked:
            template, given = Template(user=text), self._images(images)
            prompt = self.vlm.encode(name, template, given)
            if self.vlm.fits(prompt, TOKENS):
                inputs = self.reference.read(render_prompt(self.vlm.tokenizer, template, images), given)
                cases.append(Case(name, prompt, inputs, self._made_up((TOKENS,))))
        if not cases:
            raise ValueError(f"max_context_tokens: {self.vlm.context_tokens} tokens have no room for a prompt")
        return cases

    def _ways(self) -> list[Way]:
        """Packed in the precision for which there are kernels, and padded."""
        padded = Way("padded", padded=True)
        for way in (Way("packed", padded=False), Way("packed half-precision", padded=False, half=True)):
            with computing(self.vlm, way):
                if self.vlm.why_not_packed() is None:
                    return [way, padded]
        return [padded]

    def _reported(self, engine: RolloutEngine, most: int) -> list[float]:
        """Largest gap between what an engine reports of its samples and what is scored, for 0, 1, … ``most`` images."""
        gaps = []
        numbers = range(most + 1 if self.vlm.takes_images else 1)
        prompts = [self.vlm.encode(f"{n}", Template(user="Where?"), [_noise(SIZES[0])] * n) for n in numbers]
        groups = engine.generate(self.vlm, prompts, Sampling(n=2, max_new_tokens=TOKENS))
        for prompt, group in zip(prompts, groups, strict=True):
            found = 0.0
            for completion in group:
                ids = torch.tensor(completion.token_ids, device=self.vlm.device)
                reported = torch.tensor(completion.logps, device=self.vlm.device)
                found = max(found, largest(score(self.vlm, prompt, ids), reported))
            gaps.append(found)
        return gaps


@contextmanager
def _inference(vlm: VLM) -> Iterator[None]:
    """In float32, without dropout, and without checkpointing, which leaves no cache to continue from."""
    training, checkpointing, products = vlm.training, vlm.gradient_checkpointing, torch.get_float32_matmul_precision()
    known = vlm.attn_implementation in (None, GROUPED_SDPA, "sdpa", "eager")  # others may have no kernel for float32
    vlm.eval()
    vlm.gradient_checkpointing = False
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(vlm.device.type, enabled=False),
            nullcontext() if known else attention_of(vlm.model, "sdpa"),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        vlm.gradient_checkpointing = checkpointing
        vlm.train(training)


def _noise(size: tuple[int, int]) -> Image.Image:
    """An image of random pixels, the same for a size."""
    return Image.frombytes("RGB", size, random.Random(repr(size)).randbytes(3 * size[0] * size[1]))


def _checkpoint_names(vlm: VLM) -> set[str]:
    """Names of the weights in a checkpoint's files; empty where none are at hand."""
    config = cached_file(vlm.path, "config.json", revision=vlm.revision, _raise_exceptions_for_missing_entries=False)
    names: set[str] = set()
    for file in sorted(Path(config).parent.glob("*.safetensors")) if config else ():
        with safe_open(file, "pt") as opened:
            names |= set(opened.keys())
    return names
