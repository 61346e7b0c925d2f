"""Versions, and the commit of a checkout."""

import subprocess

import torch

from visplay import provenance


def git(directory, *arguments):
    command = ["git", "-C", str(directory), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_package(tmp_path, monkeypatch):
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "--message=of somebody else")
    (tmp_path / "site-packages" / "visplay").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "site-packages" / "visplay" / "provenance.py"))
    assert provenance.describe_software()["commit"] is None
    (tmp_path / "visplay").mkdir()
    file = tmp_path / "visplay" / "provenance.py"
    file.touch()
    monkeypatch.setattr(provenance, "__file__", str(file))
    git(tmp_path, "add", "visplay")
    git(tmp_path, "commit", "--message=ours")
    assert provenance.describe_software()["commit"] == git(tmp_path, "rev-parse", "HEAD")
    file.write_text("changed")
    assert provenance.describe_software()["commit"] == f"{git(tmp_path, 'rev-parse', 'HEAD')}-dirty"


def test_versions():
    found = provenance.describe_software(with_vllm=True)
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert "vllm" in found
    assert "vllm" not in provenance.describe_software()
    assert provenance.describe_machine(torch.device("cpu"))["device"] == "cpu"
