"""The recipes by hardware say what the plan says today."""

import pytest

from benchmarks.models import save_empty
from documents.blocks import BLOCKS, ROOT
from documents.commands import commands
from visplay.cli import instantiate
from visplay.planning.reading import given_device, read_settings
from visplay.planning.run_plan import make_plan

PAGE = "docs/hardware.md"
PLANS = [
    words[2:]
    for block in BLOCKS
    if block.page == PAGE
    for words, _ in commands(block)
    if words[:2] == ("visplay", "plan") and "--gpus" not in words  # those are in docs/models.md and docs/scaling.md
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "3b"
    save_empty("3b", path)
    return path


@pytest.mark.parametrize("words", PLANS, ids=" ".join)
def test_a_peak_is_what_the_plan_says(words, model, monkeypatch):
    monkeypatch.chdir(ROOT)
    (memory,) = (float(word.partition("=")[2]) for word in words if word.startswith("--memory-gib="))
    settings = [word for word in words if not word.startswith("--memory-gib=")]
    built = instantiate([*settings, f"--model.vlm.path={model}"])
    plan = make_plan(read_settings(built.model, built.callbacks, built.trainer, given_device("gpu", memory, 0, None)))
    peak = max(plan.peak(stage) for stage in plan.stages) / 2**30
    assert f"{peak:.1f} " in (ROOT / PAGE).read_text()
    assert (peak < memory) == (not plan.problems)
