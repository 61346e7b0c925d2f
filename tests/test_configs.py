"""Every base is built with every overlay that fits it; a covering set runs one iteration through the command line.

What is run, each base and each overlay at least once:

- the three bases of the small world as they are: two roles, the Reasoner alone, the Questioner alone;
- qwen2_5_vl_7b as it is: a base of a model, with vLLM and untied embeddings; qwen2_5_vl_3b with lora: tied embeddings;
- mimo_vl_7b with released_code: untied embeddings, and the other rewards, votes and losses;
- tiny_labelled with benchmarks, and qwen2_5_vl_7b with benchmarks and paper_protocol: validation within a fit of one
  role and of two, by rules and by a judge;
- tiny with digits, and with vllm_server, where two policies take turns in one engine; with vllm, in
  callbacks/engines/test_vllm_loop.py; with fsdp, on two ranks, in callbacks/test_fit_on_two_ranks.py.

The other pairs differ from these in settings alone, which are looked at where they are built.
"""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from config_runs import BASES, FILES, LEFT, MISFITS, OF_MODELS, PAIRS, PIXELS, SELF_PLAY, config, shrink
from judge_server import say
from visplay.__main__ import main
from visplay.callbacks import Evaluation, RolloutEngine, SelfPlay, TransformersRollout, VLLMRollout, VLLMServerRollout
from visplay.cli import VisPlayCLI
from visplay.cli import run as run_command
from visplay.functional import formatted_agreement_rewards, minority_difficulty
from visplay.modules import VLM, LoRA, Qwen2_5_VL, Tuning, VisPlay
from visplay.strategy import FSDP2Strategy
from visplay.tiny import BASE
from visplay.tiny.digits import DigitWorld
from vllm_server import serve_base

PLAIN = ["--rollout=visplay.callbacks.TransformersRollout", "--trainer.precision=32-true"]
"""For an overlay that is not about the engine; many processors only emulate bfloat16."""
JUDGE = "glm-4-flash-250414-paper"


def _first(callbacks, kind):
    return next(callback for callback in callbacks if isinstance(callback, kind))


