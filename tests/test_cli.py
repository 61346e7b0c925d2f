import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from visplay.__main__ import main
from visplay.cli import VisPlayCLI, run
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.module import ImageSource, LabelledSource
from visplay.modules import VLM, LoRA, Questioner, Qwen2_5_VL, Reasoner, Tuning, VisPlay
from visplay.tiny import ANSWER, ASK, BASE, QUESTION_KINDS

ROOT = Path(__file__).parent.parent
TINY = str(ROOT / "configs/tiny.yaml")


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Parse and instantiate, without running the subcommand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", lambda self, subcommand: None)
    yield lambda *arguments: run(["fit", *arguments])
    torch.use_deterministic_algorithms(False)


CONFIGS = {path.stem: yaml.safe_load(path.read_text()).get("model", {}) for path in (ROOT / "configs").glob("*.yaml")}
BASES = sorted(name for name, model in CONFIGS.items() if "class_path" in model)
SELF_PLAY = [name for name in BASES if CONFIGS[name]["class_path"] == "visplay.modules.VisPlay"]
EIGHT = ["mmmu", "mm_vet", "realworldqa", "visnumbench", "mathverse", "mathvision", "hallusionbench", "mmstar"]


def _config(name):
    return f"--config={ROOT / 'configs' / name}.yaml"


@pytest.mark.parametrize("config", BASES)
def test_every_config_is_instantiated_without_loading_weights(parse, config):
    cli = parse(_config(config))
    assert all(module.model is None for module in cli.model.modules() if isinstance(module, VLM))


@pytest.mark.parametrize("config", ["qwen2_5_vl_3b", "tiny"])
def test_the_benchmarks(parse, config):
    assert parse(_config(config), _config("paper_protocol")).datamodule.suite == BenchmarkSuite(max_images=1)
    suite = parse(_config(config), _config("benchmarks")).datamodule.suite
    assert [source.name for source in suite.sources] == EIGHT
    assert (suite.max_images, suite.validation) == (None, ("mmstar",))
    together = parse(_config(config), _config("benchmarks"), _config("paper_protocol")).datamodule.suite
    assert together == replace(suite, max_images=1)


@pytest.mark.parametrize("config", ["qwen2_5_vl_3b", "tiny"])
def test_adapters(parse, config):
    model = parse(_config(config), _config("lora")).model
    assert model.role.vlm.tuning == Tuning(["vision_tower", "projector"], LoRA(rank=32, alpha=64))
    assert [role.config.learning_rate for role in (model.questioner, model.reasoner)] == [1e-5, 1e-5]
    assert model.reasoner.vlm is not model.questioner.vlm
    assert model.reasoner.vlm.tuning == model.questioner.vlm.tuning
    shared = parse(_config(config), _config("lora"), "--model.shared_policy=true").model
    assert shared.reasoner.vlm is shared.questioner.vlm


@pytest.mark.parametrize("overlay", ["lora", "released_code"])
@pytest.mark.parametrize("config", sorted({*BASES} - {*SELF_PLAY}))
def test_a_role_alone_refuses_settings_of_two(parse, capsys, config, overlay):
    with pytest.raises(SystemExit, match="2"):
        parse(_config(config), _config(overlay))
    assert "is not accepted" in capsys.readouterr().err


def test_a_table_of_images_keeps_its_column(parse):
    config = _config("qwen2_5_vl_3b")
    expected = ImageSource("LMMs-Lab-Turtle/Vision-SR1-47K", column="images")
    assert parse(config).datamodule.image_source == expected
    moved = parse(config, "--data.images.path=x.parquet").datamodule.image_source
    assert moved == replace(expected, path="x.parquet")
    labelled = parse(config, "--data.labelled={path: y.parquet, split: test}").datamodule.labelled_source
    assert labelled == LabelledSource("y.parquet", split="test")


def test_the_embedded_default_says_what_the_code_says(parse):
    cli = parse("--config", TINY)
    model = cli.model
    assert isinstance(model.questioner, Questioner)
    assert isinstance(model.reasoner, Reasoner)
    assert isinstance(model.reasoner.vlm, Qwen2_5_VL)
    assert model.questioner.vlm is not model.reasoner.vlm
    assert (model.questioner.template, model.reasoner.template) == (ASK, ANSWER)
    assert set(model.questioner.format.kinds) == set(QUESTION_KINDS)
    assert cli.trainer.max_epochs == 6
    assert torch.are_deterministic_algorithms_enabled()


