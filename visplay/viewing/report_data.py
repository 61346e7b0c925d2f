"""What a report shows of a run, as JSON values."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from visplay.clock import span
from visplay.foreign_text import visible
from visplay.viewing.run_files import shown
from visplay.viewing.run_reader import RunReader, mark_changed, mark_disagreeing

MOST_CHARACTERS = 2_000
"""Of a text in a report."""
_CURATION_COLUMNS = ("valid_fraction", "mean_confidence", "kept", "silver_accuracy")
_STEP_CURVES = {
    "Reward of each step": ("reward",),
    "Difficulty and redundancy of questions": ("difficulty", "redundancy"),
    "Entropy of the policy, nats per token": ("entropy",),
    "KL to the reference, nats per token": ("kl",),
}


def describe_run(
    run: RunReader,
    *,
    iterations: Sequence[int] | None = None,
    most_questions: int = 20_000,
    most_image_bytes: int = 24 * 2**20,
) -> dict[str, Any]:
    """Collect what a report shows.

    Args:
        run: The run.
        iterations: Whose questions and rollouts are shown; None is all.
        most_questions: Questions in the gallery; of more, every so many are left out.
        most_image_bytes: Of all thumbnails; questions about further images have none.
    """
    asked = list(run.asked(iterations))
    mark_changed(asked)
    mark_disagreeing(asked)
    shown = _thin(asked, most_questions)
    groups = _first_and_last(run, iterations)
    answers = _pair_answers(run)
    hashes = run.thumbnails.hashes()
    wanted = [hashes.get(row["image"]) for row in shown]
    wanted += [each["image_hash"] for each in groups]
    wanted += [hashes.get(item.pop("image_key")) for item in answers]
    images = _encode(run, wanted, most_image_bytes)
    positions = {name: position for position, name in enumerate(images)}
    image_of = [positions.get(name, -1) if name else -1 for name in wanted]
    for each, position in zip([*shown, *groups, *answers], image_of, strict=True):
        each["thumbnail"] = position
    found = _plain(
        {
            "name": run.name,
            "story": tell_story(run),
            "tiles": _tiles(run),
            "curves": _curves(run),
            "reasons": _reasons(run),
            "phases": [_phase(each) for each in run.phases],
            "questions": _columns([_question(row) for row in shown]),
            "left_out": len(asked) - len(shown),
            "groups": groups,
            "answers": answers,
            "health": _health(run),
            "settings": [
                [name, _word(value), "" if default is None else _word(default)]
                for name, (value, default) in run.facts.get("settings", {}).items()
            ],
        }
    )
    return found | {"images": list(images.values())}


def tell_story(run: RunReader) -> str:
    """What happened, in one paragraph of figures."""
    done = len({(each["iteration"], each["role"]) for each in run.phases})
    seconds = sum(sum(each["seconds"].values()) for each in run.phases)
    iterations = max((each["iteration"] for each in run.phases), default=0)
    sentences = [
        f"{done} {'phase' if done == 1 else 'phases'} of {iterations} "
        f"{'iteration' if iterations == 1 else 'iterations'} took {span(seconds)}."
    ]
    for column, label in _score_columns(run)[:3]:
        values = [(row["iteration"], row[column]) for row in run.summary if row.get(column) is not None]
        if len(values) > 1:
            (_, first), (last_iteration, last) = values[0], values[-1]
            best_iteration, best = max(values, key=lambda each: each[1])
            sentences.append(f"{label}: {percent(first)} before, {percent(last)} after iteration {last_iteration}.")
            if best_iteration and percent(best) != percent(last):
                sentences[-1] = f"{sentences[-1][:-1]} (best: {percent(best)} after iteration {best_iteration})."
    asked = sum(record["statistics"]["asked"] for record in run.curations.values())
    if asked:
        kept = sum(record["statistics"]["kept"] for record in run.curations.values())
        sentences.append(f"Of {asked:,} questions asked for the data sets {kept:,} were kept, {percent(kept / asked)}.")
    estimates = [
        record["statistics"]["estimated_silver_accuracy"]
        for record in run.curations.values()
        if "estimated_silver_accuracy" in record["statistics"]
    ]
    if estimates:
        sentences.append(
            f"Of the silver answers kept {percent(sum(estimates) / len(estimates))} are right by the estimate that "
            "needs no labels."
        )
    truths = [row["silver_accuracy"] for row in run.summary if row.get("silver_accuracy") is not None]
    if truths:
        sentences.append(f"By the truth, which is known here, {percent(sum(truths) / len(truths))} are.")
    processes = run.facts.get("processes", [])
    if processes:
        ends = f"The run {processes[-1]['exit'] or 'is under way'}"
        again = len(processes) - 1
        times = {0: "", 1: "; it was continued once"}.get(again, f"; it was continued {again} times")
        sentences.append(f"{ends}{times}.")
    return " ".join(sentences)


def percent(fraction: float) -> str:
    """A fraction in per cent, with one decimal.

    Example:
        >>> percent(0.4813)
        '48.1 %'
    """
    return f"{100 * fraction:.1f} %"


def _score_columns(run: RunReader) -> list[tuple[str, str]]:
    """The columns of scores, and what they are called."""
    if not run.summary:
        return []
    names = [name for name in run.summary[0] if name != "iteration" and name not in _CURATION_COLUMNS]
    first = [name for suffix in ("_sampled", "_greedy", "_majority") for name in names if name.endswith(suffix)]
    return [(name, name.replace("_", " ").capitalize()) for name in dict.fromkeys([*first, *names])]


def _tiles(run: RunReader) -> list[dict[str, str]]:
    """The few figures that come first."""
    tiles = []
    for column, label in _score_columns(run)[:4]:
        values = [row[column] for row in run.summary if row.get(column) is not None]
        if values:
            change = f"{100 * (values[-1] - values[0]):+.1f} points" if len(values) > 1 else "base"
            tiles.append({"label": label, "value": percent(values[-1]), "note": change})
    if run.curations:
        kept = sum(record["statistics"]["kept"] for record in run.curations.values())
        tiles.append({"label": "Questions kept", "value": f"{kept:,}", "note": f"{len(run.curations)} data sets"})
    seconds = sum(sum(each["seconds"].values()) for each in run.phases)
    tiles.append({"label": "Time", "value": span(seconds), "note": f"{len(run.phases)} phases"})
    return tiles


def _curves(run: RunReader) -> list[dict[str, Any]]:
    """Charts of lines: a title, what the axes are, and the points of each line."""
    scores = [
        {"name": label, "points": [[row["iteration"], row[name]] for row in run.summary if row.get(name) is not None]}
        for name, label in _score_columns(run)
    ]
    title = "Scores by iteration (0 is the base)"
    charts: list[dict[str, Any]] = [{"title": title, "x": "iteration", "lines": scores}]
    records = [(iteration, record["statistics"]) for iteration, record in run.curations.items()]
    known = {
        "Mean confidence of votes": [[i, s["mean_confidence"]] for i, s in records],
        "Kept silver answers right, estimated": [
            [i, s["estimated_silver_accuracy"]] for i, s in records if "estimated_silver_accuracy" in s
        ],
        "Kept silver answers right, true": [
            [row["iteration"], row["silver_accuracy"]] for row in run.summary if row.get("silver_accuracy") is not None
        ],
        "Fraction kept": [[i, s["kept_fraction"]] for i, s in records],
    }
    charts.append(
        {
            "title": "Confidence, and what silver answers are worth",
            "x": "iteration",
            "lines": [{"name": name, "points": points} for name, points in known.items()],
        }
    )
    roles = list(dict.fromkeys(step["role"] for step in run.steps))
    for title, names in _STEP_CURVES.items():
        lines = []
        for role in roles:
            taken = [step for step in run.steps if step["role"] == role]
            for name in names:
                points = [[n, s[name]] for n, s in enumerate(taken, start=1) if isinstance(s.get(name), int | float)]
                lines.append({"name": role if len(names) == 1 else f"{name} ({role})", "points": points})
        charts.append({"title": title, "x": "step of the role", "lines": lines})
    for chart in charts:
        chart["lines"] = [line for line in chart["lines"] if line["points"]]
    return [chart for chart in charts if chart["lines"]]


def _reasons(run: RunReader) -> list[dict[str, Any]]:
    """What became of the questions of each iteration: kept, or the reason and how many."""
    found = []
    for iteration, record in run.curations.items():
        statistics = record["statistics"]
        rejected = {name.removeprefix("rejected/"): n for name, n in statistics.items() if name.startswith("rejected/")}
        found.append({"iteration": iteration, "parts": {"kept": statistics["kept"]} | rejected})
    return found


def _phase(phase: Mapping[str, Any]) -> dict[str, Any]:
    stages = dict(sorted(phase["seconds"].items()))
    again = f", attempt {phase['attempt'] + 1}" if phase["attempt"] else ""
    return {
        "name": f"{phase['iteration']} {phase['role']}{again}",
        "seconds": stages,
        "total": sum(stages.values()),
        "decision": phase["decision"],
        "started_at": phase["started_at"],
        "checkpoint": phase["checkpoint"],
    }


def _thin(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """All rows, or as many of them, evenly."""
    if len(rows) <= most:
        return rows
    return [rows[n * len(rows) // most] for n in range(most)]


def _question(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("iteration", "image", "thumbnail", "kind", "confidence", "votes", "view", "accuracy", "rejected")
    return {name: row[name] for name in (*names, "question", "own", "silver", "changed", "disagrees")}


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, which are half as long as JSON."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _first_and_last(run: RunReader, iterations: Sequence[int] | None) -> list[dict[str, Any]]:
    """The first group of the first and of the last recorded step of every phase."""
    ends: dict[tuple[int, str, int], list[dict[str, Any]]] = defaultdict(list)
    for group in run.groups():
        if iterations is None or group["iteration"] in iterations:
            phase = ends[group["iteration"], group["role"], group["attempt"]]
            if not phase:
                phase.append(group)
            elif phase[-1]["step"] != group["step"]:
                phase[1:] = [group]
    return [group for phase in ends.values() for group in phase]


def _pair_answers(run: RunReader) -> list[dict[str, Any]]:
    """The greedy answers of the base and after the last iteration, item by item."""
    last = max((row["iteration"] for row in run.summary), default=0)
    if not last:
        return []
    before, after, found = run.answers(0), run.answers(last), []
    for benchmark in before.keys() & after.keys():
        evolved = {item.key: item for item in after[benchmark]}
        for item in before[benchmark]:
            if item.key in evolved:
                sides = {"base": item, "evolved": evolved[item.key]}
                found.append(
                    {
                        "benchmark": benchmark,
                        "image_key": f"{benchmark}/{item.key}",
                        "question": item.problem,
                        "gold": item.gold,
                        **{
                            name: {
                                "answer": each.greedy.answer,
                                "text": each.greedy.text,
                                "right": each.greedy.correct,
                                "samples_right": [sum(s.correct for s in each.samples), len(each.samples)],
                            }
                            for name, each in sides.items()
                        },
                    }
                )
    return found


def _encode(run: RunReader, hashes: Iterable[str | None], most_bytes: int) -> dict[str, str]:
    """Thumbnails as base64, by hash, as many as there is room for."""
    found, total = {}, 0
    for name, webp in run.thumbnails.read(dict.fromkeys(each for each in hashes if each)).items():
        total += len(webp)
        if total > most_bytes:
            break
        found[name] = base64.b64encode(webp).decode()
    return found


def _health(run: RunReader) -> list[str]:
    """What went wrong, or otherwise than planned."""
    found = []
    for process in run.facts.get("processes", []):
        where = f" from {process['continued_from']}" if process.get("continued_from") else ""
        if process.get("exit") not in (None, "finished"):
            found.append(f"The process that began{where} at {process['started_at']} ended: {process['exit']}.")
        if changed := process.get("settings_changed"):
            words = ", ".join(f"{name} from {old} to {new}" for name, (old, new) in changed.items())
            found.append(f"Settings changed at {process['started_at']}: {words}.")
    for phase in run.phases:
        name = f"Iteration {phase['iteration']}, {phase['role']}"
        if phase["decision"] != "advance":
            found.append(f"{name}: the advance rule said {phase['decision']!r}.")
        if skipped := phase["steps_with_skipped_updates"]:
            found.append(f"{name}: {skipped} steps had an update that was not finite and was left out.")
    gaps = [step["logp_gap_max"] for step in run.steps if isinstance(step.get("logp_gap_max"), int | float)]
    if gaps:
        found.append(
            f"Log-probabilities of engine and trainer differed by at most {max(gaps):.1e} nats on a token, "
            f"over {len(gaps):,} steps."
        )
    return found


def _word(value: Any) -> str:
    """A setting as YAML writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """JSON values in which texts are cut to length, and control characters are written as escapes."""
    if isinstance(value, str):
        return visible(shown(value, MOST_CHARACTERS), "\n")
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