class Run:
    """What a command has built, and what it has left on the disk."""

    def __init__(self, cli, root):
        self.module, self.trainer, self.root = cli.model, cli.trainer, root
        self.directory = Path(cli.trainer.log_dir)
        self.engine = _first(cli.trainer.callbacks, RolloutEngine)
        self.self_play = _first(cli.trainer.callbacks, SelfPlay)
        self.checkpoints = sorted((self.directory / "checkpoints").glob("*.ckpt"))
        events = EventAccumulator(str(self.directory))
        events.Reload()
        self.scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    @property
    def roles(self):
        return [self.module.questioner, self.module.reasoner] if isinstance(self.module, VisPlay) else [self.module]

    def last(self):
        return torch.load(self.checkpoints[-1], weights_only=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Stand-ins and images."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def fit(models, monkeypatch, tmp_path):
    """Run ``visplay fit`` in an empty directory, with another one for all that it writes."""
    here, root, made = tmp_path / "here", tmp_path / "root", []
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    run = VisPlayCLI._run_subcommand

    def keep(cli, subcommand):
        made.append(cli)
        run(cli, subcommand)

    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", keep)

    def fit(base, *arguments, model=None, command="fit"):
        small = shrink(base, models, model)
        main([command, config(base), small, *arguments, *LEFT, f"--trainer.default_root_dir={root}"])
        assert not list(here.iterdir())
        return Run(made[-1], root)

    yield fit
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A vLLM server for the embedded base on this processor; weights go there as files."""
    directory = tmp_path_factory.mktemp("server")
    size = {"shortest_edge": PIXELS["min_pixels"], "longest_edge": PIXELS["max_pixels"]}
    arguments = [
        *("--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
        *("--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--mm-processor-kwargs", json.dumps({"size": size})),
        *("--worker-extension-cls", "visplay.callbacks.engines.vllm_server_worker.ServerWorker"),
    ]
    environment = {"VLLM_SERVER_DEV_MODE": "1", "VISPLAY_WEIGHTS_DIR": str(directory / "weights")}
    with serve_base(directory, *arguments, environment=environment) as address:
        yield address


def started(role):
    """The model that a role started from."""
    vlm = Qwen2_5_VL(role.vlm.path)
    vlm.load()
    return vlm


def check(run, engine):
    """One iteration was made, every role learned, and everything that was logged is a number."""
    assert type(run.engine) is engine
    assert run.self_play.phases_done == len(run.roles)
    for role in run.roles:
        anew = role.config.start_from == "base"
        assert role.vlm.version == 2 + anew, role.name  # two updates
        assert role.vlm.fingerprint() != started(role).fingerprint(), role.name
        assert run.scalars[f"{role.name}/grad_norm"][0] > 0
        assert run.scalars[f"{role.name}/effective_groups"][0] > 0
    assert all(math.isfinite(value) for values in run.scalars.values() for value in values)
    assert len(run.checkpoints) == len(run.roles)
    assert (run.directory / "config.yaml").is_file()
    assert run.directory.is_relative_to(run.root)
    if isinstance(run.module, VisPlay):
        assert Path(run.self_play.dataset) == run.directory / "generated/iteration-1.parquet"
        assert run.scalars["curation/kept"][0] > 0


def test_every_file_is_a_base_or_an_overlay_of_which_is_known_what_it_fits():
    assert FILES.keys() - {*BASES} == MISFITS.keys()
    assert {base for misfits in MISFITS.values() for base in misfits} <= {*BASES}
    assert len(PAIRS) == len(set(PAIRS)) == len(BASES) * len(MISFITS) - sum(map(len, MISFITS.values()))


def plain(base):
    return PLAIN if base in OF_MODELS else []


def rates(run):
    """Learning rates of the optimizers in the last checkpoint."""
    return {group["lr"] for state in run.last()["optimizer_states"] for group in state["param_groups"]}


RUN = {  # overlay -> bases that are run with it, see above; "" is no overlay
    "": ["qwen2_5_vl_7b", "tiny", "tiny_labelled", "tiny_questioner"],
    "benchmarks": ["tiny_labelled"],
    "digits": ["tiny"],
    "fsdp": ["tiny"],
    "lora": ["qwen2_5_vl_3b"],
    "paper_protocol": ["qwen2_5_vl_7b"],
    "released_code": ["mimo_vl_7b"],
    "vllm": ["tiny"],
    "vllm_server": ["tiny"],
}


def run_with(overlay):
    return pytest.mark.parametrize("base", RUN[overlay])


def test_every_base_and_overlay_is_run():
    assert RUN.keys() - {""} == MISFITS.keys()
    assert {base for bases in RUN.values() for base in bases} == {*BASES}
    assert all((base, overlay) in PAIRS for overlay, bases in RUN.items() if overlay for base in bases)


def roles_of(model):
    return [model.questioner, model.reasoner] if isinstance(model, VisPlay) else [model]


@pytest.fixture
def build(monkeypatch, tmp_path):
    """Build what configurations say, without running anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", lambda self, subcommand: None)
    yield lambda *names: run_command(["fit", *map(config, names), "--trainer.accelerator=cpu"])
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("base", BASES)
def test_a_base_is_built(build, base):
    built = build(base)
    assert all(module.model is None for module in built.model.modules() if isinstance(module, VLM))
    engine = VLLMRollout if base in OF_MODELS else TransformersRollout
    assert type(_first(built.trainer.callbacks, RolloutEngine)) is engine
    assert len(roles_of(built.model)) == (2 if base in SELF_PLAY else 1)
    if base in OF_MODELS:
        assert {role.config.learning_rate for role in roles_of(built.model)} == {1e-6}


@pytest.mark.parametrize(("base", "overlay"), PAIRS)
def test_a_base_is_built_with_an_overlay(build, base, overlay):
    """What the overlay sets is set, whatever the base says."""
    built = build(base, *(["benchmarks"] if overlay == "paper_protocol" else []), overlay)
    assert all(role.vlm.model is None for role in roles_of(built.model))
    engine = _first(built.trainer.callbacks, RolloutEngine)
    if overlay not in ("vllm", "vllm_server"):
        assert type(engine) is (VLLMRollout if base in OF_MODELS else TransformersRollout)
    BUILT[overlay](built, engine)


def _fsdp(built, engine):
    assert type(built.trainer.strategy) is FSDP2Strategy
    assert built.trainer.world_size == 8


def _lora(built, engine):
    for role in roles_of(built.model):
        assert role.vlm.tuning == Tuning(["vision_tower", "projector"], LoRA(rank=32, alpha=64))
        assert role.config.learning_rate == 1e-5


def _released_code(built, engine):
    questioner, reasoner = roles_of(built.model)
    assert questioner.reward.difficulty is minority_difficulty
    assert reasoner.reward is formatted_agreement_rewards
    curation = _first(built.trainer.callbacks, SelfPlay).curation
    assert (reasoner.voting.votes, curation.voting.votes) == (10, 9)
    assert (questioner.config.top_p, questioner.config.dual_clip, reasoner.config.dual_clip) == (0.99, 3.0, 3.0)


def _benchmarks(built, engine):
    suite = built.datamodule.suite
    assert (len(suite.sources), suite.max_images, suite.validation) == (8, None, ("mmstar",))


def _paper_protocol(built, engine):
    suite = built.datamodule.suite
    assert (len(suite.sources), suite.max_images, suite.validation) == (8, 1, ("mmstar",))
    evaluation = _first(built.trainer.callbacks, Evaluation)
    assert (evaluation.answering.samples, evaluation.answering.max_new_tokens) == (0, 2048)
    assert list(evaluation.judges) == [JUDGE]


def _digits(built, engine):
    assert type(built.datamodule.world) is DigitWorld
    assert {Path(role.vlm.path) for role in roles_of(built.model)} == {BASE.parent / "digits/base"}


def _vllm(built, engine):
    assert type(engine) is VLLMRollout


def _vllm_server(built, engine):
    assert type(engine) is VLLMServerRollout
    assert FILES["vllm_server"]["rollout"]["init_args"]["transfer"] == {"backend": "nccl"}


BUILT = {overlay: globals()[f"_{overlay}"] for overlay in MISFITS}


@pytest.mark.parametrize("base", sorted({*RUN[""]} - {"tiny"}))
def test_base(fit, base):
    run = fit(base)
    check(run, VLLMRollout if base in OF_MODELS else TransformersRollout)
    assert rates(run) == ({1e-6} if base in OF_MODELS else {role.config.learning_rate for role in run.roles})


@run_with("lora")
def test_lora(fit, base):
    """The checkpoint holds adapters alone, learned at the rate that the overlay sets, and the base is as it was."""
    run = fit(base, config("lora"), *plain(base))
    check(run, TransformersRollout)
    assert rates(run) == {1e-5}
    learned = run.last()["state_dict"]
    assert all(".lora_" in name for name in learned)
    assert {name.partition(".")[0] for name in learned} == {"questioner", "reasoner"}
    assert run.module.reasoner.vlm.base().fingerprint() == started(run.module.reasoner).fingerprint()


@run_with("released_code")
def test_released_code(fit, base):
    """Rewards, votes while judging, and votes while curating are those of the released code."""
    learns = [f"--model.{role}.grpo.warmup_steps=0" for role in ("questioner", "reasoner")]  # in its only step
    small = ["--model.reasoner.template.system=null", "--self_play.curation.max_new_tokens=48"]
    run = fit(base, config("released_code"), *plain(base), *learns, *small)
    check(run, TransformersRollout)
    assert run.module.questioner.reward.difficulty is minority_difficulty
    assert run.module.reasoner.reward is formatted_agreement_rewards
    assert "questioner/clip_fraction_dual" in run.scalars
    (record,) = json.loads((run.directory / "manifest.json").read_text()).values()
    made_by = record["made_by"]
    assert (made_by["voting"]["votes"], made_by["curation"]["voting"]["votes"]) == (10, 9)
    assert made_by["curation"]["top_p"] == 0.95
    assert made_by["sampling"][0]["top_p"] == 0.99


@run_with("benchmarks")
def test_benchmarks(fit, prepared, base):
    """The base and what was learned are validated on the benchmark that the overlay names."""
    run = fit(base, *prepared[0], *plain(base))
    check(run, TransformersRollout)
    assert len(run.scalars["val/mmstar/rule_accuracy"]) == 2
    for iteration in range(2):
        scores = run.directory / "evaluation" / f"iteration-{iteration}" / "scores.json"
        assert "mmstar" in json.loads(scores.read_text())["scores"]


@run_with("paper_protocol")
def test_paper_protocol(fit, prepared, serve, base):
    """The judge of the paper is asked about every answer, at the temperature of the paper."""
    server = serve(lambda seen, attempt: say("1"))
    run = fit(base, *prepared[0], config("paper_protocol"), *plain(base))
    check(run, TransformersRollout)
    assert run.scalars[f"val/mmstar/judge_accuracy/{JUDGE}"] == [1, 1]
    assert {seen.body["temperature"] for seen in server.seen} == {0.6}


@run_with("digits")
def test_digits(fit, base):
    """The other world's base learns from its images, whose truth is known to the evaluation."""
    run = fit(base, config("digits"), f"--model.vlm.path={DigitWorld.base}")
    check(run, TransformersRollout)
    assert (run.root / "digits-images").is_dir()
    assert len(run.scalars["val/heldout/rule_accuracy"]) == 2


@pytest.mark.parametrize("base", MISFITS["vllm"])
def test_vllm_is_what_the_configurations_of_models_say_themselves(base):
    assert FILES[base]["rollout"]["class_path"] == FILES["vllm"]["rollout"]["class_path"]


@run_with("vllm_server")
def test_vllm_server(fit, server, base):
    """Weights go as files: the overlay's nccl sends from GPU to GPU."""
    changed = [f"--rollout.init_args.url={server}", "--rollout.init_args.transfer.backend=file"]
    run = fit(base, config("vllm_server"), *changed, model=BASE)
    check(run, VLLMServerRollout)


def test_tiny_and_that_one_setting_moves_all_that_a_run_writes(fit):
    """Exports and evaluations too; ``fit`` sees that nothing is written where it runs."""
    run = fit("tiny", "--trainer.callbacks+=visplay.callbacks.Export")
    check(run, TransformersRollout)
    assert rates(run) == {role.config.learning_rate for role in run.roles}
    assert (run.directory / "exports/iteration-1/reasoner/model.safetensors").is_file()
    fit("tiny", f"--ckpt_path={run.checkpoints[-1]}", command="test")
    assert {path.name.partition("-")[0] for path in (run.root / "evaluation").iterdir()} >= {"base", "reasoner"}