def test_overrides_overlays_and_interpolation(parse, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        yaml.safe_dump(
            {
                "model": {"init_args": {"seed": 3}},
                "self_play": {"curation": {"images": "${model.init_args.seed}"}},
                "rollout": {"class_path": "visplay.callbacks.TransformersRollout", "init_args": {"max_sequences": 7}},
            }
        )
    )
    cli = parse(
        "--config", TINY, "--config", str(overlay), "--model.seed=9", "--self_play.iterations=2", "--data.images=x"
    )
    self_play = next(c for c in cli.trainer.callbacks if type(c).__name__ == "SelfPlay")
    engine = next(c for c in cli.trainer.callbacks if type(c).__name__ == "TransformersRollout")
    assert cli.model.seed == 9
    assert self_play.curation.images == 9  # interpolated after the override
    assert self_play.curation.questions_per_image == 2  # the overlay leaves the rest as it was
    assert engine.max_sequences == 7
    assert cli.trainer.max_epochs == 4
    assert cli.datamodule.image_source.path == "x"
    assert any(type(c).__name__ == "SampleLogger" for c in cli.trainer.callbacks)


def _kinds(cli):
    return [type(callback).__name__ for callback in cli.trainer.callbacks]


def _checkpoint(cli):
    return next(callback for callback in cli.trainer.callbacks if isinstance(callback, ModelCheckpoint))


OURS = {"PhaseProgress", "SampleLogger", "Summary", "ModelCheckpoint", "SelfPlay", "Evaluation", "TransformersRollout"}


def test_what_a_configuration_does_not_state(parse):
    cli = parse("--config", TINY)
    trainer = cli.trainer
    assert {*_kinds(cli)} >= OURS
    assert (_checkpoint(cli).filename, _checkpoint(cli).save_top_k) == ("phase-{epoch:02d}", -1)
    assert Path(trainer.log_dir) == Path("runs/tiny/version_0")
    assert trainer.log_every_n_steps == 1
    assert trainer.num_sanity_val_steps == float("inf")
    assert cli.config["fit"]["weights_only"] is True
    assert cli.config["fit"]["evaluation"]["directory"] == "runs/evaluation"


