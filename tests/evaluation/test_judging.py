import json
from dataclasses import replace

import pytest

from answers import answer, batch, item, stored
from judge_server import honest, say
from visplay.evaluation import judge_answers, judge_name, write_agreement
from visplay.evaluation.judging import judges_of, read_verdicts
from visplay.judge import Judge, JudgeConfig, JudgeLimits
from visplay.metrics import BenchmarkScores

ROWS = [item("a", True), item("b", False), item("c", None)]
ONCE = JudgeLimits(retries=0)


def _judge(model="m", **settings):
    return Judge(JudgeConfig(model, limits=ONCE, **settings))


def _judged(judge, store, *benchmarks, graded=False, ranks=(0, 1)):
    """Scores by key."""
    parts = [part for name in benchmarks or ["b"] for part in judge_answers(judge, store, name, graded, ranks)]
    return {answered.key: score for items, scores in parts for answered, score in zip(items, scores, strict=True)}


def _verdicts(store, judge="m", benchmark="b"):
    return {key: record["correct"] for key, record in read_verdicts(store, judge, benchmark).items()}


def _fails_on_wrong(seen, attempt):
    return say("nonsense") if seen.item["prediction"] == "8" else honest(seen, attempt)


def _say_of_two(seen, attempt):
    """Judge n finds everything right; m too where nine is said, and else says what ``_fails_on_wrong`` says."""
    lenient = seen.body["model"] == "n" or seen.item["prediction"] == "nine"
    return say({"correct": True}) if lenient else _fails_on_wrong(seen, attempt)


