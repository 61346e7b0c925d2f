import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from visplay.__main__ import main
from visplay.callbacks import Health, Limit
from visplay.callbacks.logging import run_directory
from visplay.cli import VisPlayCLI, run
from visplay.commands.continuing import find_checkpoint
from visplay.commands.settings.short_help import short_help
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.module import ImageSource, LabelledSource
from visplay.data.streams.image_stream import Streaming
from visplay.modules import LoRA, Questioner, Qwen2_5_VL, Reasoner, Tuning, VisPlay
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
ROLES = ["questioner", "reasoner"]
EIGHT = ["mmmu", "mm_vet", "realworldqa", "visnumbench", "mathverse", "mathvision", "hallusionbench", "mmstar"]


def _config(name):
    return f"--config={ROOT / 'configs' / name}.yaml"


def test_the_benchmarks(parse):
    """What the overlays say of every base is looked at in test_configs.py."""
    assert parse(_config("tiny"), _config("paper_protocol")).datamodule.suite == BenchmarkSuite(max_images=1)
    suite = parse(_config("tiny"), _config("benchmarks")).datamodule.suite
    assert [source.name for source in suite.sources] == EIGHT
    assert (suite.max_images, suite.validation) == (None, ("mmstar",))
    together = parse(_config("tiny"), _config("benchmarks"), _config("paper_protocol")).datamodule.suite
    assert together == replace(suite, max_images=1)


ON = "--model.questioner.grpo.start_from=last_phase"


def test_adapters(parse):
    model = parse(_config("qwen2_5_vl_3b"), _config("lora")).model
    assert model.role.vlm.tuning == Tuning(["vision_tower", "projector"], LoRA(rank=32, alpha=64))
    assert [role.config.learning_rate for role in (model.questioner, model.reasoner)] == [1e-5, 1e-5]
    assert model.reasoner.vlm is not model.questioner.vlm
    assert model.reasoner.vlm.tuning == model.questioner.vlm.tuning
    shared = parse(_config("qwen2_5_vl_3b"), _config("lora"), "--model.shared_policy=true", ON).model
    assert shared.reasoner.vlm is shared.questioner.vlm


@pytest.mark.parametrize("overlay", ["lora", "released_code"])
@pytest.mark.parametrize("config", sorted({*BASES} - {*SELF_PLAY}))
def test_a_role_alone_refuses_settings_of_two(parse, capsys, config, overlay):
    with pytest.raises(SystemExit, match="2"):
        parse(_config(config), _config(overlay))
    assert f": no setting of {CONFIGS[config]['class_path']}; " in capsys.readouterr().err


def test_a_table_of_images_keeps_its_column(parse):
    config = _config("qwen2_5_vl_3b")
    expected = ImageSource("LMMs-Lab-Turtle/Vision-SR1-47K", column="images")
    assert parse(config).datamodule.image_source == expected
    streamed = parse(config, "--data.images.streaming=true").datamodule.image_source
    assert streamed == replace(expected, streaming=True)
    streamed = parse(config, "--data.images.streaming={shuffle_buffer: 50}").datamodule.image_source
    assert streamed == replace(expected, streaming=Streaming(shuffle_buffer=50))
    moved = parse(config, "--data.images.path=x.parquet", "--data.labelled={path: y.parquet, split: test}").datamodule
    assert moved.image_source == replace(expected, path="x.parquet")
    assert moved.labelled_source == LabelledSource("y.parquet", split="test")


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


RUN = Path("runs/tiny/version_0")
LOGGERS = {
    "mlflow": ("loggers/mlflow", ["TensorBoardLogger", "MLFlowLogger"], RUN),
    "wandb": ("loggers/wandb", ["TensorBoardLogger", "WandbLogger"], RUN),
    "csv after mlflow": (
        "[{class_path: MLFlowLogger, init_args: {save_dir: m}}, {class_path: CSVLogger, init_args: {save_dir: logs}}]",
        *(["CSVLogger", "MLFlowLogger"], Path("logs/tiny/version_0")),
    ),
    "none": ("false", [], Path("runs")),
}


