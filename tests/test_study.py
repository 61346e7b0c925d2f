"""The page of examples/study, its file, and its controls, on numbers and examples made by hand."""

import json
import math

import pytest
import yaml
from PIL import Image

from examples.study.controls import RandomAnswer, ShuffledLabels, TrueLabels
from examples.study.logs import DESCRIPTIONS, SAMPLED, read_rows
from examples.study.plan import Arm, Study, read_study
from examples.study.tables import BLIND, Results, write_page
from examples.study.worlds import shapes_family
from visplay.data.draws import Draws, MixedDraws
from visplay.tiny.self_play_images import silver_truth
from visplay.tiny.shapes import SHAPES
from visplay.types import Example

ARMS = (
    Arm("ours", ["ours.yaml"], label="Ours"),
    Arm("theirs", ["theirs.yaml"]),
    Arm("control", ["ours.yaml"], ["--data=other"], table="Controls"),
)


def study(**changed):
    given = {"directory": "runs", "seeds": [0, 1], "iterations": 1, "arms": ARMS, "worlds": {"tiny": shapes_family}}
    return Study(**given | {"comparisons": [("ours", "theirs")]} | changed)


def run(base, sampled, tokens):
    cost = {"sampled_tokens": 0.75 * tokens, "learned_tokens": 0.25 * tokens, "seconds": 9.0}
    first = {SAMPLED: base, "sampled_tokens": 0.0, "learned_tokens": 0.0, "seconds": 0.0}
    return [first, {SAMPLED: sampled, "families": 2.0, "kept/count": 1.0, "accuracy/count": sampled} | cost]


@pytest.fixture
def page():
    runs = {
        ("ours", 0): run(0.5, 0.7, 1e6),
        ("ours", 1): run(0.4, 0.8, 1e6),
        ("theirs", 0): run(0.5, 0.65, 4e6),
        ("theirs", 1): run(0.4, 0.75, 4e6),
    }
    return write_page(Results(study(), runs), "python -m examples.study s.yaml", "s.svg").splitlines()


def test_means_and_intervals_over_seeds(page):
    """Of two values Student's t is 12.706: 45 ± 12.706 · 5 for the base, whose values are 50 and 40."""
    assert "| Ours | 45.0 [-18.5, 108.5] | 75.0 [11.5, 138.5] |" in page
    assert "| Ours | – | 2.00 [2.00, 2.00] |" in page
    assert "from the logs of 4 of 6 runs" in page[2]
    assert "![Sampled answers by iteration](s.svg)" in page


def test_differences_are_paired_by_seed(page):
    """Each seed differs by 5 points, however far the seeds are apart; the gains are .3 and .25."""
    assert "| Ours less theirs | 2 | **5.0 [5.0, 5.0]** | 1.20 |" in page


def test_what_descriptions_lead_to_is_compared_where_all_runs_have_it(page):
    assert not [line for line in page if line.startswith("Right answers from the description alone")]
    runs = {(arm, seed): run(0.5, 0.7, 1e6) for arm in ("ours", "theirs") for seed in range(2)}
    for (arm, seed), rows in runs.items():
        for iteration, row in enumerate(rows):
            row[BLIND] = 0.3 + iteration * (0.2 if arm == "ours" else 0.1) + 0.05 * seed
    lines = write_page(Results(study(), runs), "", "").splitlines()
    at = lines.index(
        "Right answers from the description alone, seed by seed, in points; in bold where the interval is clear of 0."
    )
    assert lines[at + 4] == "| Ours less theirs | 2 | **10.0 [10.0, 10.0]** | 2.00 |"


def test_costs_and_accuracy_at_equal_tokens(page):
    """A quarter of the way from 50 to 65 and from 40 to 75, where the first arm is at its end."""
    assert "| Ours | 1 | 0.750 | 0.250 | 1.000 | 75.0 [11.5, 138.5] | 9 |" in page
    assert "| theirs | 1 | 3.000 | 1.000 | 4.000 | 51.2 [19.5, 83.0] | 9 |" in page


def test_an_arm_without_runs_is_in_no_table(page):
    assert [line for line in page if line.startswith("| control")] == ["| control | `ours.yaml --data=other` |"]


def test_one_seed_has_no_interval():
    lines = write_page(Results(study(), {("ours", 0): run(0.5, 0.7, 1e6)}), "command", "s.svg").splitlines()
    assert "| Ours | 50.0 | 70.0 |" in lines