def test_verdicts_lie_beside_the_rows(serve, tmp_path):
    serve()
    store = stored(tmp_path, b=ROWS)
    assert _judged(_judge(), store) == {"a": 1.0, "b": 0.0, "c": 0.0}
    lines = (tmp_path / "judged" / "m" / "b-rank0.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"key": "b", "correct": False, "score": None, "reason": ""}
    assert _verdicts(store) == {"a": True, "b": False, "c": False}
    assert judges_of(store) == ["m"]
    assert store.benchmarks() == ["b"]


def test_what_the_judge_is_shown(serve, tmp_path):
    server = serve()
    _judged(_judge(), stored(tmp_path, b=ROWS))
    shown = {seen.item["prediction"]: seen.item for seen in server.seen}
    assert shown.keys() == {"7", "8", "I do not know"}  # the last does not parse: all that was said
    assert shown["8"] == {"question": "Question b?", "gold": "7", "prediction": "8"}


def test_the_protocol_of_the_paper_cuts_the_whole_completion_itself(serve, tmp_path):
    server = serve(lambda seen, attempt: say("1"))
    said = replace(answer(True), text=r"\boxed{0}, no: \boxed{\frac{1}{2}}.", answer=r"\frac{1}{2}")
    store = stored(tmp_path, b=[replace(ROWS[0], greedy=said)])
    assert _judged(_judge("org/glm", protocol="paper"), store) == {"a": 1.0}
    assert r"Answer to judge: \frac{1. Your" in server.seen[0].item["prediction"]
    assert judges_of(store) == ["org-glm-paper"] == [judge_name(JudgeConfig("org/glm", protocol="paper"))]


def test_scores_of_graded_rows(serve, tmp_path):
    serve(lambda seen, attempt: say({"correct": seen.item["prediction"] == "7", "score": 0.7}))
    store = stored(tmp_path, b=ROWS[:2])
    assert _judged(_judge(), store, graded=True) == {"a": 0.7, "b": 0.7}
    found = read_verdicts(store, "m", "b")
    assert {key: (record["correct"], record["score"]) for key, record in found.items()} == {
        "a": (True, 0.7),
        "b": (False, 0.7),
    }


def test_where_judging_fails_the_rule_stands(serve, tmp_path):
    """The item that fails, and the one whose right answer the judge denies."""
    serve(lambda seen, attempt: say("nonsense") if seen.item["question"].endswith("a?") else say({"correct": False}))
    store, scores = stored(tmp_path, b=[item("a", True), item("d", True)]), BenchmarkScores(judges=["m"])
    for items, found in judge_answers(_judge(), store, "b", graded=False):
        scores.update(batch(*items))
        scores.update_judged("m", items, found)
    report = scores.compute()
    assert report.metrics["judge_accuracy/m"].value == 0.5
    assert report.counts["unjudged/m"] == 1
    record = read_verdicts(store, "m", "b")["a"]
    assert record == {"key": "a", "correct": None, "score": None, "reason": "malformed"}


def test_ranks_judge_their_own_rows(serve, tmp_path):
    server, store = serve(), stored(tmp_path, b=[item("a", True)])
    store.append(batch(item("b", False)), rank=1)
    assert _judged(_judge(), store, ranks=(0, 2)) == {"a": 1.0}
    assert _judged(_judge(), store, ranks=(1, 2)) == {"b": 0.0}
    assert _verdicts(store) == {"a": True, "b": False}
    assert sorted(server.asked()) == ["7", "8"]


def test_fewer_ranks_judge_again(serve, tmp_path):
    """What failed on the second of two ranks does not stand beside what one rank finds later."""
    server, store = serve(_fails_on_wrong), stored(tmp_path, b=[item("a", True)], d=[item("a", True)])
    store.append(batch(item("b", False)), rank=1)
    store.append(batch(item("c", True), benchmark="d"), rank=1)
    for rank in range(2):
        _judged(_judge(), store, "b", "d", ranks=(rank, 2))
    assert _verdicts(store) == {"a": True, "b": None}
    server.script = honest
    _judged(_judge(), store)
    assert _verdicts(store) == {"a": True, "b": False}
    assert _verdicts(store, benchmark="d") == {"a": True, "c": True}


def test_judging_that_is_broken_off_leaves_the_verdicts_there_were(serve, tmp_path):
    server, store = serve(), stored(tmp_path, b=ROWS)
    _judged(_judge(), store)
    server.script = lambda seen, attempt: say({"correct": True})
    judging = judge_answers(_judge(), store, "b", graded=False)
    next(judging)
    judging.close()
    assert _verdicts(store) == {"a": True, "b": False, "c": False}


def test_agreement_lists_the_rows_that_raters_differ_on(serve, tmp_path):
    """Rule and m: a and c alike, d apart, b without a verdict of m; n finds all right."""
    serve(_say_of_two)
    nine = replace(answer(False), answer="nine")
    store = stored(tmp_path, b=[*ROWS, replace(item("d", False), greedy=nine)])
    for model in ("m", "n"):
        _judged(_judge(model), store)
    path = tmp_path / "agreement.md"
    write_agreement(store, path)
    assert path.read_text() == "\n".join(
        [
            "| raters | items | agreement | kappa | right by first only | right by second only | not rated by both |",
            "|---|---|---|---|---|---|---|",
            "| rule, m | 3 | 66.7 % | 0.400 | 0 | 1 | 1 |",
            "| rule, n | 4 | 25.0 % | 0.000 | 0 | 3 | 0 |",
            "| m, n | 3 | 66.7 % | 0.000 | 0 | 1 | 1 |",
            "",
        ]
    )
    listed = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    assert {r["key"]: (r["rule"], r["m"], r["n"]) for r in listed} == {
        "b": (False, None, True),
        "c": (False, False, True),
        "d": (False, True, True),
    }
    texts = {"benchmark": "b", "key": "d", "problem": "Question d?", "gold": "7", "answer": "nine"}
    assert listed[-1] == texts | {"rule": False, "m": True, "n": True}


def test_rows_of_two_benchmarks_may_share_a_key(serve, tmp_path):
    serve(lambda seen, attempt: say({"correct": True}))
    store = stored(tmp_path, b=[item("a", True)], d=[replace(item("a", False), benchmark="d", problem="\ud800")])
    _judged(_judge(), store, "b", "d")
    write_agreement(store, tmp_path / "agreement.md")
    assert "| rule, m | 2 | 50.0 % | 0.000 | 0 | 1 | 0 |" in (tmp_path / "agreement.md").read_text()
    (line,) = (tmp_path / "agreement.jsonl").read_text().splitlines()
    assert (json.loads(line)["benchmark"], json.loads(line)["problem"]) == ("d", "\ud800")


def test_without_a_judge_there_is_nothing_to_agree_with(tmp_path):
    write_agreement(stored(tmp_path, b=ROWS), tmp_path / "agreement.md")
    assert not (tmp_path / "agreement.md").exists()


@pytest.mark.parametrize(
    ("config", "name"),
    [(JudgeConfig("glm-4.5"), "glm-4.5"), (JudgeConfig("org/a b", protocol="paper"), "org-a-b-paper")],
)
def test_names_of_judges_can_be_files(config, name):
    assert judge_name(config) == name
