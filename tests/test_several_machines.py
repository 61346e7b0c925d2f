"""Runs of several machines, on loopback: by torchrun and by the batch file for SLURM, compared with one process."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.ranks import SMALL
from two_ranks import ENVIRONMENT, ROOT, assert_close, free_port, kill_all, start, start_fit

pytestmark = pytest.mark.timeout(900)  # five processes, which load all there is
TINY = f"--config={ROOT / 'configs/tiny.yaml'}"
BATCH_FILE = ROOT / "configs/slurm.sbatch"
SRUN = """#!/bin/bash
# As srun does: one process per machine, the highest exit code.
[ "$1" = --kill-on-bad-exit=1 ] || exit 99
for number in 0 1; do SLURM_PROCID=$number SLURM_NODEID=$number SLURM_LOCALID=0 "${@:2}" & done
highest=0
for job in $(jobs -p); do wait "$job" || { code=$?; [ $code -gt $highest ] && highest=$code; }; done
exit $highest
"""
SCONTROL = '#!/bin/bash\necho "$@" >> "$SCONTROL_LOG"\n'


def slurm_environment(tmp_path: Path, **commands: str) -> dict[str, str]:
    """What SLURM tells a job of two machines with a process each, and commands of its own."""
    directory = tmp_path / "bin"
    directory.mkdir(parents=True)
    for name, text in commands.items():
        (directory / name).write_text(text)
        (directory / name).chmod(stat.S_IRWXU)
    tells = {"JOB_ID": 4711, "JOB_NAME": "visplay", "NTASKS": 2, "NTASKS_PER_NODE": 1, "NNODES": 2, "CPUS_PER_TASK": 1}
    return {
        **{f"SLURM_{name}": str(value) for name, value in tells.items()},
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "SCONTROL_LOG": str(tmp_path / "scontrol.log"),
        "PATH": os.pathsep.join([str(directory), str(Path(sys.executable).parent), os.environ["PATH"]]),
    }


def start_by_torchrun(port: int, number: int, *arguments: str, cwd: Path = ROOT) -> subprocess.Popen[str]:
    """Start what one of two machines has of a run."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += [f"--node-rank={number}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    ours = ["-m", "visplay", "fit", "--trainer.strategy=ddp", "--trainer.num_nodes=2"]
    return start([*torchrun, *ours, *arguments], cwd=cwd)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run's directory, of one process, of two machines by torchrun, and by SLURM."""
    root, port = tmp_path_factory.mktemp("machines"), free_port()
    roots = {name: root / name for name in ("one", "torchrun", "slurm")}
    running = [start_fit(roots["one"], *SMALL)]
    options = [TINY, *SMALL, f"--trainer.default_root_dir={roots['torchrun']}"]
    running += [start_by_torchrun(port, number, *options) for number in range(2)]
    environment = slurm_environment(root, srun=SRUN, scontrol=SCONTROL)
    options = [TINY, *SMALL, f"--trainer.default_root_dir={roots['slurm']}"]
    running.append(start(["bash", str(BATCH_FILE), *options], environment))
    try:
        said = [process.communicate(timeout=800)[1] for process in running]
    finally:
        for process in running:
            kill_all(process)
    assert [process.returncode for process in running] == [0, 0, 0, 0], "\n".join(error[-2000:] for error in said)
    return {name: path / "tiny" / "version_0" for name, path in roots.items()}


@pytest.mark.parametrize("started", ["torchrun", "slurm"])
def test_the_run_is_that_of_one_process(runs, started):
    one, other = runs["one"], runs[started]
    assert [path.name for path in other.parent.iterdir()] == ["version_0"]
    for name in ("generated/iteration-1.parquet", "generated/iteration-1/00000.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    rows, others = (json.loads((run / "summary.json").read_text()) for run in (one, other))
    for row, found in zip(rows, others, strict=True):
        assert found == pytest.approx(row, abs=5e-4)
    states = [torch.load(run / "checkpoints" / "phase-01.ckpt")["state_dict"] for run in (one, other)]
    assert_close(*states)
    answered = {file.stem.rpartition("-")[2] for file in (other / "evaluation" / "iteration-1").glob("*.jsonl")}
    assert answered == {"rank0", "rank1"}


def test_machines_that_do_not_share_the_directory_end_with_an_error(tmp_path):
    port, options = free_port(), [TINY, *SMALL, f"--model.init_args.vlm.path={ROOT / 'visplay/tiny/base'}"]
    for number in range(2):
        (tmp_path / str(number)).mkdir()
    running = [start_by_torchrun(port, n, *options, cwd=tmp_path / str(n)) for n in range(2)]  # runs/ below each
    try:
        said = "".join(process.communicate(timeout=300)[1] for process in running)
    finally:
        for process in running:
            kill_all(process)
    assert all(process.returncode for process in running)
    assert said.count("error: trainer.default_root_dir: ranks [1] do not see what rank 0 writes in") == 1


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (143, True)])
def test_a_job_that_was_told_to_end_is_queued_again(tmp_path, code, requeued):
    commands = {"srun": f'#!/bin/bash\necho "$@" > "$SCONTROL_LOG.srun"\nexit {code}\n', "scontrol": SCONTROL}
    environment = slurm_environment(tmp_path, **commands)
    job = subprocess.run(["bash", BATCH_FILE, "--config=x.yaml"], env=os.environ | ENVIRONMENT | environment)
    assert job.returncode == code
    log = tmp_path / "scontrol.log"
    assert (log.read_text() if log.exists() else "") == ("requeue 4711\n" if requeued else "")
    assert log.with_name("scontrol.log.srun").read_text().split()[-4:] == [
        *("--config=x.yaml", "--auto_resume", "--trainer.num_nodes=2", "--trainer.devices=1")
    ]