@pytest.mark.parametrize("name", LOGGERS)
def test_the_directory_of_a_run_does_not_depend_on_which_logger_is_first(parse, monkeypatch, name):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    loggers, kinds, directory = LOGGERS[name]
    argument = _config(loggers) if loggers.startswith("loggers/") else f"--trainer.logger={loggers}"
    cli = parse("--config", TINY, argument)
    assert [type(logger).__name__ for logger in cli.trainer.loggers] == kinds
    assert run_directory(cli.trainer) == directory
    checkpoint = _checkpoint(cli)
    assert Path(checkpoint._ModelCheckpoint__resolve_ckpt_dir(cli.trainer)) == directory / "checkpoints"


def test_limits_of_health(parse, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("health: {init_args: {entropy: {limit: 0.1}, parsed_fraction: {limit: 0.5, action: end_phase}}}")
    cli = parse("--config", TINY, "--config", str(overlay), "--health.entropy.action=end_phase", "--health.window=3")
    (health,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, Health)]
    assert health.rules == {"entropy": Limit(0.1, "end_phase"), "parsed_fraction": Limit(0.5, "end_phase")}
    assert health.window == 3
    (health,) = [callback for callback in parse("--config", TINY).trainer.callbacks if isinstance(callback, Health)]
    assert (health.rules, health.probe) == ({}, None)


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
        (["--self_play.iteratons=2"], "self_play.iteratons: unknown key; did you mean 'self_play.iterations'?"),
        (
            ["--model.reasoner.votin=2"],
            "model.reasoner.votin: no setting of visplay.modules.Reasoner; did you mean 'voting'?",
        ),
        (
            ["--model.questioner.grpo.loss=x"],
            "model.questioner.grpo.loss: no setting of visplay.modules.Questioner; did",
        ),
        (["--data.imags=x"], "data.imags: no setting of visplay.tiny.data.TinyWorld; did you mean 'images'?"),
        (["--fooo=1"], "fooo: unknown key; `visplay fit --help=all` lists what there is"),
        ("self_play: {curation: {imagess: 2}}", "self_play.curation.imagess: unknown key; did you mean"),
        ("rolout: {a: 2}", "rolout.a: unknown key; did you mean 'rollout'?"),
        ("trainer: {acelerator: cpu}", "trainer.acelerator: unknown key; did you mean"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(parse, tmp_path, capsys, arguments, hint):
    if isinstance(arguments, str):
        path = tmp_path / "bad.yaml"
        path.write_text(arguments)
        arguments = ["--config", str(path)]
    with pytest.raises(SystemExit, match="2"):
        parse("--config", TINY, *arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {hint}")


ONE_LINE = {
    "--model.reasoner.voting.votes=many": "model.reasoner.voting.votes: need int, got 'many'",
    "--self_play.iterations=null": "self_play.iterations: need int, got null",
    "--model.questioner.grpo.learning_rate=1e-4x": "model.questioner.grpo.learning_rate: need float, got '1e-4x'",
    "--model.vlm=visplay.modules.Qwen2_5VL": (
        "model.vlm: 'visplay.modules.Qwen2_5VL' is no class or function; did you mean 'visplay.modules.Qwen2_5_VL'?"
    ),
    "--model.vlm=torch.nn.Linear": "model.vlm: need a VLM, got 'torch.nn.Linear'",
    "--model=foo.Bar": "model: 'foo.Bar' is no class or function; No module named 'foo'",
    "--summary=visplay.callbacks.Health": "summary: need a Summary, got 'visplay.callbacks.Health'",
    "--health.entropy=5": "health.entropy: need a class, or settings of one as {name: value}, got '5'",
    "--self_play.curation.second_view.voter=bass": (
        "self_play.curation.second_view.voter: need one of 'base', 'reasoner', 'teacher', 'questioner', got 'bass'"
    ),
    "--rollout=null": "rollout: not given; name a configuration that has it, such as --config tiny",
    "--trainer.max_epochs=3": "trainer.max_epochs: follows from self_play.iterations; give that instead",
    "--trainer.precision=16-true": (
        "trainer.precision: '16-true', but weights that learn must be float32, or updates of 1e-6 are lost; "
        "give bf16-mixed to compute in bfloat16, or 32-true"
    ),
    "--trainer.devices=abc": (
        "trainer.devices: got 'abc': `devices` selected with `CPUAccelerator` should be an int > 0."
    ),
    "--trainer.callbacks+=visplay.callbacks.Summary": (
        "trainer.callbacks: a run has one Summary, whose key is 'summary'; set it there"
    ),
    "--self_play.curation.second_view=null": (
        "self_play.curation.second_view: the gates ['calibrated_accuracy'] judge by a second vote on each question, "
        "got null"
    ),
    "--model.reasoner.template.user=hello": (
        "model.reasoner.template.user: its user part must have {question} in it, got 'hello'"
    ),
    "--data.n_images=-1": "data.n_images: -1 must be at least 1",
    "--model.questioner.grpo.learning_rate=-1": (
        "model.questioner.grpo.learning_rate: -1.0 must be at least 0, which learns nothing"
    ),
    "hello": "hello: no setting; give one as --key=value",
}


@pytest.mark.parametrize("argument", ONE_LINE)
def test_one_line_tells_of_a_mistake(parse, capsys, argument):
    with pytest.raises(SystemExit, match="2"):
        parse("--config", TINY, argument)
    assert capsys.readouterr().err == f"error: {ONE_LINE[argument]}\n"


FILES = {
    "a: [\n  b: c: d": "cannot be read as YAML: while parsing a flow sequence",
    "": "is empty; it must hold settings, as name: value",
    "- a": "holds a list; it must hold settings, as name: value",
}


@pytest.mark.parametrize("text", FILES)
def test_files_without_settings_are_named(parse, tmp_path, capsys, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        parse("--config=mine.yaml")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: config: 'mine.yaml' {FILES[text]}")


def test_configurations_have_names(parse, capsys):
    assert parse("--config=tiny", "--config=recipes/visplay").trainer.logger.name == "tiny"
    assert parse("--config=tiny_labelled").trainer.logger.name == "tiny_labelled"
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        parse("--config=tinny")
    message = "config: 'tinny' is no file here, and no configuration of the package; did you mean tiny?"
    assert capsys.readouterr().err == f"error: {message}\n"


def test_the_nearest_command_is_named(capsys):
    with pytest.raises(SystemExit, match="error: there is no command 'fitt'; did you mean 'fit'?"):
        main(["fitt"])


@pytest.mark.parametrize(("path", "words"), [("file", "File exists"), ("file/runs", "Not a directory")])
def test_an_output_that_cannot_be_written_names_its_setting(fit, capsys, path, words):
    Path("file").touch()
    with pytest.raises(SystemExit, match="2"):
        fit(f"--trainer.default_root_dir={path}")
    assert capsys.readouterr().err.splitlines()[-1] == f"error: trainer.default_root_dir: {words}: '{path}'"


KEY = re.compile(r"^  --([\w.]+)(?:\+?=[A-Z]+)? +(\S+)?  \S", re.MULTILINE)
PLAIN = """
model:
  class_path: visplay.modules.VisPlay
  init_args:
    vlm: {class_path: visplay.modules.Qwen2_5_VL, init_args: {path: x}}
    questioner: {class_path: visplay.modules.Questioner}
    reasoner: {class_path: visplay.modules.Reasoner}
data: {class_path: visplay.data.module.SelfPlayData, init_args: {images: DIR}}
rollout: {class_path: visplay.callbacks.TransformersRollout}
"""


def test_the_short_help_says_what_the_defaults_are(parse, tmp_path):
    (tmp_path / "plain.yaml").write_text(PLAIN)
    settings = parse("--config=plain.yaml").settings()
    defaults = {re.sub(r"\.init_args\b", "", name): value for name, value in settings.items()}
    told = [(key.replace("ROLE", role), default) for key, default in KEY.findall(short_help("fit")) for role in ROLES]
    assert len({*told}) == 45
    for key, default in told:
        assert any(name == key or name.startswith(f"{key}.") for name in defaults), key
        if default:
            assert defaults[key] == yaml.safe_load(default.replace("1e-06", "1.0e-06")), key


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_the_short_help_fits_a_page(capsys, command):
    main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"usage: visplay {command} --config NAME [--config NAME ...] [--KEY=VALUE ...]"
    assert len(lines) <= 70
    assert max(map(len, lines)) <= 120
    assert any(line.startswith("  --auto_resume") for line in lines) == (command == "fit")


def test_a_shell_completes_keys(tmp_path):
    command = [sys.executable, "-m", "visplay", "completion", "bash"]
    script = tmp_path / "script"
    script.write_text(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    words = "COMP_WORDS=(visplay fit --self_play.it); COMP_CWORD=2; _shtab_visplay"
    ask = f"source {script}; {words}; echo ${{COMPREPLY[@]}}"
    out = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert out.stdout == "--self_play.iterations\n"


def test_the_whole_help_has_every_setting_and_the_trainer_last(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["visplay"])
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--help=all"])
    out = capsys.readouterr().out
    assert len(re.findall("^usage:", out, re.MULTILINE)) == 1
    assert out.index("\n  --model ") < out.index("\n  --self_play.iterations ") < out.index("\n  --trainer.devices ")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model.reasoner.voting.votes=1", "votes: 1 must be at least 2"),
        ("--model.questioner.grpo.group_size=1", "group_size: 1 must be at least 2"),
        ("--model.questioner.format.require=[poem]", "require: parts are among"),
        ("--self_play.curation={low: 0.9, high: 0.8}", "low, high: need 0 <= low <= high <= 1, got low=0.9, high=0.8"),
        ("--data.n_images=null", "n_images: must not be null, need int"),
        ("--samples.init_args.groups=null", "groups: must not be null, need int"),
        (f"--self_play.curation.low={'9' * 400}", "a number is too large: int too large to convert to float"),
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
        ("--data.images=nowhere", "data.images: 'nowhere' does not exist"),
        ("--model.vlm.path=./nowhere", "model.vlm.path: no processor could be loaded from './nowhere'"),
        ("--ckpt_path=nowhere.ckpt", "ckpt_path: there is no checkpoint 'nowhere.ckpt'"),
        ("--evaluation.judges=[{model: x}]", "OPENAI_BASE_URL: the judge needs this environment variable"),
        ("--trainer.accelerator=mps", "MPSAccelerator"),
        ("--model.reasoner.grpo.max_new_tokens=1020", "reasoner.grpo.max_new_tokens: a prompt of "),
        ("--model.questioner.grpo.max_new_tokens=9000", "an answer of 9000 do not fit the context of 1024; give less"),
        ("--trainer.limit_train_batches=0", "trainer.limit_train_batches: 0.0 leaves no whole phases"),
        ("--trainer.gradient_clip_val=1", "gradient clipping is not supported for manual optimization"),
        ("--trainer.accumulate_grad_batches=2", "gradient accumulation is not supported for manual optimization"),
    ],
)
def test_what_keeps_a_run_from_beginning_ends_it_with_its_words(fit, capsys, argument, message):
    with pytest.raises(SystemExit, match="2"):
        fit(argument)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What a run has written."""
    directory = tmp_path_factory.mktemp("run")
    few = ["--data.n_images=6", "--data.heldout_questions=4", "--data.heldout_votes=2", "--self_play.iterations=1"]
    steps = [f"--model.{role}.grpo={{steps: 1, prompts_per_step: 2}}" for role in ("questioner", "reasoner")]
    kept = [
        "--self_play.curation={images: 4, low: 0, high: 1, gates: [], second_view: null}",
        "--trainer.num_sanity_val_steps=0",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["visplay"])
        run(["fit", f"--config={TINY}", f"--model.vlm.path={BASE}", *few, *steps, *kept])
    torch.use_deterministic_algorithms(False)
    return directory / "runs" / "tiny" / "version_0" / "checkpoints" / "phase-00.ckpt"


def _flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def _changed(data, change):
    state, buffer = torch.load(BytesIO(data), weights_only=True), BytesIO()
    change(state)
    torch.save(state, buffer)
    return buffer.getvalue()


NO_CHECKPOINTS = {
    "empty": (lambda data: b"", "is no checkpoint of a run, or not a whole one: 0 bytes, and no archive"),
    "text": (
        lambda data: b"weights: none\n",
        "is no checkpoint of a run, or not a whole one: 14 bytes, and no archive",
    ),
    "half": (lambda data: data[: len(data) // 2], "is no checkpoint of a run, or not a whole one"),
    "all but a byte": (lambda data: data[:-1], "is no checkpoint of a run, or not a whole one"),
    "another archive": (lambda data: _archive(), "is no checkpoint of a run, or not a whole one"),
    "a flipped byte": (_flip, "is damaged: the checksum of"),
    "weights alone": (
        lambda data: _changed(data, lambda state: state.pop("callbacks")),
        "holds weights alone, from which no run can be continued",
    ),
    "another version": (
        lambda data: _changed(data, lambda state: state["callbacks"]["SelfPlay"].pop("history")),
        "ckpt_path: the checkpoint is of another version",
    ),
    "a list": (lambda data: _saved([1, 2]), "is no checkpoint of a run: it has no state_dict"),
}


def _saved(value):
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _archive():
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr("notes.txt", "no weights")
    return buffer.getvalue()


HOMES = {
    "--trainer.default_root_dir=~/a": lambda cli: [
        cli.trainer.default_root_dir,
        cli.trainer.logger.save_dir,
        _evaluation(cli).directory,
    ],
    "--data.images=~/a": lambda cli: [cli.datamodule.image_source.path],
    "--data.images={path: ~/a/*.parquet, column: image}": lambda cli: [cli.datamodule.image_source.path],
    "--data.labelled=~/a.parquet": lambda cli: [cli.datamodule.labelled_source.path],
    "--data.labelled.path=~/a.parquet": lambda cli: [cli.datamodule.labelled_source.path],
    "--data.silver=~/a.parquet": lambda cli: [cli.datamodule.silver_path],
    "--data.benchmarks.directory=~/a": lambda cli: [cli.datamodule.suite.directory],
    "--data.benchmarks.sources=[{name: a, path: ~/a.parquet}]": lambda cli: [cli.datamodule.suite.sources[0].path],
    "--model.vlm.path=~/a": lambda cli: [cli.model.reasoner.vlm.path, cli.model.questioner.vlm.path],
    "--evaluation.directory=~/a": lambda cli: [_evaluation(cli).directory],
    "--evaluation.models={base: {path: ~/a}}": lambda cli: [_evaluation(cli).models["base"].path],
    "--evaluation.judges=[{model: x, cache_directory: ~/a}]": lambda cli: [
        judge.config.cache_directory for judge in _evaluation(cli).judges.values()
    ],
    "--checkpoint.dirpath=~/a": lambda cli: [_checkpoint(cli).dirpath],
    "--trainer.callbacks+={class_path: ModelCheckpoint, init_args: {every_n_epochs: 2, dirpath: ~/a}}": lambda cli: [
        callback.dirpath for callback in cli.trainer.checkpoint_callbacks if getattr(callback, "dirpath", None)
    ],
    "--trainer.logger.save_dir=~/a": lambda cli: [cli.trainer.logger.save_dir],
    "--ckpt_path=~/a.ckpt": lambda cli: [cli.config["fit"]["ckpt_path"]],
}


def _evaluation(cli):
    return next(callback for callback in cli.trainer.callbacks if type(callback).__name__ == "Evaluation")


@pytest.mark.parametrize("argument", HOMES)
def test_a_tilde_is_the_home_in_every_path(parse, monkeypatch, tmp_path, argument):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = HOMES[argument](parse(_config("qwen2_5_vl_3b"), argument))
    assert found
    assert all(str(path).startswith(str(tmp_path / "home" / "a")) for path in found), found


def test_a_configuration_may_be_in_the_home(parse, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(TINY, tmp_path / "mine.yaml")
    cli = parse("--config=~/mine.yaml")
    assert cli.trainer.logger.name == "mine"


def test_a_tilde_in_a_text_is_a_tilde(parse):
    template = "{system: null, user: '~5 cm? {question} ~/x'}"
    assert (
        parse("--config", TINY, f"--model.reasoner.template={template}").model.reasoner.template.user
        == "~5 cm? {question} ~/x"
    )


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model fails."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("visplay.modules.policy.vlm.load_processor", load)


def _last_line(capsys):
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    return last


@pytest.mark.parametrize(
    "argument",
    [
        "--model.questioner.template={user: Ask., system: Be good.}",
        "--model.reasoner.template={user: '{question}', system: Be good.}",
        "--model.reasoner.voting.template={user: '{question}', system: Be good.}",
        "--self_play.curation.template={user: Ask., system: Be good.}",
        "--self_play.curation.voting.template={user: '{question}', system: Be good.}",
        "--evaluation.answering.template={user: '{question}', system: Be good.}",
    ],
)
def test_a_prompt_that_a_chat_template_rejects_ends_the_command(fit, monkeypatch, tmp_path, capsys, argument):
    shutil.copytree(BASE, tmp_path / "base")
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template += "{{ messages[0].content[-1].text }}"
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    monkeypatch.setattr(VisPlay, "validation_step", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(SystemExit, match="2"):
        fit(f"--model.vlm.path={tmp_path / 'base'}", argument)
    last = _last_line(capsys)
    assert "system: the chat template of" in last
    assert "no system role" in last
    assert "'Be good.'; give system: null, and say it in user" in last


HUB_NAMES = ["--model.vlm.path=models/mistyped", "--model.vlm.path=mistyped", "--data.images=photos/mistyped"]


@pytest.mark.parametrize("argument", HUB_NAMES)
def test_a_mistyped_path_that_may_be_a_name_on_the_hub_is_asked_about_once(fit, monkeypatch, capsys, argument):
    def answer(self, name, **_):
        asked.append(name)
        raise OSError("no route")

    asked = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", answer)
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", None)
    if "images" in argument:
        monkeypatch.setattr("datasets.load_dataset", None)
    Path("models/mistype").mkdir(parents=True)
    with pytest.raises(SystemExit, match="2"):
        fit(argument)
    name = argument.partition("=")[2]
    last = _last_line(capsys)
    assert asked == [name]
    assert f"'{name}' is no path here" in last
    assert "the Hub does not answer (OSError: no route)" in last
    assert ("did you mean 'models/mistype'?" in last) == name.startswith("models")


@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_ends_the_command_before_a_model_is_loaded(fit, no_model, checkpoint, capsys, kind):
    make, message = NO_CHECKPOINTS[kind]
    Path("bad.ckpt").write_bytes(make(checkpoint.read_bytes()))
    with pytest.raises(SystemExit, match="2"):
        fit("--ckpt_path=bad.ckpt")
    assert message in _last_line(capsys)


@pytest.mark.parametrize("path", ["nowhere.ckpt", "runs", "last", "best"])
@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_checkpoint_that_is_not_there_ends_the_command_before_a_model_is_loaded(
    monkeypatch, tmp_path, no_model, capsys, path, command
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    with pytest.raises(SystemExit, match="2"):
        run([command, f"--config={TINY}", f"--model.vlm.path={BASE}", "--data.n_images=6", f"--ckpt_path={path}"])
    assert path in _last_line(capsys)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", ["empty", "half", "a flipped byte"])
def test_what_is_no_checkpoint_is_neither_exported_nor_tested(
    monkeypatch, tmp_path, no_model, checkpoint, capsys, kind
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    make, message = NO_CHECKPOINTS[kind]
    Path("bad.ckpt").write_bytes(make(checkpoint.read_bytes()))
    config = [f"--config={TINY}"]
    with pytest.raises(SystemExit, match=f"error: path: 'bad.ckpt' {message}"):
        main(["export", "bad.ckpt", "--output=out", *config])
    with pytest.raises(SystemExit, match="2"):
        run(["test", *config, f"--model.vlm.path={BASE}", "--data.n_images=6", "--ckpt_path=bad.ckpt"])
    assert message in _last_line(capsys)
    torch.use_deterministic_algorithms(False)


def test_the_last_checkpoint_of_the_runs_of_a_name(checkpoint, tmp_path):
    trainer = SimpleNamespace(
        logger=SimpleNamespace(root_dir=checkpoint.parents[2]), default_root_dir=tmp_path, checkpoint_callbacks=[]
    )
    assert Path(find_checkpoint(trainer, "last")).name == "phase-01.ckpt"
    trainer.logger.root_dir = tmp_path
    with pytest.raises(FileNotFoundError, match=r"ckpt_path: 'last', but no run in .* has a checkpoint"):
        find_checkpoint(trainer, "last")
    trainer.checkpoint_callbacks = [ModelCheckpoint(checkpoint.parent)]
    assert Path(find_checkpoint(trainer, "last")).name == "phase-01.ckpt"
    assert find_checkpoint(trainer, None) is None


@pytest.mark.parametrize(
    "moment",
    [
        "visplay.modules.VisPlay.training_step",
        "visplay.modules.VisPlay.validation_step",
        "visplay.modules.VisPlay.propose",
        "visplay.modules.VisPlay.configure_model",
        "lightning.pytorch.callbacks.ModelCheckpoint.on_train_epoch_end",
    ],
)
def test_sigterm_ends_a_run_with_the_code_that_says_so(fit, monkeypatch, moment):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(moment, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        fit("--model.questioner.grpo={steps: 1, prompts_per_step: 2}")
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--self_play.curation={images: 2, low: 0.5, high: 0.5, min_kept: 99, on_too_few: stop}", "error: "),
        ("--data.images=dark", "items: none of the 3 can be used, for example dark:0: "),
    ],
)
def test_that_nothing_is_left_to_learn_from_is_said_in_a_line(fit, capsys, argument, message):
    Path("dark").mkdir()
    pq.write_table(pa.table({"image": [b"no image"] * 3}), "dark/dark.parquet")
    with pytest.raises(SystemExit, match="2"):
        fit("--model.questioner.grpo={steps: 1, prompts_per_step: 2}", "--trainer.num_sanity_val_steps=0", argument)
    assert message in _last_line(capsys)


def test_a_fault_of_a_run_that_began_has_its_traceback(fit, monkeypatch):
    def fail(*_):
        raise ValueError("a fault")

    monkeypatch.setattr(VisPlay, "training_step", fail)
    with pytest.raises(ValueError, match="a fault") as raised:
        fit("--trainer.num_sanity_val_steps=0")
    assert "--auto_resume begins anew: there is no checkpoint in it" in raised.value.__notes__[0]


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
        "import sys\nfrom visplay.__main__ import main\nmain([])\nmain(['fit', '--help'])\n"
        "print(sorted({'torch', 'lightning', 'transformers', 'datasets', 'jsonargparse', 'numpy'} & set(sys.modules)))"
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


@pytest.mark.parametrize("ending", ["", "raise ImportError"])
def test_a_module_is_imported_without_a_search_for_garbage(tmp_path, monkeypatch, ending):
    (tmp_path / "uncollected.py").write_text(f"import gc\nprint(gc.isenabled())\n{ending}\n")
    code = (
        "import contextlib, gc; from visplay.__main__ import import_uncollected\n"
        "with contextlib.suppress(ImportError): import_uncollected('uncollected')\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[1]}")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "True", "True"]
