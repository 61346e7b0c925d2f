"""Every base configuration with every overlay that fits it runs one iteration through the command line."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from config_runs import BASES, FILES, LEFT, MISFITS, OF_MODELS, PAIRS, PIXELS, config, shrink
from judge_server import say
from visplay.__main__ import main
from visplay.callbacks import RolloutEngine, SelfPlay, TransformersRollout, VLLMRollout, VLLMServerRollout
from visplay.cli import VisPlayCLI
from visplay.functional import formatted_agreement_rewards, minority_difficulty
from visplay.modules import Qwen2_5_VL, VisPlay
from visplay.tiny import BASE
from vllm_server import serve_base

PLAIN = ["--rollout=visplay.callbacks.TransformersRollout", "--trainer.precision=32-true"]
"""For an overlay that is not about the engine; many processors only emulate bfloat16."""
JUDGE = "glm-4-flash-250414-paper"


def _first(cli, kind):
    return next(callback for callback in cli.trainer.callbacks if isinstance(callback, kind))


class Run:
    """What a command has built, and what it has left on the disk."""

    def __init__(self, cli, root):
        self.module, self.trainer, self.root = cli.model, cli.trainer, root
        self.directory = Path(cli.trainer.log_dir)
        self.engine = _first(cli, RolloutEngine)
        self.self_play = _first(cli, SelfPlay)
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
        *("--weight-transfer-config", '{"backend": "visplay_file"}'),
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
        assert role.vlm.version == 2, role.name  # two updates
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


def of(overlay):
    """The bases that an overlay fits."""
    return pytest.mark.parametrize("base", [base for base in BASES if base not in MISFITS[overlay]])


def plain(base):
    return PLAIN if base in OF_MODELS else []


def rates(run):
    """Learning rates of the optimizers in the last checkpoint."""
    return {group["lr"] for state in run.last()["optimizer_states"] for group in state["param_groups"]}


@pytest.mark.parametrize("base", BASES)
def test_base(fit, base):
    run = fit(base)
    check(run, VLLMRollout if base in OF_MODELS else TransformersRollout)
    assert rates(run) == ({1e-6} if base in OF_MODELS else {role.config.learning_rate for role in run.roles})


@of("lora")
def test_lora(fit, base):
    """The checkpoint holds adapters alone, learned at the rate that the overlay sets, and the base is as it was."""
    run = fit(base, config("lora"), *plain(base))
    check(run, TransformersRollout)
    assert rates(run) == {1e-5}
    learned = run.last()["state_dict"]
    assert all(".lora_" in name for name in learned)
    assert {name.partition(".")[0] for name in learned} == {"questioner", "reasoner"}
    assert run.module.reasoner.vlm.base().fingerprint() == started(run.module.reasoner).fingerprint()


@of("released_code")
def test_released_code(fit, base):
    """Rewards, votes while judging, and votes while curating are those of the released code."""
    run = fit(base, config("released_code"), *plain(base))
    check(run, TransformersRollout)
    assert run.module.questioner.reward.difficulty is minority_difficulty
    assert run.module.reasoner.reward is formatted_agreement_rewards
    assert "questioner/clip_fraction_dual" in run.scalars
    (record,) = json.loads((run.directory / "manifest.json").read_text()).values()
    made_by = record["made_by"]
    assert (made_by["voting"]["votes"], made_by["curation"]["voting"]["votes"]) == (10, 9)
    assert made_by["sampling"][0]["top_p"] == 0.99


@of("benchmarks")
def test_benchmarks(fit, prepared, base):
    """The base and what was learned are validated on the benchmark that the overlay names."""
    run = fit(base, *prepared[0], *plain(base))
    check(run, TransformersRollout)
    assert len(run.scalars["val/mmstar/rule_accuracy"]) == 2
    for iteration in range(2):
        scores = run.directory / "evaluation" / f"iteration-{iteration}" / "scores.json"
        assert "mmstar" in json.loads(scores.read_text())["scores"]


@of("paper_protocol")
def test_paper_protocol(fit, prepared, serve, base):
    """The judge of the paper is asked about every answer, at the temperature of the paper."""
    server = serve(lambda seen, attempt: say("1"))
    run = fit(base, *prepared[0], config("paper_protocol"), *plain(base))
    check(run, TransformersRollout)
    assert run.scalars[f"val/mmstar/judge_accuracy/{JUDGE}"] == [1, 1]
    assert {seen.body["temperature"] for seen in server.seen} == {0.6}


@of("vllm")
def test_vllm(fit, base):
    check(fit(base, config("vllm")), VLLMRollout)


@pytest.mark.parametrize("base", MISFITS["vllm"])
def test_vllm_is_what_the_configurations_of_models_say_themselves(base):
    assert FILES[base]["rollout"]["class_path"] == FILES["vllm"]["rollout"]["class_path"]


@of("vllm_server")
def test_vllm_server(fit, server, base):
    """Weights go as files: the overlay's nccl sends from GPU to GPU."""
    changed = [f"--rollout.init_args.url={server}", "--rollout.init_args.transfer.backend=file"]
    run = fit(base, config("vllm_server"), *changed, model=BASE)
    check(run, VLLMServerRollout)
    assert FILES["vllm_server"]["rollout"]["init_args"]["transfer"] == {"backend": "nccl"}


def test_every_overlay_is_run():
    assert all(f"test_{overlay}" in globals() for overlay in MISFITS)


def test_one_setting_moves_all_that_a_run_writes(fit):
    """Exports and evaluations too; ``fit`` sees that nothing is written where it runs."""
    run = fit("tiny", "--trainer.callbacks+=visplay.callbacks.Export")
    assert (run.directory / "exports/iteration-1/reasoner/model.safetensors").is_file()
    fit("tiny", f"--ckpt_path={run.checkpoints[-1]}", command="test")
    assert {path.name.partition("-")[0] for path in (run.root / "evaluation").iterdir()} >= {"base", "reasoner"}
