"""Plans of the shipped configurations: counted weights, sums, refusals, and advice that holds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from visplay.__main__ import main
from visplay.cli import instantiate
from visplay.planning.activations import Precision
from visplay.planning.amounts import curation_amounts, disk_bytes, host_bytes, phase_amounts
from visplay.planning.plan_tables import notes
from visplay.planning.reading import given_device, read_settings
from visplay.planning.run_plan import make_plan, micro_batches
from visplay.planning.suggestions import suggestions

CONFIGS = Path(__file__).parents[2] / "configs"
LORA = f"--config={CONFIGS / 'lora.yaml'}"
GIB = 2**30


@pytest.fixture
def arguments(checkpoints, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def make(config, shape, *further):
        path = f"--model.init_args.vlm.init_args.path={checkpoints[shape]}"
        return [f"--config={CONFIGS / config}.yaml", path, *further]

    return make


@pytest.fixture(scope="module")
def known():
    """Settings that were read, by what they were read from; nothing changes them."""
    return {}


@pytest.fixture
def read(arguments, known):
    def make(*given, gib=79.0):
        if (given, gib) not in known:
            built = instantiate(arguments(*given))
            device = given_device("gpu", gib, 0, None)
            known[given, gib] = read_settings(built.model, built.callbacks, built.trainer, device)
        return known[given, gib]

    return make


def test_weights_are_those_of_the_published_models(read):
    small, large = read("qwen2_5_vl_3b", "3b"), read("qwen2_5_vl_7b", "7b")
    assert small.shape.weights == 3_754_622_976
    assert large.shape.weights == 8_292_166_656
    assert (small.shape.tied, large.shape.tied) == (True, False)
    assert (small.shape.text_layers, small.shape.vision_layers) == (36, 32)
    assert (large.shape.text_layers, large.shape.vision_layers) == (28, 32)
    assert small.shape.text.weights * 36 == 2_774_771_712
    assert small.precision == Precision(2, 2)


def test_what_is_on_one_device(read):
    settings = read("qwen2_5_vl_3b", "3b")
    plan = make_plan(settings)
    update, weights = plan.stages["reasoner: update"], 4 * 3_754_622_976
    assert update["weights, float32 masters"] == update["gradients"] == weights
    assert update["optimizer states"] == 2 * weights
    assert "engine weights" not in update
    rollout = plan.stages["reasoner: rollout"]
    engine = rollout["engine weights"] + rollout["engine at work (estimate)"] + rollout["key-value cache"]
    assert engine == pytest.approx(0.4 * 79 * GIB, rel=1e-6)
    assert "idle policy" not in update | rollout
    assert host_bytes(settings) == {"idle policy": weights, "reference policy": weights}
    assert set(plan.stages["curation"]).isdisjoint({"optimizer states", "reference policy"})


def test_adapters_share_one_base(read):
    settings = read("qwen2_5_vl_3b", "3b", LORA)
    layer = 32 * (2 * (2048 + 2048) + 2 * (2048 + 256) + 2 * (2048 + 11008) + (11008 + 2048))
    adapter = 36 * layer
    assert settings.shape.adapters == {"language_model": adapter}
    plan = make_plan(settings)
    update, rollout = plan.stages["reasoner: update"], plan.stages["questioner: rollout"]
    assert update["weights, float32 masters"] == 4 * (3_754_622_976 + adapter)
    assert update["gradients"] == update["idle policy"] == update["reference policy"] == 4 * adapter
    assert update["optimizer states"] == 2 * 4 * adapter
    assert rollout["one merged weight"] == 2 * 4 * 2048 * 11008
    assert host_bytes(settings) == {}
    assert disk_bytes(settings)["checkpoints"] == 6 * 2 * 4 * adapter
    assert plan.problems == ()


def test_the_base_of_adapters_is_a_reference_at_no_cost(read):
    key = "--model.init_args.reasoner.init_args.grpo.kl_reference=base"
    assert "reference policy" not in make_plan(read("qwen2_5_vl_3b", "3b", LORA, key)).stages["reasoner: update"]


def test_one_policy_for_both_roles(read):
    settings = read("qwen2_5_vl_3b", "3b", "--model.init_args.shared_policy=true")
    assert host_bytes(settings).keys() == {"reference policy"}
    assert disk_bytes(settings)["checkpoints"] == 6 * 4 * 3_754_622_976


def test_a_teacher_is_a_policy_more(read):
    weights = 4 * 3_754_622_976
    settings = read("qwen2_5_vl_3b", "3b", "--teacher=visplay.callbacks.Teacher")
    assert host_bytes(settings) == {"idle policy": 2 * weights, "reference policy": weights}
    assert disk_bytes(settings)["checkpoints"] == 6 * 3 * weights


VIEW = "--self_play.curation.second_view"


def test_a_second_vote_is_counted_and_the_base_that_gives_it_is_in_cpu_memory(read):
    weights = 4 * 3_754_622_976
    plain, settings = read("qwen2_5_vl_3b", "3b"), read("qwen2_5_vl_3b", "3b", f"{VIEW}.voter=base")
    assert host_bytes(settings) == host_bytes(plain) | {"base that votes": weights}
    made = curation_amounts(settings)
    assert made == curation_amounts(plain) | {"second votes": made["votes"]}
    fewer = read("qwen2_5_vl_3b", "3b", LORA, f"{VIEW}.voter=base", f"{VIEW}.voting={{votes: 2}}")
    assert curation_amounts(fewer)["second votes"] == 2 * made["questions"]
    assert host_bytes(fewer) == {}, "of adapters the base is there anyway"
    assert curation_amounts(read("qwen2_5_vl_3b", "3b", f"{VIEW}.voter=questioner")) == curation_amounts(plain)


def test_policies_that_do_not_learn_are_in_cpu_memory(read):
    settings = read("qwen2_5_vl_3b", "3b")
    weights = 4 * 3_754_622_976
    here = make_plan(replace(settings, offload=False))
    for stage in ("questioner: rollout", "reasoner: update"):
        assert here.stages[stage]["idle policy"] == here.stages[stage]["reference policy"] == weights
    scarce = replace(settings, device=replace(settings.device, host=20 * GIB))
    (problem,) = [each for each in make_plan(scarce).problems if each.kind == "host"]
    assert "28.0 GiB of 20.0 GiB" in problem.text
    assert "--config=lora" in {str(change) for way in suggestions(make_plan(scarce), problem) for change in way}
    assert host_bytes(replace(settings, device=replace(settings.device, kind="cpu"))) == {}


def test_the_reference_scores_on_the_device(read):
    frozen = "--model.init_args.vlm.init_args.tuning.freeze=[vision_tower, language_model]"
    grpo = "--model.init_args.reasoner.init_args.grpo"
    short = (f"{grpo}.max_new_tokens=64", f"{grpo}.tokens_per_micro_batch=1024")
    plan = make_plan(read("qwen2_5_vl_3b", "3b", frozen, *short))
    update = plan.stages["reasoner: update"]  # so little is learnt that scoring needs more
    assert update["reference policy"] == 4 * 3_754_622_976
    assert "gradients" not in update


def test_transformers_samples_both_policies_on_the_device(read):
    rollout = ("--rollout=visplay.callbacks.TransformersRollout",)
    stages = make_plan(read("qwen2_5_vl_3b", "3b", *rollout)).stages
    assert stages["questioner: rollout"]["idle policy"] == stages["curation"]["idle policy"] == 4 * 3_754_622_976
    assert "idle policy" not in stages["reasoner: rollout"]


def test_the_overlay_is_what_is_advised(read):
    advised = read("qwen2_5_vl_3b", "3b").with_adapters
    assert advised == read("qwen2_5_vl_3b", "3b", LORA).shape


def test_the_cache(read):
    cache = make_plan(read("qwen2_5_vl_3b", "3b")).cache
    assert cache.token_bytes == 2 * 2 * 256 * 36  # keys and values, 2 bytes, two heads of 128, in 36 layers
    assert cache.sequences == cache.total // (cache.token_bytes * 10240)
    assert make_plan(read("qwen2_5_vl_7b", "7b")).cache.token_bytes == 2 * 2 * 512 * 28


def test_images_and_micro_batches(read):
    settings = read("qwen2_5_vl_3b", "3b")
    assert (settings.image.least_tokens, settings.image.most_tokens) == (334, 5349)
    questioner, reasoner = settings.roles
    long, wide = micro_batches(settings, reasoner)
    prompt = 5349 + reasoner.template_tokens + reasoner.question_tokens
    rows = 16384 - prompt  # of two whole answers and a part of another: the group is cut
    assert (long.tokens, long.scored, long.patches) == (16384 - 2, rows, 4 * 5349)
    assert 2 * 4096 < rows < 3 * 4096
    tight = replace(reasoner, grpo=replace(reasoner.grpo, tokens_per_micro_batch=2048))
    (one,) = micro_batches(settings, tight)  # an answer is not cut
    assert (one.tokens, one.scored, one.patches) == (prompt + 4095, 4096, 4 * 5349)
    assert (wide.tokens, wide.scored, wide.patches) == (16384, 16384 - 2 * prompt, 2 * 4 * 5349)  # two images fit
    short = replace(questioner, grpo=replace(questioner.grpo, max_new_tokens=64))
    (both,) = micro_batches(settings, short)
    assert (both.tokens, both.patches) == (2 * (5349 + short.template_tokens + 8 * 63), 2 * 4 * 5349)


def test_amounts_of_the_published_setting(read):
    settings = read("qwen2_5_vl_3b", "3b")
    done = phase_amounts(settings, settings.roles[0])
    assert (done.steps, done.updates, done.prompts, done.rollouts) == (40, 160, 20480, 163840)
    assert done.votes == 163840 * 10
    assert disk_bytes(settings)["checkpoints"] == 6 * 2 * 4 * 3_754_622_976


def test_amounts_of_vision_sr1(read):
    settings = read("vision_sr1", "3b")
    (role,) = settings.roles
    done = phase_amounts(settings, role)
    assert (done.steps, done.updates, done.rollouts, done.votes) == (91, 364, 372_736, 0)
    assert (done.blind, done.blind_tokens) == (372_736, 763_363_328)
    assert make_plan(settings).problems == ()


def test_checkpoints_within_a_phase(read):
    """Two policies, two optimizer states and a reference; the newest is written while two are there."""
    weights = 4 * 3_754_622_976
    within = "checkpoints within a phase"
    assert disk_bytes(read("qwen2_5_vl_3b", "3b"))[within] == 3 * 5 * weights
    base = [f"--model.init_args.{r}.init_args.grpo.kl_reference=base" for r in ("questioner", "reasoner")]
    assert disk_bytes(read("qwen2_5_vl_3b", "3b", *base))[within] == 3 * 4 * weights
    assert disk_bytes(read("qwen2_5_vl_3b", "3b", "--step_checkpoint.keep=3"))[within] == 4 * 5 * weights
    assert disk_bytes(read("qwen2_5_vl_3b", "3b", "--step_checkpoint=null"))[within] == 0
    adapters = read("qwen2_5_vl_3b", "3b", LORA)
    assert disk_bytes(adapters)[within] == 3 * 5 * 4 * adapters.shape.adapter_weights


def test_copies_of_health(read):
    weights, ends = 4 * 3_754_622_976, "{limit: 0.1, action: end_phase}"
    rule = read("qwen2_5_vl_3b", "3b", f"--health.entropy={ends}")
    assert host_bytes(rule)["copies of Health"] == 2 * weights
    assert "copies of Health" not in make_plan(rule).stages["reasoner: update"]
    here = replace(rule, device=replace(rule.device, kind="cpu"))
    assert make_plan(here).stages["reasoner: update"]["copies of Health"] == 2 * weights
    assert host_bytes(here) == {}
    probe = read("qwen2_5_vl_3b", "3b", f"--health.probe={ends}", "--health.probe_metric=val/a/rule_accuracy")
    assert host_bytes(probe)["copies of Health"] == weights
    warns = read("qwen2_5_vl_3b", "3b", "--health.entropy={limit: 0.1, action: warn}")
    assert "copies of Health" not in host_bytes(warns)


def test_checkpointing_and_fewer_tokens_need_less(read):
    peaks = [
        make_plan(settings).peak("reasoner: update")
        for settings in (
            read("qwen2_5_vl_3b", "3b", "--model.init_args.vlm.init_args.gradient_checkpointing=false"),
            read("qwen2_5_vl_3b", "3b"),
            read("qwen2_5_vl_3b", "3b", "--model.init_args.reasoner.init_args.grpo.tokens_per_micro_batch=8192"),
            read("qwen2_5_vl_3b", "3b", "--model.init_args.vlm.init_args.tuning.freeze=[vision_tower]"),
        )
    ]
    assert peaks[0] > peaks[1] > peaks[2]
    assert peaks[3] < peaks[1] - 3 * 4 * 600_000_000  # gradients and optimizer state of the tower


@pytest.mark.parametrize(("config", "shape"), [("qwen2_5_vl_3b", "3b"), ("qwen2_5_vl_7b", "7b")])
def test_whatever_is_advised_makes_the_problem_go_away(read, config, shape):
    for gib in (24.0, 64.0):
        plan = make_plan(read(config, shape, gib=gib))
        assert plan.problems
        for problem in plan.problems:
            ways = suggestions(plan, problem)
            assert ways or gib == 24.0  # less than the weights of some stages, whatever is set
            for way in ways:
                left = make_plan(way[-1].settings).problems
                assert problem.kind not in {each.kind for each in left}


def test_each_of_several_ranks_needs_what_one_does(read):
    alone = make_plan(read("qwen2_5_vl_3b", "3b"))
    ranks = make_plan(read("qwen2_5_vl_3b", "3b", "--trainer.strategy=ddp", "--trainer.devices=8"))
    assert ranks.stages == alone.stages
    assert any("the CPU memory of 8 on one machine is as many times that" in note for note in notes(ranks))
    sharded = make_plan(read("qwen2_5_vl_3b", "3b", "--trainer.strategy=fsdp2", "--trainer.devices=8"))
    assert any("8 have one copy of all weights together" in note for note in notes(sharded))


def test_sharded_over_eight_devices_it_fits(read):
    plan = make_plan(read("qwen2_5_vl_3b", "3b", "--trainer.strategy=fsdp2", "--trainer.devices=8"))
    assert plan.settings.device.shards == 8
    assert plan.problems == ()
    assert plan.stages["reasoner: update"]["gradients"] == 4 * 3_754_622_976 // 8
    assert plan.stages["reasoner: update"]["idle policy"] == 4 * 3_754_622_976 // 8
    assert host_bytes(plan.settings) == {}  # idle policy and reference stay on the devices


def test_adapters_stay_whole_where_their_base_is_cut(read):
    update = make_plan(read("qwen2_5_vl_3b", "3b", LORA, "--trainer.strategy=fsdp2", "--trainer.devices=8")).stages[
        "reasoner: update"
    ]
    adapter = 59_867_136
    assert update["weights, float32 masters"] == 4 * (3_754_622_976 // 8 + adapter)
    assert update["gradients"] == update["idle policy"] == update["optimizer states"] // 2 == 4 * adapter


def test_transformers_gathers_whole_weights_to_sample(read):
    cut = ("--rollout=visplay.callbacks.TransformersRollout", "--trainer.strategy=fsdp2", "--trainer.devices=8")
    stages = make_plan(read("qwen2_5_vl_3b", "3b", *cut)).stages
    assert stages["reasoner: rollout"]["gathered weights"] == 4 * 3_754_622_976


def test_a_context_too_short_is_refused_with_what_would_fit(arguments, capsys):
    short = "--model.init_args.vlm.init_args.max_context_tokens=8192"
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments("qwen2_5_vl_3b", "3b", short), "--memory-gib=400"])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "max_context_tokens=10240" in said.err
    assert "max_pixels=2097152" in said.err
    assert "NO" not in said.out


def test_too_small_a_device_is_refused_as_json(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments("qwen2_5_vl_7b", "7b"), "--memory-gib=79", "--disk-gib=100", "--json"])
    assert ended.value.code == 2
    found = json.loads(capsys.readouterr().out)
    assert found["weights"]["all"] == 8_292_166_656
    update = found["stages"]["reasoner: update"]
    assert update.pop("peak") == sum(update.values())
    kinds = {problem["kind"]: problem["changes"] for problem in found["problems"]}
    assert kinds["disk"] == [["--config=lora"]]  # the last phase alone would still be too much
    assert kinds["reasoner: update"]


def test_a_configuration_alone_will_do(read, checkpoints, tmp_path):
    config = tmp_path / "config.json"
    config.write_text((checkpoints["3b"] / "config.json").read_text())
    alone = read("qwen2_5_vl_3b", "3b", f"--model.init_args.vlm.init_args.path={tmp_path}")
    whole = read("qwen2_5_vl_3b", "3b")
    assert alone.shape == whole.shape
    assert alone.image == whole.image
    assert alone.context_tokens == whole.context_tokens


def test_the_embedded_default_fits_here(capsys):
    main(["plan", f"--config={CONFIGS / 'tiny.yaml'}", f"--model.init_args.vlm.init_args.path={_tiny()}"])
    assert "fits" in capsys.readouterr().out


@pytest.mark.parametrize(("further", "kept"), [((), 1), (("--trainer.enable_checkpointing=false",), 0)])
def test_a_role_alone_with_lightnings_own_checkpoint(capsys, further, kept):
    path = f"--model.init_args.vlm.init_args.path={_tiny()}"
    judge = f"--model.init_args.reasoner.init_args.vlm.init_args.path={_tiny()}"
    arguments = [f"--config={CONFIGS / 'tiny_questioner.yaml'}", path, judge, "--checkpoint=null"]
    main(["plan", *arguments, "--json", *further])
    found = json.loads(capsys.readouterr().out)
    weights = 4 * found["weights"]["all"]
    assert list(found["stages"]) == ["questioner: rollout", "questioner: update"]
    assert found["stages"]["questioner: update"]["idle policy"] == weights  # the frozen Reasoner's
    assert found["disk"]["checkpoints"] == kept * 2 * weights
    assert found["iteration"]["curation"] == {}


def test_no_configuration_is_an_error(arguments, tmp_path, capsys):
    nowhere = f"--model.init_args.vlm.init_args.path={tmp_path / 'nowhere'}"
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments("qwen2_5_vl_3b", "3b", nowhere)])
    assert ended.value.code == 2
    assert "no config.json" in capsys.readouterr().err


def _tiny():
    from visplay.tiny import BASE

    return BASE