def test_defaults_change_key_by_key(parse, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("{checkpoint: {init_args: {save_top_k: 2, monitor: x}}, samples: null, evaluation: {roles: []}}")
    further = ["--trainer.logger.name=other", "--trainer.default_root_dir=there", "--trainer.devices=2"]
    cli = parse("--config", TINY, "--config", str(overlay), *further, "--progress.refresh_per_second=1")
    assert (_checkpoint(cli).filename, _checkpoint(cli).save_top_k) == ("phase-{epoch:02d}", 2)
    assert {*_kinds(cli)} >= OURS - {"SampleLogger"}
    assert "SampleLogger" not in _kinds(cli)
    assert Path(cli.trainer.log_dir) == Path("there/other/version_0")
    assert cli.config["fit"]["evaluation"]["directory"] == "there/evaluation"


def test_callbacks_of_a_user_are_added(parse, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    best = "{class_path: ModelCheckpoint, init_args: {monitor: x}}"
    overlay.write_text(f"trainer: {{callbacks: [visplay.callbacks.Diagnostics, RichProgressBar, {best}]}}")
    kinds = _kinds(parse("--config", TINY, "--config", str(overlay), "--trainer.callbacks+=visplay.callbacks.Export"))
    assert {*kinds} >= (OURS | {"Diagnostics", "Export", "RichProgressBar"}) - {"PhaseProgress"}
    assert "PhaseProgress" not in kinds  # a trainer has one bar
    assert kinds.count("ModelCheckpoint") == 2


@pytest.mark.parametrize(
    ("argument", "missing"),
    [
        ("--trainer.enable_checkpointing=false", "ModelCheckpoint"),
        ("--trainer.enable_progress_bar=false", "PhaseProgress"),
        ("--summary=null", "Summary"),
    ],
)
def test_a_callback_is_switched_off(parse, argument, missing):
    kinds = {*_kinds(parse("--config", TINY, argument))}
    assert OURS - kinds == {missing}


def test_a_run_is_named_after_the_first_configuration(parse, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("trainer: {max_steps: -1}")
    assert parse("--config", TINY, f"--config={mine}").trainer.logger.name == "tiny"
    assert parse(f"-c={TINY}", f"--config={mine}").trainer.logger.name == "tiny"
    assert parse(f"--config={mine}", "-c", TINY).trainer.logger.name == "mine"
    mine.write_text("{trainer: {logger: {init_args: {name: theirs}}}}")
    assert parse("--config", TINY, f"--config={mine}").trainer.logger.name == "theirs"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--self_play.iteratons=2"], "self_play.iterations'?"),
        (["--model.reasoner.votin=2"], "unknown key 'votin': did you mean 'voting'?"),
        (["--data.imags=x"], "unknown key 'imags': did you mean 'images'?"),
        ("self_play: {curation: {imagess: 2}}", "curation.images'?"),
        ("rolout: {a: 2}", "did you mean 'rollout'?"),
        ("trainer: {acelerator: cpu}", "accelerator'?"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(parse, tmp_path, capsys, arguments, hint):
    if isinstance(arguments, str):
        path = tmp_path / "bad.yaml"
        path.write_text(arguments)
        arguments = ["--config", str(path)]
    with pytest.raises(SystemExit, match="2"):
        parse("--config", TINY, *arguments)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unknown key")]
    assert hint in line


def test_bad_value_names_the_argument(parse, capsys):
    with pytest.raises((SystemExit, ValueError)):
        parse("--config", TINY, "--model.reasoner.voting.votes=many")
    assert "votes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model.reasoner.voting.votes=1", "votes: 1 must be at least 2"),
        ("--model.questioner.grpo.group_size=1", "group_size: 1 must be at least 2"),
        ("--model.questioner.format.require=[poem]", "require: parts are among"),
        ("--self_play.curation.low=0.9", "low, high: need 0 <= low <= high <= 1, got low=0.9, high=0.8"),
    ],
)
def test_a_value_that_a_constructor_refuses_ends_with_its_words(parse, capsys, argument, message):
    with pytest.raises(SystemExit, match="2"):
        parse("--config", TINY, argument)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_is_not_read_for_settings(parse, tmp_path):
    path = tmp_path / "run.ckpt"
    path.write_text("many gigabytes of weights")
    assert parse("--config", TINY, f"--ckpt_path={path}").config["fit"]["ckpt_path"] == str(path)


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """Fit on few images, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    few = ["--data.n_images=6", "--data.heldout_questions=4", "--data.heldout_votes=2"]
    yield lambda *arguments: run(["fit", f"--config={TINY}", f"--model.vlm.path={BASE}", *few, *arguments])
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--data.images=nowhere", "source: 'nowhere' does not exist"),
        ("--model.vlm.path=./nowhere", "path: no processor could be loaded from './nowhere'"),
        ("--ckpt_path=nowhere.ckpt", "Checkpoint file not found: nowhere.ckpt"),
        ("--evaluation.judges=[{model: x}]", "OPENAI_BASE_URL: the judge needs this environment variable"),
        ("--trainer.accelerator=mps", "MPSAccelerator"),
    ],
)
def test_what_keeps_a_run_from_beginning_ends_it_with_its_words(fit, capsys, argument, message):
    with pytest.raises(SystemExit, match="2"):
        fit(argument)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_a_fault_of_a_run_that_began_has_its_traceback(fit, monkeypatch):
    def fail(*_):
        raise ValueError("a fault")

    monkeypatch.setattr(VisPlay, "training_step", fail)
    with pytest.raises(ValueError, match="a fault"):
        fit("--trainer.num_sanity_val_steps=0")


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_questioner_alone_is_not_evaluated(monkeypatch, tmp_path, capsys, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    with pytest.raises(SystemExit, match="2"):
        run([command, _config("tiny_questioner")])
    assert "model: a Questioner alone does not answer" in capsys.readouterr().err.splitlines()[-1]
    torch.use_deterministic_algorithms(False)


def test_help_is_quick_and_loads_nothing_heavy(capsys):
    main(["--help"])
    assert "visplay fit --config" in capsys.readouterr().out
    code = (
        "import sys\nfrom visplay.__main__ import main\nmain([])\n"
        "print(sorted({'torch', 'lightning', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "5000 None"), ({"GOMP_SPINCOUNT": "7"}, "7 None"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE")],
)
def test_threads_spin_little_unless_told_otherwise(given, found):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    code = f"import os, sys, visplay\nprint(*map(os.environ.get, {names}), 'torch' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert out.stdout == f"{found} False\n"
