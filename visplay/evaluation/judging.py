"""The answers of a store put before judges, and how the raters agree."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from visplay.benchmark_answers import AnsweredItem
from visplay.data.files import json_line, replacing
from visplay.evaluation.answer_store import AnswerStore, ranked_files
from visplay.judge import PROTOCOLS, Judge, JudgeConfig, JudgeItem, JudgeUsage
from visplay.statistics.raters import agreement_table, compare_all_raters, judge_score

_DIRECTORY = "judged"
RULE = "rule"


def judge_name(config: JudgeConfig) -> str:
    """What a judge is called in tables and file names.

    Example:
        >>> judge_name(JudgeConfig("org/glm-4", protocol="paper"))
        'org-glm-4-paper'
    """
    return re.sub(r"[^\w.-]", "-", config.model) + PROTOCOLS[config.protocol].suffix


def judge_item(item: AnsweredItem, config: JudgeConfig, graded: bool) -> JudgeItem:
    """What a judge is shown of an item: its final answer, or the whole completion where that does not parse.

    ``graded`` asks for a score besides. The judge's protocol may take the whole completion, and cut it itself.
    """
    whole = PROTOCOLS[config.protocol].takes_completion or item.greedy.answer is None
    prediction = item.greedy.text if whole else str(item.greedy.answer)
    return JudgeItem(item.key, item.problem, item.gold, prediction, graded)


def judge_answers(
    judge: Judge, store: AnswerStore, benchmark: str, graded: bool, ranks: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Sequence[AnsweredItem], Sequence[float | None]]]:
    """Judge this rank's items of a benchmark, and keep the verdicts alongside them.

    Args:
        judge: Who judges.
        store: The items.
        benchmark: Name of the benchmark.
        graded: Whether scores are wanted besides.
        ranks: This rank and the number of ranks.

    Yields:
        Items, and a score in [0, 1] for each; None where judging failed.
    """
    directory = store.directory / _DIRECTORY / judge_name(judge.config)
    with replacing(directory / f"{benchmark}-rank{ranks[0]}.jsonl") as file:
        for answers in store.read(benchmark, *ranks):
            verdicts = judge.judge([judge_item(item, judge.config, graded) for item in answers.items])
            for verdict in verdicts:
                fields = {name: getattr(verdict, name) for name in ("key", "correct", "score", "reason")}
                file.write(json_line(fields))
            yield answers.items, [judge_score(verdict.correct, verdict.score) for verdict in verdicts]
    for found in ranked_files(directory) if ranks[0] == 0 else ():
        if found.benchmark == benchmark and found.rank >= ranks[1]:
            found.path.unlink()  # of an evaluation on more ranks, whose items are judged again here


def read_verdicts(store: AnswerStore, judge: str, benchmark: str) -> dict[str, dict[str, Any]]:
    """The verdicts of a judge by key: ``correct`` (null where judging failed), ``score`` and ``reason``."""
    records: dict[str, dict[str, Any]] = {}
    for file in ranked_files(store.directory / _DIRECTORY / judge):
        if file.benchmark == benchmark:
            records |= {record["key"]: record for record in map(json.loads, file.path.read_bytes().splitlines())}
    return records


def write_usage(store: AnswerStore, judge: str, usage: JudgeUsage, rank: int = 0) -> None:
    """Keep what a rank's judging has cost."""
    with replacing(store.directory / _DIRECTORY / judge / f"usage-rank{rank}.json") as file:
        file.write(json_line(vars(usage)))


def read_usage(store: AnswerStore, judge: str, world_size: int = 1) -> JudgeUsage:
    """What the last evaluation's judging has cost on all ranks."""
    total = JudgeUsage()
    for rank in range(world_size):
        found = json.loads((store.directory / _DIRECTORY / judge / f"usage-rank{rank}.json").read_bytes())
        counts: dict[str, Any] = {name: Counter(n) if isinstance(n, dict) else n for name, n in found.items()}
        total.add(JudgeUsage(**counts))
    return total


def describe_usage(judge: str, usage: JudgeUsage) -> str:
    """One line for people.

    Example:
        >>> describe_usage("glm", JudgeUsage(3, cached_items=1, requests=2, prompt_tokens=800, completion_tokens=12))
        'judge glm: 3 items, of which 1 from the cache and 0 blank; 2 requests, 800 + 12 tokens'
    """
    failed = dict(usage.failed_requests), dict(usage.failed_items)
    failures = f"; failed requests {failed[0]}, items without a verdict {failed[1]}" if any(failed) else ""
    return (
        f"judge {judge}: {usage.items} items, of which {usage.cached_items} from the cache and {usage.blank_items} "
        f"blank; {usage.requests} requests, {usage.prompt_tokens} + {usage.completion_tokens} tokens{failures}"
    )


def judges_of(store: AnswerStore) -> list[str]:
    """Names of the judges that have judged items of a store."""
    return sorted(path.name for path in (store.directory / _DIRECTORY).glob("*") if path.is_dir())


def write_agreement(store: AnswerStore, path: Path) -> None:
    """Write how rule and judges agree, as Markdown, and the items they differ on, as JSON lines alongside.

    Nothing is written where no judge has judged.
    """
    judges = judges_of(store)
    if not judges:
        return
    raters: dict[str, dict[str, bool | None]] = {name: {} for name in (RULE, *judges)}
    with replacing(path.with_suffix(".jsonl")) as file:
        for benchmark in store.benchmarks():
            verdicts = {judge: read_verdicts(store, judge, benchmark) for judge in judges}
            for item in store.items(benchmark):
                said: dict[str, bool | None] = {RULE: item.greedy.correct}
                said |= {judge: found.get(item.key, {}).get("correct") for judge, found in verdicts.items()}
                for name, verdict in said.items():
                    raters[name][f"{benchmark}/{item.key}"] = verdict
                if {True, False} <= set(said.values()):
                    fields = {name: getattr(item, name) for name in ("benchmark", "key", "problem", "gold")}
                    file.write(json_line(fields | {"answer": item.greedy.answer} | said))
    with replacing(path) as file:
        file.write(f"{agreement_table(compare_all_raters(raters))}\n".encode())
