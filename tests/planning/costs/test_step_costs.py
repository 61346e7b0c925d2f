"""Costs of whole steps on a number of GPUs, and ``visplay plan --gpus``."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.scaling import on, read_all
from visplay.__main__ import main
from visplay.modules import SecondView
from visplay.planning.costs.cost_tables import cost_lines, cost_notes, duration, total
from visplay.planning.costs.machines import MACHINES, with_rates
from visplay.planning.costs.step_costs import Stage
from visplay.planning.settings import VLLMPlan

CONFIGS = Path(__file__).parents[3] / "configs"
WEIGHTS, HEAD = 3_754_622_976, 151_936 * 2048
MERGER = 1280 + 5120 * 5120 + 5120 + 5120 * 2048 + 2048
OUTSIDE_LAYERS = HEAD + 2048 + MERGER + 1176 * 1280  # the last norm, and the embedding of patches


@pytest.fixture(scope="module")
def settings():
    return read_all()["3B"]


def test_one_gpu_sends_nothing(settings):
    costs = on(settings, 1, sharded=False)
    questioner, reasoner = settings.roles
    stages = [*costs.step(questioner).values(), *costs.step(reasoner).values(), *costs.curation(1000).values()]
    assert all(stage.network_bytes == 0 and stage.seconds > 0 for stage in stages)


def test_a_second_vote_costs_as_much_as_the_first_and_a_load_more(settings):
    plain = on(settings, 1, sharded=False).curation(1000)
    view = replace(settings.curation, second_view=SecondView())
    twice = on(replace(settings, curation=view), 1, sharded=False).curation(1000)
    assert twice["second votes"] == twice["votes"] == plain["votes"]
    assert twice["load"].seconds == pytest.approx(1.5 * plain["load"].seconds)


def test_answers_from_descriptions_are_a_stage_of_their_own(settings):
    plain = on(settings, 1, sharded=False).step(settings.roles[1])
    costs = on(settings, 1, sharded=False).step(replace(settings.roles[1], describes=True))
    assert costs.pop("descriptions").seconds > 0.3 * costs["rollout"].seconds
    assert costs == plain


def test_gradients_are_summed_once_in_an_update(settings):
    update = on(settings, 8, sharded=False).step(settings.roles[1])["update"]
    assert update.network_bytes == 4 * 2 * 4 * WEIGHTS * 7 / 8


def test_cut_weights_are_gathered_in_every_micro_batch(settings):
    costs = on(settings, 64, sharded=True)
    update, load = (costs.step(settings.roles[1])[name] for name in ("update", "load"))
    # four updates of two prompts a rank, a micro-batch each; reference and policy score eight prompts in three
    passes = 4 * 4 * (2 * WEIGHTS - OUTSIDE_LAYERS + WEIGHTS) + 2 * 3 * 4 * WEIGHTS
    assert update.network_bytes == pytest.approx(passes * 63 / 64)
    assert load.network_bytes == 4 * WEIGHTS * 63 / 64


@pytest.mark.parametrize("sharded", [False, True])
def test_more_gpus_are_faster_but_never_more_than_as_many_times(settings, sharded):
    for role in settings.roles:
        one, eight = (total(on(settings, gpus, sharded and gpus > 1).step(role)).seconds for gpus in (1, 8))
        assert one / 8 < eight < one / 7


def test_a_small_batch_of_images_leaves_engines_idle_and_loads_more_often(settings):
    few, many = (on(settings, 64, True, images_per_batch=n).curation(100_000) for n in (64, 4096))
    assert few["load"].seconds == pytest.approx(64 * many["load"].seconds)
    assert few["questions"].seconds > 4 * many["questions"].seconds
    assert few["votes"].seconds > many["votes"].seconds


def test_engines_that_share_weights_send_hidden_states(settings):
    assert isinstance(settings.engine, VLLMPlan)
    engine = replace(settings.engine, settings=replace(settings.engine.settings, tensor_parallel_size=4))
    alone, shared = (on(each, 8, True).step(settings.roles[1]) for each in (settings, replace(settings, engine=engine)))
    assert shared["rollout"].network_bytes > 100 * alone["rollout"].network_bytes
    assert shared["rollout"].seconds > alone["rollout"].seconds
    assert shared["update"] == alone["update"]


def test_an_engine_on_other_devices_is_not_counted(settings):
    costs = on(replace(settings, engine=None), 8, sharded=True)
    step = costs.step(settings.roles[0])
    assert step["rollout"] == step["votes"] == step["load"] == Stage()
    assert step["update"].seconds > 0
    assert any("sampling is on other devices" in note for note in cost_notes(costs))


def test_the_lines_add_up(settings):
    costs = on(settings, 8, sharded=True)
    lines = {line[0]: line[1:] for line in cost_lines(costs)}
    assert lines["questioner: votes"][0] == lines["questioner: rollout"][0] != lines["questioner: update"][0]
    steps = [total(costs.step(role)).times(role.grpo.steps) for role in settings.roles]
    assert lines["an iteration"][1] == duration(sum(s.seconds for s in steps) + total(costs.curation(1000)).seconds)


def test_rates_of_a_file(tmp_path):
    h100, path = MACHINES["h100"], tmp_path / "rates.json"
    rates = {name: asdict(replace(h100.training, layers=7.0)) for name in ("sampling", "training", "loading")}
    path.write_text(json.dumps(rates))
    assert with_rates(h100, path).training.layers == 7.0
    assert with_rates(h100, path).measured
    path.write_text(json.dumps({"sampling": rates["sampling"]}))
    with pytest.raises(ValueError, match=r"rates.json' must have those of sampling, training and loading: 'training'"):
        with_rates(h100, path)


@pytest.fixture
def arguments(checkpoints, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = f"--model.init_args.vlm.init_args.path={checkpoints['3b']}"
    return ["plan", f"--config={CONFIGS / 'qwen2_5_vl_3b.yaml'}", path]


def test_the_command(arguments, capsys):
    cut = "--trainer.strategy.class_path=lightning.pytorch.strategies.ModelParallelStrategy"
    means = ["--image-tokens=1024", "--completion-tokens=512"]
    main([*arguments, cut, "--gpus=64", "--nodes=8", *means, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["device"]["count"], found["device"]["nodes"], found["device"]["sharded"]) == (64, 8, True)
    assert found["stages"]["reasoner: update"]["gradients"] == 4 * WEIGHTS // 64
    assert list(found["costs"]["stages"]["questioner"]) == ["rollout", "votes", "load", "update"]
    assert found["costs"]["stages"]["curation"].keys() == {"questions", "votes", "load"}
    assert found["costs"]["lengths"]["completion_tokens"] == {"questioner": 512, "reasoner": 512}
    main([*arguments, "--gpus=8"])
    told = capsys.readouterr().out
    assert "8 x H100 SXM 80 GB, 1 machine, DDP: computed, not measured" in told
    assert "note: time is computed" in told


def test_without_gpus_it_says_what_it_did(arguments, capsys):
    main([*arguments, "--memory-gib=79", "--json"])
    assert "costs" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--gpus=0"], "argument --gpus: '0' must be a whole number, at least 1"),
        (["--gpus=8", "--nodes=3"], "argument --gpus: 8 must be a multiple of --nodes 3"),
        (["--nodes=2"], "argument --nodes: 2 needs --gpus"),
        (["--gpus=8", "--image-tokens=6000"], "image-tokens: 6000 must be between 334 and 5349"),
        (["--gpus=8", "--rates=none.json"], "rates: 'none.json' must have those of"),
        (["--gpus=8", "--machine=v100"], "argument --machine: invalid choice: 'v100'"),
        (
            ["--gpus=8", "--rollout.init_args.engine.tensor_parallel_size=3"],
            "tensor_parallel_size: 3 must divide the 8 ranks",
        ),
    ],
)
def test_bad_values_are_rejected(arguments, capsys, given, message):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *given])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
