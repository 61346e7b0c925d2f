"""A row of the data that ``visplay predict`` writes: a question, its silver answer, and all that is known of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import datasets

from visplay.callbacks.curation.curation import AskedQuestion, Curation
from visplay.callbacks.curation.gates import Candidate
from visplay.callbacks.export.model_card import public_name
from visplay.data.images.image_facts import ImageFacts
from visplay.modules.visplay import VisPlay
from visplay.provenance import describe_software

_TEXT, _NUMBER, _COUNT, _TRUTH = (datasets.Value(kind) for kind in ("string", "float64", "int64", "bool"))
IMAGE = "image"
FEATURES = datasets.Features(
    {
        "key": _TEXT,
        "question": _TEXT,
        "question_type": _TEXT,
        "silver_answer": _TEXT,
        "confidence": _NUMBER,
        "votes": datasets.List({"answer": _TEXT, "count": _COUNT}),
        "votes_taken": _COUNT,
        "votes_parsed": _COUNT,
        "tied": _TRUTH,
        "kept": _TRUTH,
        "rejected": _TEXT,
        "second_answer": _TEXT,
        "second_confidence": _NUMBER,
        "views_agree": _TRUTH,
        "estimated_accuracy": _NUMBER,
        "blind_answer": _TEXT,
        "needs_image": _TRUTH,
        "questioner_answer": _TEXT,
        "image_path": _TEXT,
        "image_sha256": _TEXT,
        "image_hashed": _TEXT,
        "licence": _TEXT,
        "attribution": _TEXT,
        "model": _TEXT,
        "questioner_weights": _TEXT,
        "reasoner_weights": _TEXT,
        "prompts": _TEXT,
        "sampling": _TEXT,
        "seed": _COUNT,
        "visplay_version": _TEXT,
    }
)
"""Columns and their types; with embedded images there is ``image`` too. Each is described in docs/data_engine.md."""
FEATURES_WITH_IMAGES = datasets.Features(FEATURES | {IMAGE: datasets.Image()})


def describe_run(curation: Curation, module: VisPlay) -> dict[str, Any]:
    """The columns that are the same in every row; all ranks take part."""
    questioner, reasoner = module.questioner, module.reasoner
    voting = curation.voting or reasoner.voting
    own = {"max_new_tokens": curation.max_new_tokens, "top_p": curation.top_p, "top_k": curation.top_k}
    voter = {"max_new_tokens": voting.max_new_tokens, "top_p": voting.top_p, "top_k": voting.top_k}
    sampling = {
        "questioner": asdict(questioner.sampling(curation.questions_per_image, module.seed, **own)),
        "reasoner": asdict(reasoner.sampling(voting.votes, module.seed, **voter)),
    }
    templates = {
        "questioner": asdict(curation.template or questioner.template),
        "reasoner": asdict(voting.template or reasoner.template),
    }
    for each in sampling.values():  # of a batch, see `seed`
        del each["seed"], each["first"]
    return {
        "model": public_name(reasoner.vlm.path),
        "questioner_weights": questioner.vlm.fingerprint(),
        "reasoner_weights": reasoner.vlm.fingerprint(),
        "prompts": json.dumps(templates, ensure_ascii=False),
        "sampling": json.dumps(sampling | {"votes_per_round": curation.votes_per_round}),
        "seed": module.seed,
        "visplay_version": describe_software()["visplay"],
    }


def as_rows(
    questions: Sequence[AskedQuestion],
    found: Sequence[Candidate | str],
    reasons: Sequence[str | None],
    images: dict[str, ImageFacts],
    run: dict[str, Any],
    first: int,
    *,
    embed: bool,
) -> Iterator[dict[str, Any]]:
    """The rows of a batch.

    Args:
        questions: What was asked, and voted.
        found: Each as a candidate, or why it is none.
        reasons: Why each is not kept; None where it is.
        images: Facts by key.
        run: The columns that are the same in every row.
        first: Number of the first row, which is its key.
        embed: Whether the images' bytes are among the columns.
    """
    for number, (asked, candidate, reason) in enumerate(zip(questions, found, reasons, strict=True), start=first):
        known = candidate if isinstance(candidate, Candidate) else None
        question, vote, image = asked.question, known.vote if known else asked.vote, images[asked.image]
        row = {
            "key": f"{number:09d}",
            "question": question and question.text,
            "question_type": question and question.kind,
            "silver_answer": vote and vote.answer,
            "confidence": vote and vote.confidence,
            "votes": [{"answer": name, "count": count} for name, count in (vote.counts if vote else ())],
            "votes_taken": vote.total if vote else 0,
            "votes_parsed": vote.parsed if vote else 0,
            "tied": vote and vote.tied,
            "kept": reason is None,
            "rejected": reason,
            "second_answer": asked.view and asked.view.answer,
            "second_confidence": asked.view and asked.view.confidence,
            "views_agree": known and known.views_agree,
            "estimated_accuracy": known and known.accuracy,
            "blind_answer": asked.blind,
            "needs_image": None if known is None or known.blind is None else not known.blind,
            "questioner_answer": question and question.answer,
            "image_path": asked.image,
            "image_sha256": image.sha256,
            "image_hashed": image.hashed,
            "licence": image.licence,
            "attribution": image.attribution,
        }
        yield row | run | ({IMAGE: {"bytes": image.encoded, "path": None}} if embed else {})
