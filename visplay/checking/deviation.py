"""Where a family first leaves the model's own forward pass: at embeddings, positions, attention or logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visplay.checking.reference import Reference, Trace, attention_of, model_feature_id, traced, unbounded_windows
from visplay.modules.policy.contract import AttentionContract, read_contract
from visplay.modules.policy.hidden_states import padded_hidden_states
from visplay.modules.policy.vlm import VLM
from visplay.types import Prompt

Kind = Literal[
    "placeholder",
    "expansion",
    "image features",
    "positions",
    "windows",
    "attention mask",
    "logits",
    "names",
    "engine",
]
"""What a family can have wrong."""

HALF_LIMIT = 0.05
"""Largest difference of a log-probability in half precision, in nats; more where the model's own varies by more."""
_SAME = {False: 1e-4, True: 5e-2}
"""Of the largest value, by whether precision is half: embeddings that are closer are the same."""


class FamilyError(ValueError):
    """A family does not compute what its checkpoint does.

    Args:
        vlm: The policy.
        kind: What is wrong.
        text: What was seen.
    """

    def __init__(self, vlm: VLM, kind: Kind, text: str) -> None:
        super().__init__(f"{type(vlm).__name__} with {vlm.path!r} is not what the checkpoint says: {kind}: {text}")
        self.kind = kind


@dataclass(frozen=True)
class Case:
    """A prompt and a completion.

    Args:
        name: What is particular.
        prompt: The prompt.
        inputs: What the checkpoint's processor makes of it.
        token_ids: (T,) of the completion.
    """

    name: str
    prompt: Prompt
    inputs: dict[str, Tensor]
    token_ids: Tensor


@dataclass(frozen=True)
class Way:
    """How log-probabilities are computed.

    Args:
        name: What to call it.
        padded: Whether rows are padded, though they could be packed.
        half: Whether in bfloat16.
    """

    name: str
    padded: bool
    half: bool = False


class Comparison:
    """A policy next to its model's own forward.

    Args:
        vlm: The policy.
        reference: Of its checkpoint.
    """

    def __init__(self, vlm: VLM, reference: Reference) -> None:
        self.vlm = vlm
        self.reference = reference

    @property
    def contract(self) -> AttentionContract:
        """What the model's own configuration says, whatever the family declares."""
        return read_contract(self.vlm.model, self.vlm.text_model.config)

    def plain(self, case: Case, way: Way, *, token_types: bool = True) -> tuple[Tensor, Trace]:
        """What the model's own forward gives: log-probabilities (T,), and its trace."""
        with computing(self.vlm, way), attention_of(self.vlm.model, "sdpa"):
            return self.reference.logps(case.inputs, case.token_ids, token_types=token_types)

    def ours(self, case: Case, way: Way) -> tuple[Tensor, Trace]:
        """What the policy gives."""
        with computing(self.vlm, way), traced(self.vlm) as trace:
            return score(self.vlm, case.prompt, case.token_ids), trace

    def gap(self, case: Case, way: Way, limit: float) -> float:
        """The largest difference between the two, in nats.

        Raises:
            FamilyError: It is above the limit; it says where the two first differ.
        """
        plain, ours = self.plain(case, way), self.ours(case, way)
        if way.half:
            limit = max(HALF_LIMIT, 4 * largest(plain[0], self.plain(case, Way("", padded=True))[0]))
        found = largest(ours[0], plain[0])
        if found > limit:
            text = f"{way.name} rows, {case.name}: log-probabilities are up to {found:.2g} nats off"
            kind, why = self._differing_inputs(case, way, ours[1], plain[1]) or self._differing(
                case, way, ours, plain, limit
            )
            raise FamilyError(self.vlm, kind, f"{text}; {why}")
        return found

    def _differing_inputs(self, case: Case, way: Way, ours: Trace, plain: Trace) -> tuple[Kind, str] | None:
        """What the language model is given otherwise."""
        if not plain.hidden:
            return "names", "text_model is not the module that the model's own forward runs"
        ids = case.inputs["input_ids"][0]
        mine, own = (torch.cat(trace.embeddings)[: len(ids)] for trace in (ours, plain))
        wrong = (mine - own).abs().amax(-1) > _SAME[way.half] * own.abs().max()
        features = ids == model_feature_id(self.vlm)
        if bool((wrong & ~features).any()):
            return "placeholder", "features are put on other tokens, or text is embedded otherwise, than by the model"
        if bool(wrong.any()):
            return "image features", f"{int(wrong.sum())} of {int(features.sum())} are not the model's"
        positions = [trace.joined_positions() for trace in (ours, plain)]
        if positions[0] is not None and positions[1] is not None:
            read = positions[0].shape[-1]
            if not torch.equal(positions[0], positions[1][..., :read].expand_as(positions[0])):
                return "positions", "prompt_positions and text_positions do not give the model's"
        return None

    def _differing(
        self, case: Case, way: Way, ours: tuple[Tensor, Trace], plain: tuple[Tensor, Trace], limit: float
    ) -> tuple[Kind, str]:
        """What is done otherwise with the same embeddings and positions."""
        end = len(case.inputs["input_ids"][0]) + len(case.token_ids) - 1
        with computing(self.vlm, way):
            head = self.vlm.logits(torch.cat(plain[1].hidden)[end - len(case.token_ids) : end]).log_softmax(-1)
        if largest(head.gather(-1, case.token_ids[:, None]).squeeze(-1), plain[0]) > limit:
            return (
                "logits",
                "of the model's own hidden states other logits are made; the model may scale or cap its own",
            )
        window = self.contract.window
        if agrees_without_windows(self.vlm, lambda: largest(self.ours(case, way)[0], self.plain(case, way)[0]), limit):
            return "windows", f"without its windows of {window} tokens the model would give the same"
        if self.contract.images_both_ways:
            if largest(ours[0], self.plain(case, way, token_types=False)[0]) <= limit:
                return "attention mask", "the tokens of an image attend both ways in the model, and causally here"
            with unbounded_windows(self.vlm):
                causal = self.plain(case, way, token_types=False)[0]
            if largest(ours[0], causal) <= limit:
                seen = f"both ways in the model, and within windows of {window} tokens; here neither is so"
                return "attention mask", f"the tokens of an image attend {seen}"
        return "attention mask", "embeddings and positions are the model's, and what tokens attend to is not"


def score(vlm: VLM, prompt: Prompt, token_ids: Tensor) -> Tensor:
    """Log-probabilities (T,) of a completion (T,) of a prompt."""
    ids = token_ids[None, None]
    return vlm.logps([prompt], ids, torch.ones_like(ids, dtype=torch.bool))[0][0, 0]


def agrees_without_windows(vlm: VLM, gap: Callable[[], float], limit: float) -> bool:
    """Whether a gap is a matter of windows: it is gone where they see everything."""
    if read_contract(vlm.model, vlm.text_model.config).window is None:
        return False
    with unbounded_windows(vlm):
        return gap() <= limit


def largest(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinite where one is not a number."""
    return float((a - b).abs().nan_to_num(torch.inf).max())


@contextmanager
def computing(vlm: VLM, way: Way) -> Iterator[None]:
    """Have a policy compute in a way."""
    if way.padded:
        vlm.__dict__["hidden_states"] = padded_hidden_states
    try:
        with torch.autocast(vlm.device.type, torch.bfloat16) if way.half else nullcontext():
            yield
    finally:
        vlm.__dict__.pop("hidden_states", None)
