"""The data card of what ``visplay predict`` writes: counts, how it was made, and what it is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import DatasetCardData

from visplay.callbacks.curation.curation import AskedQuestion
from visplay.callbacks.curation.gates import Candidate
from visplay.foreign_text import markdown_text
from visplay.functional.votes.confidence_band import confidence_histogram

_BAR = 30
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


@dataclass
class Tally:
    """What rows are like, counted batch by batch.

    Attributes:
        images: Images asked about.
        unusable: Images that were not, as they are broken or too large for the context.
        asked: Questions asked, which are the rows.
        voted: Questions voted on.
        kept: Questions that every gate keeps.
        votes: Answers sampled in the first votes.
        needs_image: Silver answers that the Reasoner does not give without the image.
        answered_blind: Silver answers that it does.
        agreed: Second views with the same winner.
        differed: Those with another one, or none.
        confidences: Valid votes by tenths of their confidence.
        kept_confidences: Those that are kept.
        kinds: Kept questions by type.
        rejected: Questions by why they are not kept.
        accuracy: Sum of the estimated accuracies of kept questions, and their number.
    """

    images: int = 0
    unusable: int = 0
    asked: int = 0
    voted: int = 0
    kept: int = 0
    votes: int = 0
    needs_image: int = 0
    answered_blind: int = 0
    agreed: int = 0
    differed: int = 0
    confidences: list[int] = field(default_factory=lambda: [0] * 10)
    kept_confidences: list[int] = field(default_factory=lambda: [0] * 10)
    kinds: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    accuracy: tuple[float, int] = (0.0, 0)

    def add(
        self, questions: Sequence[AskedQuestion], found: Sequence[Candidate | str], reasons: Sequence[str | None]
    ) -> None:
        """Count a batch: its questions, each as a candidate or why it is none, and why it is not kept."""
        candidates = [each for each in found if isinstance(each, Candidate)]
        kept = [c for c, why in zip(found, reasons, strict=True) if why is None and isinstance(c, Candidate)]
        self.images += len({each.image for each in questions})
        self.asked += len(questions)
        self.voted += sum(each.vote is not None for each in questions)
        self.votes += sum(each.vote.total for each in questions if each.vote is not None)
        self.kept += len(kept)
        self.needs_image += sum(each.blind is False for each in candidates)
        self.answered_blind += sum(each.blind is True for each in candidates)
        self.agreed += sum(each.views_agree is True for each in candidates)
        self.differed += sum(each.views_agree is False for each in candidates)
        for counts, chosen in ((self.confidences, candidates), (self.kept_confidences, kept)):
            for index, count in enumerate(confidence_histogram([each.vote for each in chosen]).tolist()):
                counts[index] += count
        self.kinds.update(each.question.kind for each in kept)
        self.rejected.update(reason for reason in reasons if reason is not None)
        accuracies = [each.accuracy for each in kept if each.accuracy is not None]
        self.accuracy = (self.accuracy[0] + sum(accuracies), self.accuracy[1] + len(accuracies))

    def saved(self, votes: int) -> int:
        """Answers that were not sampled, of ``votes`` on each question that was voted on."""
        return votes * self.voted - self.votes


def data_card(
    tally: Tally,
    run: Mapping[str, Any],
    *,
    source: str,
    gates: Sequence[str],
    band: tuple[float, float],
    votes: int,
    duplicates: int | None,
    skipped: bool,
    embedded: bool,
) -> str:
    """A Hugging Face dataset card.

    Args:
        tally: What the rows are like.
        run: The columns that are the same in every row.
        source: Name of the images.
        gates: Names of the gates.
        band: Least and highest confidence that is kept.
        votes: K.
        duplicates: Images that look like one before them; None where nobody looked.
        skipped: Whether they are left out.
        embedded: Whether the rows have the images.
    """
    head = DatasetCardData(
        pretty_name=f"Questions about {source}",
        task_categories=["visual-question-answering"],
        annotations_creators=["machine-generated"],
        language_creators=["machine-generated"],
        size_categories=[next((name for limit, name in _SIZES if tally.asked < limit), "n>10M")],
        tags=["visplay", "synthetic", "silver-labels"],
        configs=[{"config_name": "default", "data_files": "data/*.parquet"}],
    )
    alike = "not looked for"
    if duplicates is not None:
        alike = f"{duplicates}, {'left out' if skipped else 'asked about as well'} (duplicates.json)"
    counts = {
        "images asked about": tally.images,
        "images that cannot be used": tally.unusable,
        "images that look like one before them": alike,
        "questions, which are the rows": tally.asked,
        "voted on": tally.voted,
        "kept": tally.kept,
        "answers sampled": f"{tally.votes} of {votes * tally.voted}",
    }
    if tally.agreed + tally.differed:
        counts["a second view agrees with"] = f"{tally.agreed} of {tally.agreed + tally.differed}"
    if tally.accuracy[1]:
        counts["kept silver answers right, estimated"] = f"{tally.accuracy[0] / tally.accuracy[1]:.3f}"
    if tally.needs_image + tally.answered_blind:
        known = tally.needs_image + tally.answered_blind
        counts["silver answers not given without the image"] = f"{tally.needs_image} of {known}"
    prompts = json.dumps(json.loads(run["prompts"]), indent=2, ensure_ascii=False)
    prompts = prompts.replace("```", "'''")
    where = "The images are in the column `image`." if embedded else "The images are named by path and SHA-256 alone."
    parts = [
        f"---\n{head.to_yaml()}\n---",
        f"# Questions about {markdown_text(source)}",
        "A vision-language model asked questions about unlabeled images and answered each of them several times. The "
        "majority is the silver answer, the fraction of answers that agree with it the confidence. Made by `visplay "
        f"predict` of VisPlay {run['visplay_version']} (method: arXiv 2511.15661). {where}",
        "## Counts",
        _table("", "", {name: str(value) for name, value in counts.items()}),
        "## Confidence",
        _histogram(tally.confidences, tally.kept_confidences),
        "## Types of kept questions",
        _table("type", "questions", _texts(tally.kinds)),
        "## Why questions are not kept",
        _table("reason", "questions", _texts(tally.rejected)),
        "## How it was made",
        f"- model: {markdown_text(run['model'])}\n- weights of the Questioner: `{run['questioner_weights']}`\n"
        f"- weights of the Reasoner: `{run['reasoner_weights']}`\n- seed: {run['seed']}\n"
        f"- gates: {', '.join(map(markdown_text, gates))}; confidence in [{band[0]:g}, {band[1]:g}]\n"
        f"- sampling: `{run['sampling']}`",
        f"```json\n{prompts}\n```",
        "## Limits",
        "- A silver answer is what the model says most often. It is not a label: where the model is wrong in the same "
        "way each time, the confidence is high and the answer wrong.\n"
        "- Confidence is a fraction of sampled answers, no probability of being right"
        + (", and of the answers taken, where sampling ended early.\n" if tally.saved(votes) else ".\n")
        + "- Questions have the model's own blind spots and biases; nobody has read them.\n"
        "- The licences of the images hold for them; the columns `licence` and `attribution` repeat what the source "
        "says, and are empty where it says nothing.",
    ]
    return "\n\n".join(parts) + "\n"


def _texts(counts: Counter[str]) -> dict[str, str]:
    return {name: str(count) for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))}


def _table(left: str, right: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {markdown_text(name)} | {value} |" for name, value in rows.items()]
    return "\n".join([f"| {left} | {right} |", "|---|---|", *lines])


def _histogram(counts: Sequence[int], kept: Sequence[int]) -> str:
    most = max(*counts, 1)
    lines = [
        f"| {index / 10:.1f}–{(index + 1) / 10:.1f} | {count} | {chosen} | {'█' * round(_BAR * count / most)} |"
        for index, (count, chosen) in enumerate(zip(counts, kept, strict=True))
    ]
    return "\n".join(["| confidence | valid votes | kept | |", "|---|---|---|---|", *lines])
