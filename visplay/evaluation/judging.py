"""The answers of a store put before judges, and how the raters agree."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from visplay.answered import AnsweredRow
from visplay.data.files import replacing
from visplay.evaluation.store import RowStore, json_line, ranked_files
from visplay.judge import PROTOCOLS, Judge, JudgeConfig, JudgeItem, JudgeUsage, Verdict
from visplay.statistics.raters import agreement_table, compare_all_raters, judge_score

_DIRECTORY = "judged"
RULE = "rule"


def judge_name(config: JudgeConfig) -> str:
    """What a judge is called in tables and file names.

    Example:
        >>> judge_name(JudgeConfig("org/glm-4", protocol="paper"))
        'org-glm-4-paper'
    """
    name = re.sub(r"[^\w.-]", "-", config.model)
    return f"{name}{PROTOCOLS[config.protocol].suffix}"


def judge_item(row: AnsweredRow, config: JudgeConfig, graded: bool) -> JudgeItem:
    """What a judge is shown of a row: its final answer, or the whole completion where that does not parse.

    Args:
        row: The row.
        config: The judge; its protocol may take the whole completion, and cut it itself.
        graded: Whether a score is wanted besides.
    """
    whole = PROTOCOLS[config.protocol].takes_completion or row.greedy.answer is None
    prediction = row.greedy.text if whole else str(row.greedy.answer)
    return JudgeItem(row.key, row.problem, row.gold, prediction, graded)


def judge_rows(
    judge: Judge, store: RowStore, benchmark: str, graded: bool, ranks: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Sequence[AnsweredRow], Sequence[float | None]]]:
    """Judge this rank's rows of a benchmark, and keep the verdicts beside them.

    Args:
        judge: Who judges.
        store: The rows.
        benchmark: Name of the benchmark.
        graded: Whether scores are wanted besides.
        ranks: This rank and the number of ranks.

    Yields:
        Rows, and a score in [0, 1] for each; None where judging failed.
    """
    directory = store.directory / _DIRECTORY / judge_name(judge.config)
    with replacing(directory / f"{benchmark}-rank{ranks[0]}.jsonl") as file:
        for answers in store.read(benchmark, *ranks):
            verdicts = judge.judge([judge_item(row, judge.config, graded) for row in answers.rows])
            for verdict in verdicts:
                file.write(json_line(_as_record(verdict)))
            yield answers.rows, [judge_score(verdict.correct, verdict.score) for verdict in verdicts]
    for found in ranked_files(directory) if ranks[0] == 0 else ():
        if found.benchmark == benchmark and found.rank >= ranks[1]:
            found.path.unlink()  # of an evaluation on more ranks, whose rows are judged again here


def read_verdicts(store: RowStore, judge: str, benchmark: str) -> dict[str, dict[str, Any]]:
    """The verdicts of a judge by key: ``correct`` (null where judging failed), ``score`` and ``reason``."""
    records: dict[str, dict[str, Any]] = {}
    for file in ranked_files(store.directory / _DIRECTORY / judge):
        if file.benchmark == benchmark:
            records |= {record["key"]: record for record in map(json.loads, file.path.read_bytes().splitlines())}
    return records


def write_usage(store: RowStore, judge: str, usage: JudgeUsage, rank: int = 0) -> None:
    """Keep what a rank's judging has cost."""
    with replacing(_usage_path(store, judge, rank)) as file:
        file.write(json_line(vars(usage)))


def read_usage(store: RowStore, judge: str, world_size: int = 1) -> JudgeUsage:
    """What the last evaluation's judging has cost on all ranks."""
    total = JudgeUsage()
    for rank in range(world_size):
        found = json.loads(_usage_path(store, judge, rank).read_bytes())
        counts: dict[str, Any] = {name: Counter(n) if isinstance(n, dict) else n for name, n in found.items()}
        total.add(JudgeUsage(**counts))
    return total


def describe_usage(judge: str, usage: JudgeUsage) -> str:
    """One line for people.

    Example:
        >>> describe_usage("glm", JudgeUsage(3, cached_rows=1, requests=2, prompt_tokens=800, completion_tokens=12))
        'judge glm: 3 rows, of which 1 from the cache and 0 blank; 2 requests, 800 + 12 tokens'
    """
    failed = dict(usage.failed_requests), dict(usage.failed_rows)
    faults = f"; failed requests {failed[0]}, rows without a verdict {failed[1]}" if any(failed) else ""
    return (
        f"judge {judge}: {usage.rows} rows, of which {usage.cached_rows} from the cache and {usage.blank_rows} blank; "
        f"{usage.requests} requests, {usage.prompt_tokens} + {usage.completion_tokens} tokens{faults}"
    )


def judges_of(store: RowStore) -> list[str]:
    """Names of the judges that have judged rows of a store."""
    return sorted(path.name for path in (store.directory / _DIRECTORY).glob("*") if path.is_dir())


def write_agreement(store: RowStore, path: Path) -> None:
    """Write how rule and judges agree, as Markdown, and the rows they differ on, as JSON lines beside it.

    Nothing is written where no judge has judged.
    """
    judges = judges_of(store)
    if not judges:
        return
    raters: dict[str, dict[str, bool | None]] = {name: {} for name in (RULE, *judges)}
    with replacing(path.with_suffix(".jsonl")) as file:
        for benchmark in store.benchmarks():
            verdicts = {judge: read_verdicts(store, judge, benchmark) for judge in judges}
            for row in store.rows(benchmark):
                said: dict[str, bool | None] = {RULE: row.greedy.correct}
                said |= {judge: found.get(row.key, {}).get("correct") for judge, found in verdicts.items()}
                for name, verdict in said.items():
                    raters[name][f"{benchmark}/{row.key}"] = verdict
                if {True, False} <= set(said.values()):
                    file.write(json_line(_describe(row) | said))
    with replacing(path) as file:
        file.write(f"{agreement_table(compare_all_raters(raters))}\n".encode())


def _usage_path(store: RowStore, judge: str, rank: int) -> Path:
    return store.directory / _DIRECTORY / judge / f"usage-rank{rank}.json"


def _describe(row: AnsweredRow) -> dict[str, Any]:
    return {
        "benchmark": row.benchmark,
        "key": row.key,
        "problem": row.problem,
        "gold": row.gold,
        "answer": row.greedy.answer,
    }


def _as_record(verdict: Verdict) -> dict[str, Any]:
    return {"key": verdict.key, "correct": verdict.correct, "score": verdict.score, "reason": verdict.reason}
