"""What a run writes about itself, and that a directory is one run's and one process's at a time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

from sockets import watch
from visplay.__main__ import main
from visplay.callbacks.run_record import PHASES_FILE, RUN_FILE
from visplay.cli import VisPlayCLI, run
from visplay.data.locking import LockedError, locked
from visplay.tiny import BASE

pytestmark = pytest.mark.timeout(900)  # up to three processes, which load all there is

ROOT = Path(__file__).parents[1]
OPTIONS = [
    *("--data.n_images=6", "--data.heldout_questions=4", "--data.heldout_votes=2", "--self_play.iterations=1"),
    *(f"--model.{role}.grpo={{steps: 2, prompts_per_step: 2}}" for role in ("questioner", "reasoner")),
    "--self_play.curation={images: 4, questions_per_image: 2, low: 0, high: 1, gates: [], second_view: null}",
    "--step_checkpoint={every_n_steps: 1}",
]
COMMAND = ["fit", f"--config={ROOT / 'configs' / 'tiny.yaml'}", f"--model.vlm.path={BASE}", *OPTIONS]


def fit(directory, *arguments):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["visplay"])
        try:
            run([*COMMAND, *arguments])
        finally:
            torch.use_deterministic_algorithms(False)
    return directory / "runs" / "tiny" / "version_0"


def rejection(capsys, directory, *arguments):
    """The words with which a command ends that begins nothing."""
    with pytest.raises(SystemExit, match="2"):
        fit(directory, *arguments)
    return capsys.readouterr().err.splitlines()[-1]


def read(version):
    phases = [json.loads(line) for line in (version / PHASES_FILE).read_text().splitlines()]
    return json.loads((version / RUN_FILE).read_text()), phases


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def killed(whole, tmp_path):
    """The same in another directory, killed after the first step of the second phase."""
    shutil.copytree(whole.parents[1], tmp_path / "runs")
    version = tmp_path / "runs" / "tiny" / "version_0"
    for name in ("phase-01-step-0002.ckpt", "phase-01.ckpt"):
        (version / "checkpoints" / name).unlink()
    facts = read(version)[0]
    facts["processes"][-1] |= {"ended_at": None, "exit": None}
    (version / RUN_FILE).write_text(json.dumps(facts))
    return version


def test_what_a_run_is(whole):
    facts, phases = read(whole)
    assert facts["seed"] == 0
    assert facts["weights"]["questioner"] == facts["weights"]["reasoner"]
    assert len(facts["weights"]["reasoner"]["fingerprint"]) == 64
    assert facts["data"]["images"]["files"] == 6
    assert facts["data"]["benchmark heldout"]["rows"] == 4
    (process,) = facts["processes"]
    assert process["command"] == ["visplay"]
    assert process["software"]["torch"] == torch.__version__.partition("+")[0]
    assert process["machine"]["device"] == "cpu"
    assert (process["continued_from"], process["settings_changed"], process["exit"]) == (None, {}, "finished")
    assert [(phase["phase"], phase["role"], phase["steps"]) for phase in phases] == [
        (0, "questioner", 2),
        (1, "reasoner", 2),
    ]
    for phase in phases:
        assert (whole / phase["checkpoint"]).is_file()
        assert facts["processes"][0]["started_at"] <= phase["started_at"] <= phase["ended_at"] <= process["ended_at"]
    assert phases[0]["dataset"] is None
    assert {"rollout", "votes", "update"} == phases[0]["seconds"].keys()
    assert {"questions", "votes", "rollout", "update", "validation"} == phases[1]["seconds"].keys()
    manifest = json.loads((whole / "manifest.json").read_text())["iteration-1"]
    dataset, statistics = phases[1]["dataset"], manifest["statistics"]
    assert (dataset["path"], dataset["sha256"]) == (manifest["path"], manifest["sha256"])
    assert dataset["kept"] == statistics["kept"]
    assert dataset["kept"] + sum(dataset["rejected"].values()) == statistics["asked"]
    summary = json.loads((whole / "summary.json").read_text())[1]
    assert phases[1]["scores"]["val/heldout/rule_accuracy"] == summary["heldout_greedy"]


def test_the_configuration_is_resolved_and_means_itself(whole, tmp_path, monkeypatch):
    text = (whole / "config.yaml").read_text()
    assert "${" not in text
    settings = yaml.safe_load(text)
    assert settings["data"]["init_args"]["cache"] == "runs/tiny-images"
    assert settings["model"]["init_args"]["reasoner"]["init_args"]["grpo"]["clip_low"] == 0.2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", lambda cli, subcommand: None)
    cli = run(["fit", f"--config={whole / 'config.yaml'}"])
    torch.use_deterministic_algorithms(False)
    assert yaml.safe_load(cli._parser("fit").dump(cli.config["fit"], skip_none=False)) == settings


def test_what_is_planned_is_what_is_written(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["plan", *COMMAND[1:], "--json"])
    planned = json.loads(capsys.readouterr().out)["disk"]
    sizes = {path.name: path.stat().st_size for path in (whole / "checkpoints").glob("*.ckpt")}
    within = [size for name, size in sizes.items() if "step" in name]
    assert len(within) == 2  # and a third one while it was written
    assert 3 * max(within) == pytest.approx(planned["checkpoints within a phase"], rel=0.02)
    assert sum(sizes.values()) - sum(within) == pytest.approx(planned["checkpoints"], rel=0.02)
    assert sum(path.stat().st_size for path in whole.rglob("*") if path.is_file()) < sum(planned.values())


def test_a_run_that_goes_on_says_so(whole, killed):
    version = fit(killed.parents[2], "--auto_resume", "--self_play.iterations=2")
    facts, phases = read(version)
    first, second = facts["processes"]
    assert (first["exit"], second["exit"]) == ("killed", "finished")
    assert second["continued_from"] == "checkpoints/phase-01-step-0001.ckpt"
    assert second["settings_changed"] == {"auto_resume": [False, True], "self_play.iterations": [1, 2]}
    assert [phase["phase"] for phase in phases] == [0, 1, 2, 3]
    before = read(whole)[1]
    assert phases[0] == before[0]
    timed = ("seconds", "ended_at")
    assert {n: v for n, v in phases[1].items() if n not in timed} == {
        n: v for n, v in before[1].items() if n not in timed
    }
    assert yaml.safe_load((version / "config.yaml").read_text())["self_play"]["iterations"] == 2


def test_lines_of_phases_that_are_done_again_go(killed):
    """Killed between the line of a phase and its checkpoint: nothing has that phase twice, from the first step on."""
    assert len(read(killed)[1]) == 2
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visplay.callbacks.Summary.on_fit_start", lambda *_: seen.append(read(killed)[1]), raising=False)
        fit(killed.parents[2], "--ckpt_path=last")
    assert [phase["phase"] for phase in seen[0]] == [0]
    assert [phase["phase"] for phase in read(killed)[1]] == [0, 1]


@pytest.mark.parametrize(
    ("raised", "exit"),
    [
        (ValueError("a\nb"), "error: ValueError: a\nb"),
        (KeyboardInterrupt(), "interrupted by SIGINT"),
        (SystemExit(143), "interrupted by SIGTERM"),
    ],
)
def test_why_a_process_ended(killed, raised, exit):
    def fail(*_):
        raise raised

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visplay.callbacks.SampleLogger.on_train_batch_end", fail)
        with pytest.raises((ValueError, SystemExit)):
            fit(killed.parents[2], "--auto_resume")
    assert read(killed)[0]["processes"][-1]["exit"] == exit


def test_other_data_is_told(killed, caplog):
    facts = read(killed)[0]
    facts["data"]["images"]["sha256"] = "0"
    (killed / RUN_FILE).write_text(json.dumps(facts))
    fit(killed.parents[2], "--auto_resume")
    assert "data: images: not the same as when the run began" in caplog.text


LOGGERS = {
    "a version": ["--trainer.logger.init_args.version=0"],
    "another logger": [
        "--trainer.logger=CSVLogger",
        *("--trainer.logger.save_dir=runs", "--trainer.logger.name=tiny", "--trainer.logger.version=0"),
    ],
    "none": ["--trainer.logger=false", "--trainer.default_root_dir=runs/tiny/version_0"],
}


@pytest.mark.parametrize("name", LOGGERS)
def test_a_second_run_in_a_used_directory_is_rejected(killed, capsys, name):
    before = {
        path: path.stat().st_mtime_ns for path in killed.rglob("*") if path.name not in ("run.lock", ".start.lock")
    }
    error = rejection(capsys, killed.parents[2], *LOGGERS[name], f"--data.cache={killed.parents[1] / 'tiny-images'}")
    assert "'runs/tiny/version_0' holds a run already; continue it with --auto_resume or --ckpt_path=last" in error
    path = killed / "checkpoints" / "phase-00.ckpt"
    assert "holds a run already" in rejection(capsys, killed.parents[2], *LOGGERS[name], f"--ckpt_path={path}")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_without_a_checkpoint_is_started_anew_where_it_was(killed):
    shutil.rmtree(killed / "checkpoints")
    fit(killed.parents[2], "--auto_resume", "--trainer.logger.init_args.version=0")
    facts, phases = read(killed)
    assert [process["exit"] for process in facts["processes"]] == ["killed", "finished"]
    assert [phase["phase"] for phase in phases] == [0, 1]
    assert len(list(killed.glob("events.*"))) == 1


def test_a_version_that_is_given_is_the_run_that_is_meant(killed, capsys):
    shutil.copytree(killed, killed.with_name("version_1"))
    version = ["--trainer.logger.init_args.version=0", "--auto_resume"]
    with locked(killed.with_name("version_1") / "run.lock"):
        assert "'runs/tiny/version_1' is in use" in rejection(capsys, killed.parents[2], "--auto_resume")
        fit(killed.parents[2], *version)
    assert (killed / "checkpoints" / "phase-01.ckpt").is_file()
    assert not (killed.with_name("version_1") / "checkpoints" / "phase-01.ckpt").exists()


@pytest.fixture
def start(tmp_path):
    """Start the command, with its words in a file; what still runs when the test ends is killed."""
    started = []

    def start(*arguments, words="words"):
        command = [sys.executable, "-m", "visplay", *COMMAND, *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (tmp_path / words).open("wb") as file:
            started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=file, stderr=file))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(path, process):
    while not path.is_file():
        assert process.poll() is None
        time.sleep(0.05)


def test_two_processes(start, tmp_path):
    """Of two that a scheduler starts at once, one runs; a lock ends with its process, even where that is killed."""
    version = tmp_path / "runs" / "tiny" / "version_0"
    long = "--self_play.iterations=50"
    both = [start("--auto_resume", long, words=str(number)) for number in range(2)]
    while all(process.poll() is None for process in both):
        time.sleep(0.05)
    rejected, working = sorted(both, key=lambda process: process.poll() is None)
    assert rejected.returncode == 2
    error = (tmp_path / str(both.index(rejected))).read_text()
    assert f"'runs/tiny/version_0' is in use: process {working.pid} on " in error
    wait_for(version / "checkpoints" / "phase-00-step-0001.ckpt", working)
    working.kill()
    working.wait()
    assert read(version)[0]["processes"][-1]["exit"] is None
    again = start("--auto_resume", long)
    wait_for(version / "checkpoints" / "phase-00.ckpt", again)
    again.send_signal(signal.SIGTERM)
    assert again.wait() == 143
    facts, phases = read(version)
    assert [process["exit"] for process in facts["processes"]] == ["killed", "interrupted by SIGTERM"]
    assert facts["processes"][-1]["command"][1:] == [*COMMAND, "--auto_resume", long]
    assert [phase["phase"] for phase in phases] == list(range(len(phases))) != []
    assert [path.name for path in version.parent.iterdir()] == ["version_0"]


def test_no_socket_is_opened(start):
    process = start()
    assert watch(process) == set()
    assert process.returncode == 0


HOLDER = """
import sys, time
from pathlib import Path
from visplay.data.locking import locked
with locked(Path(sys.argv[1])):
    print("has it", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_waited_for(tmp_path):
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "has it\n"
        with pytest.raises(LockedError, match=f"is in use: process {holder.pid} on .* has lock"), locked(path):
            pass
        killer = threading.Timer(1.0, holder.kill)
        killer.start()
        with locked(path, wait=True):
            assert path.read_text().startswith(f"process {os.getpid()} on ")
        killer.join()
