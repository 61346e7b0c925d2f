"""A run's directory written by hand: two iterations, four questions, two benchmark items, hostile text where asked."""

import json
from pathlib import Path

from PIL import Image

from visplay.viewing.thumbnails import Thumbnails

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> "
    "\x1b[31mred\x1b[0m \u202etxet desrever\u202c <!-- &amp; ${title}"
)


def write_run(directory: Path, text: str = "How many?", votes: int = 4, questions: int = 2) -> Path:
    """Write it; every question is ``text`` but for the first of each iteration, which is "What is it?"."""
    directory.mkdir(parents=True, exist_ok=True)
    processes = [
        {"started_at": "2026-01-01T00:00:00+00:00", "exit": "killed", "continued_from": None, "settings_changed": {}},
        {
            "started_at": "2026-01-01T01:00:00+00:00",
            "exit": "finished",
            "continued_from": "checkpoints/last.ckpt",
            "settings_changed": {"rollout.max_sequences": [64, 128]},
        },
    ]
    _dump(directory / "run.json", {"seed": 0, "settings": SETTINGS, "weights": {}, "data": {}, "processes": processes})
    phases, stages = [], {}
    for iteration in (1, 2):
        for role, seconds in (("questioner", {"rollout": 10.0, "votes": 20.0}), ("reasoner", {"update": 30.0})):
            phases.append(
                {
                    "iteration": iteration,
                    "role": role,
                    "attempt": 0,
                    "decision": "repeat" if iteration == 2 and role == "reasoner" else "advance",
                    "started_at": "2026-01-01T00:00:00+00:00",
                    "seconds": seconds,
                    "steps_with_skipped_updates": 0,
                    "checkpoint": f"checkpoints/{role}.ckpt",
                }
            )
        stages[f"iteration-{iteration}"] = _write_questions(directory, iteration, text, votes, questions)
    (directory / "phases.jsonl").write_text("".join(json.dumps(phase) + "\n" for phase in phases))
    _dump(directory / "manifest.json", stages)
    scores = [{"iteration": n, "heldout_sampled": s, "kept": None, "silver_accuracy": t} for n, s, t in SCORES]
    _dump(directory / "summary.json", scores)
    for iteration, right in ((0, False), (2, True)):
        _write_answers(directory / "evaluation" / f"iteration-{iteration}", text, right)
    image = Image.new("RGB", (300, 200), "red")
    kept = Thumbnails(directory / "samples" / "thumbnails.sqlite")
    kept.add({"a.png": image, "b.png": Image.new("RGB", (30, 20), "blue"), "heldout/1": image})
    steps = [
        {"iteration": i, "role": role, "attempt": 0, "step": n, "reward": 0.1 * n, "logp_gap_max": 1e-6 * n}
        for i in (1, 2)
        for role in ("questioner", "reasoner")
        for n in (1, 2)
    ]
    (directory / "samples" / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    group = {
        "iteration": 1,
        "role": "reasoner",
        "attempt": 0,
        "step": 1,
        "image": "a.png",
        "image_hash": kept.hashes()["a.png"],
        "prompt": text,
        "question": text,
        "silver": "3",
        "completions": [
            {"text": text, "reward": 1.0, "parts": {"agreement": 1.0}, "advantage": 0.7},
            {"text": "nothing", "reward": 0.0, "parts": {"agreement": 0.0}, "advantage": None},
        ],
    }
    (directory / "samples" / "iteration-1-reasoner.jsonl").write_text(json.dumps(group) + "\n")
    return directory


SETTINGS = {"self_play.iterations": [2, 3], "model.vlm.path": ["tiny", None]}
SCORES = [(0, 0.5, None), (1, 0.75, 0.9), (2, 0.7, 0.8)]


def _write_questions(directory: Path, iteration: int, text: str, votes: int, questions: int) -> dict:
    stage = directory / "generated" / f"iteration-{iteration}"
    stage.mkdir(parents=True)
    asked, admitted = [], []
    for n in range(questions):
        said = "What is it?" if n == 0 else text
        counts = [["3", votes - 1], ["4", 1]] if iteration == 1 else [["4", votes]]
        vote = {"answer": counts[0][0], "confidence": counts[0][1] / votes, "counts": counts, "parsed": votes}
        question = {"text": said, "kind": "numerical", "answer": "3"}
        asked.append({"image": "ab"[n % 2] + ".png", "question": question, "vote": vote, "view": None, "blind": None})
        admitted.append(
            {
                "key": f"{iteration}/{n}",
                "image": "ab"[n % 2] + ".png",
                "question": said,
                "answer": vote["answer"],
                "confidence": vote["confidence"],
                "views_agree": None,
                "accuracy": None,
                "rejected": None if n == 0 else "margin/close",
            }
        )
    for name, rows in (("00000.jsonl", asked), ("admission.jsonl", admitted)):
        (stage / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    statistics = {
        "asked": questions,
        "kept": 1,
        "kept_fraction": 1 / questions,
        "mean_confidence": 0.75,
        "rejected/margin/close": questions - 1,
        "estimated_silver_accuracy": 0.8,
    }
    return {"path": f"generated/iteration-{iteration}.parquet", "sha256": "0", "statistics": statistics}


def _write_answers(directory: Path, text: str, right: bool) -> None:
    directory.mkdir(parents=True)
    greedy = {"text": text, "finished": True, "answer": text, "correct": right}
    items = [
        {"key": key, "benchmark": "heldout", "problem": text, "gold": "3", "metadata": {}, "greedy": greedy}
        | {"samples": [greedy, greedy | {"correct": False}], "majority": None, "majority_correct": False}
        for key in ("1", "2")
    ]
    (directory / "heldout-rank0.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
