"""The card of an exported model: what it is, what it learned from, with which settings, and how well it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from visplay.foreign_text import markdown_text
from visplay.modules.policy.weights.saving import ExportFormat


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Args:
        role: Whose policy it is.
        base: The checkpoint that the run started from.
        form: What was written.
        iteration: After which iteration of self-play; None where that is not known.
        data: What it learned from, by kind.
        settings: Of its learning, as plain values.
        scores: What ``Evaluation`` measured (``scores`` of its scores.json): benchmark, "metrics", metric, estimate.
        auto_model: The class of transformers that loads it.
    """

    role: str
    base: str
    form: ExportFormat
    iteration: int | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    auto_model: str = "AutoModelForImageTextToText"

    @property
    def takes_images(self) -> bool:
        """Whether it is a VLM."""
        return self.auto_model != "AutoModelForCausalLM"


def public_name(path: Any) -> str:
    """A Hub name as it is; of a path on this machine its last part alone.

    Example:
        >>> public_name("/home/me/images"), public_name("LMMs-Lab-Turtle/Vision-SR1-47K")
        ('images', 'LMMs-Lab-Turtle/Vision-SR1-47K')
    """
    local = Path(str(path)).is_absolute() or Path(str(path)).exists() or str(path).count("/") != 1
    return Path(str(path)).name if local else str(path)


def plain(value: Any) -> Any:
    """Settings as plain values: a dataclass as a dictionary, a function by its name, other objects by their class's."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, partial):
        return {plain(value.func): plain(value.keywords)}
    if value is None or isinstance(value, str | int | float):
        return value
    return getattr(value, "__name__", type(value).__name__)


def read_scores(run: Path, iteration: int) -> dict[str, Any]:
    """What ``Evaluation`` measured in a run after an iteration; nothing where it did not."""
    path = run / "evaluation" / f"iteration-{iteration}" / "scores.json"
    return json.loads(path.read_text(encoding="utf-8"))["scores"] if path.is_file() else {}


def score_of(scores: Mapping[str, Any], metric: str) -> float | None:
    """The value of ``val/benchmark/metric`` in what ``read_scores`` found; None where it is not there.

    Example:
        >>> score_of({"mmmu": {"metrics": {"rule_accuracy": {"value": 0.5}}}}, "val/mmmu/rule_accuracy")
        0.5
    """
    _, _, rest = metric.partition("/")
    benchmark, _, measure = rest.partition("/")
    estimate = scores.get(benchmark, {}).get("metrics", {}).get(measure)
    return None if estimate is None else estimate["value"]


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with its metadata in front."""
    base = public_name(facts.base)
    head: dict[str, Any] = {"library_name": "peft" if facts.form.adapter_only else "transformers"}
    task = "image-text-to-text" if facts.takes_images else "text-generation"
    head |= {"pipeline_tag": task, "tags": ["visplay", "self-play", "grpo", facts.role]}
    head |= {"base_model": base} if "/" in base else {}
    after = "" if facts.iteration is None else f" after iteration {facts.iteration} of self-play"
    kind = "A LoRA adapter for" if facts.form.adapter_only else "Learned from"
    texts = {
        "Data": "\n".join(f"- {name}: {markdown_text(value)}" for name, value in facts.data.items()),
        "Scores": _score_table(facts.scores),
        "Use": _usage(facts),
        "Settings": f"```yaml\n{yaml.safe_dump(plain(facts.settings))}```" if facts.settings else "",
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {facts.role.capitalize()}{after}",
        f"{kind} {base} with VisPlay (arXiv 2511.15661). Weights in {facts.form.dtype}, cast once from float32.",
        *(f"## {title}\n\n{text}" for title, text in texts.items() if text),
    ]
    return "\n\n".join(parts) + "\n"


def _score_table(scores: Mapping[str, Any]) -> str:
    rows = []
    for benchmark, report in scores.items():
        for metric, estimate in report["metrics"].items():
            if estimate is not None and estimate["value"] is not None:
                low, high = estimate["low"], estimate["high"]
                interval = "–" if None in (low, high) else f"{low:.4f} to {high:.4f}"
                names = f"{markdown_text(benchmark)} | {markdown_text(metric)}"
                rows.append(f"| {names} | {estimate['value']:.4f} | {interval} | {estimate['size']} |")
    head = ["| benchmark | metric | value | 95 % interval | of |", "|---|---|---|---|---|"]
    return "\n".join(head + rows) if rows else ""


def _usage(facts: CardFacts) -> str:
    loads = facts.auto_model
    if facts.form.adapter_only:
        return (
            f"```python\nfrom peft import PeftModel\nfrom transformers import {loads}\n\n"
            f'model = PeftModel.from_pretrained({loads}.from_pretrained("BASE"), "DIRECTORY")\n```'
        )
    reader, name = ("AutoProcessor", "processor") if facts.takes_images else ("AutoTokenizer", "tokenizer")
    return (
        f"```python\nfrom transformers import {loads}, {reader}\n\n"
        f'model = {loads}.from_pretrained("DIRECTORY", dtype="auto")\n'
        f'{name} = {reader}.from_pretrained("DIRECTORY")\n```\n\nOr `vllm serve DIRECTORY`.'
    )