def test_a_run_that_ended_early_stays_at_its_last_iteration():
    results = Results(study(iterations=3), {("ours", 0): run(0.5, 0.7, 1e6)})
    assert [results.estimate("ours", iteration, SAMPLED).value for iteration in range(4)] == [0.5, 0.7, 0.7, 0.7]


def test_an_arm_of_fewer_iterations_ends_there():
    arms = [*ARMS[:2], Arm("brief", ["ours.yaml"], iterations=1)]
    base, end = run(0.5, 0.7, 1e6)
    runs = {("ours", seed): [base, end, {**end, SAMPLED: 0.9}] for seed in (0, 1)}
    runs |= {("brief", seed): [base, {**end, SAMPLED: 0.6}] for seed in (0, 1)}
    of_two = study(arms=arms, iterations=2, comparisons=[("ours", "brief")])
    assert of_two.command(arms[2], 0)[-3] == "--self_play.iterations=1"
    results = Results(of_two, runs)
    assert results.estimate("brief", 2, SAMPLED) is None
    lines = write_page(results, "command", "s.svg").splitlines()
    assert "| Ours | 50.0 [50.0, 50.0] | 70.0 [70.0, 70.0] | 90.0 [90.0, 90.0] |" in lines
    assert "| brief | 50.0 [50.0, 50.0] | 60.0 [60.0, 60.0] | – |" in lines
    assert "| Ours less brief | 2 | **10.0 [10.0, 10.0]** | – | 2.00 |" in lines
    assert "**Sampled answers by question family, after iteration 1**" in lines, "the last that both have"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"arms": [*ARMS, Arm("never", ["x.yaml"], iterations=0)]},
            r"one iteration, got \[0, 1\] and \[0, 1\]",
        ),
        ({"arms": [*ARMS, Arm("ours", ["x.yaml"])]}, r"arms: names must differ, got \['ours'\] more than once"),
        ({"comparisons": [("ours", "hers")]}, r"comparisons: \['hers'\] are no arms"),
        ({"worlds": {}}, r"worlds: \['tiny'\] are not given"),
        ({"seeds": [1, 1]}, r"seeds, iterations: need different seeds .* got \[1, 1\] and \[1\]"),
    ],
)
def test_a_study_that_cannot_be_run(changed, message):
    with pytest.raises(ValueError, match=message):
        study(**changed)


def test_some_of_the_arms():
    some = study().only(["theirs", "control"])
    assert [arm.name for arm in some.arms] == ["theirs", "control"]
    assert some.comparisons == []
    with pytest.raises(ValueError, match=r"arms: \['hers'\] are none of \['ours', 'theirs', 'control'\]"):
        study().only(["hers"])


@pytest.mark.parametrize(("name", "seeds", "iterations"), [("study", range(100, 105), 6), ("choose", range(5), 4)])
def test_the_files(name, seeds, iterations):
    found = read_study(f"examples/study/{name}.yaml")
    assert list(found.seeds) == list(seeds)
    assert found.command(found.arms[0], seeds[0]) == [
        "fit",
        "--config=configs/tiny.yaml",
        "--config=configs/recipes/holds.yaml",
        *found.arguments,
        *found.arms[0].arguments,
        f"--model.seed={seeds[0]}",
        f"--self_play.iterations={iterations}",
        f"--trainer.default_root_dir=runs/{name}/holds/{seeds[0]}",
        "--auto_resume",
    ]


def test_an_unknown_setting_of_a_study(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"directory": "runs", "sead": 1}))
    with pytest.raises(SystemExit):
        read_study(tmp_path / "s.yaml")
    assert "sead" in capsys.readouterr().err


def test_rows_are_what_was_logged(tmp_path):
    """A Reasoner's phase was repeated: its data set is the last one's, its cost that of both."""
    (tmp_path / "summary.json").write_text(
        json.dumps([{"iteration": 0, SAMPLED: 0.5, "kept": None}, {"iteration": 1, SAMPLED: 0.6, "kept": 3}])
    )
    stages = ["iteration-1", "iteration-1-repeat-1"]
    phases = [{"iteration": 1, "dataset": None, "seconds": {"rollout": 1.5}, "tokens": {"rollout": 5, "update": 4}}]
    phases += [
        {
            "iteration": 1,
            "dataset": {"path": f"generated/{stage}.parquet"},
            "seconds": {"update": 1.0, "validation": 9.0},
            "tokens": {"votes": 10, "update": 3},
        }
        for stage in stages
    ]
    (tmp_path / "phases.jsonl").write_text("\n".join(map(json.dumps, phases)))
    statistics = {"statistics": {"estimated_silver_accuracy": 0.9}}
    (tmp_path / "manifest.json").write_text(json.dumps(dict.fromkeys(stages, statistics)))
    asked = [("What is in a1?", None), ("Is there a circle?", None), ("What is in b1?", "tied"), ("Why?", None)]
    for stage, rows in zip(stages, (asked[:1], asked), strict=True):
        (tmp_path / "generated" / stage).mkdir(parents=True)
        lines = [json.dumps({"question": text, "rejected": reason}) for text, reason in rows]
        (tmp_path / "generated" / stage / "admission.jsonl").write_text("\n".join(lines))
    (tmp_path / DESCRIPTIONS).write_text(json.dumps({"1": {BLIND: 0.4}}))
    base, first = read_rows(tmp_path, shapes_family)
    assert base == {SAMPLED: 0.5, "sampled_tokens": 0, "learned_tokens": 0, "seconds": 0}
    assert first == {
        SAMPLED: 0.6,
        BLIND: 0.4,
        "kept": 3,
        "estimated_silver_accuracy": 0.9,
        "sampled_tokens": 25,
        "learned_tokens": 10,
        "seconds": 3.5,
        **dict.fromkeys(("kept/content", "kept/existence", "kept/other"), pytest.approx(1 / 3)),
        "families": pytest.approx(3),
    }


IMAGES, SEED = 3, 5


@pytest.fixture
def examples():
    """Questions of two types, whose votes have one class more than the silver answer."""
    texts = {"How many circles are there?": "numerical", "Is there a red circle?": "yes or no", "Why?": "yes or no"}
    return [
        Example(
            key=f"1/{name}#{text}",
            image=Image.new("RGB", (8, 8)),
            problem=text,
            answer=f"{number}",
            problem_type=kind,
            votes=((f"{number}", 3), ("other", 1)),
            image_id=name,
            iteration=1,
        )
        for number, name in enumerate(silver_truth(IMAGES, SEED))
        for text, kind in texts.items()
    ]


def learned(world, examples):
    """What a phase learns from, in the order of the examples."""
    drawn = world.mix(silver=Draws(examples, seed=0)).draw(len(world.answers(examples)))
    return sorted(drawn, key=lambda each: [other.key for other in examples].index(each.key))


def test_shuffled_labels(examples):
    found = learned(ShuffledLabels(n_images=IMAGES, image_seed=SEED), examples)
    assert [each.key for each in found] == [each.key for each in examples]
    assert [each.answer for each in found] != [each.answer for each in examples]
    for kind in ("numerical", "yes or no"):
        before, after = (sorted(e.answer for e in these if e.problem_type == kind) for these in (examples, found))
        assert before == after


def test_a_random_answer_is_one_of_the_votes(examples):
    many = [Example(**vars(examples[0]) | {"key": f"1/{number}"}) for number in range(400)]
    found = learned(RandomAnswer(n_images=IMAGES, image_seed=SEED), many)
    winners = sum(each.answer == "0" for each in found)
    assert {each.answer for each in found} == {"0", "other"}
    assert winners / 400 == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 400))


def test_true_labels_leave_out_what_has_no_truth(examples):
    world = TrueLabels(n_images=IMAGES, image_seed=SEED)
    scenes = silver_truth(IMAGES, SEED)
    found = learned(world, examples)
    assert [each.answer for each in found] == [
        SHAPES.solve(scenes[e.image_id], e.problem) for e in examples if e.problem != "Why?"
    ]
    assert world.silver_accuracy(examples) == 1.0


def test_labels_of_a_mixture_with_replayed_examples_are_not_replaced(examples):
    mixture = MixedDraws(Draws(examples, seed=0), Draws(examples, seed=1), share=0.5)
    with pytest.raises(ValueError, match="replay: .* leave it null"):
        ShuffledLabels(n_images=IMAGES, image_seed=SEED).mix(mixture)
