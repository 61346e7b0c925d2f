import io
from types import SimpleNamespace

from rich.console import Console

from visplay.callbacks.progress import PhaseProgress, _Line, describe
from visplay.clock import Clock
from visplay.functional import Phase


def _module(stage="votes", note="64/400 images"):
    clock = Clock()
    clock.stage, clock.note = stage, note
    role = SimpleNamespace(config=SimpleNamespace(steps=30))
    return SimpleNamespace(phase=Phase(2, "reasoner"), phase_step=3, clock=clock, role=role)


def _render(trainer, module):
    console = Console(file=io.StringIO(), width=120)
    console.print(_Line(trainer, module))
    return console.file.getvalue()


def test_says_iteration_phase_stage_and_step():
    trainer = SimpleNamespace(evaluating=False, sanity_checking=False)
    line = _render(trainer, _module())
    assert "iteration 2 · reasoner · votes 64/400 images" in line
    assert "step 3/30" in line
    assert describe(_module("", "")) == "iteration 2 · reasoner"


def test_says_what_it_evaluates():
    trainer = SimpleNamespace(evaluating=True, sanity_checking=False, testing=False)
    assert _render(trainer, _module(note="mmmu, batch 3")) == "validation · mmmu, batch 3\n"
    trainer.testing = True
    assert _render(trainer, _module(note="")) == "test\n"


def test_shows_nothing_where_a_line_cannot_be_redrawn():
    progress = PhaseProgress()
    progress.on_fit_start(SimpleNamespace(), _module())
    assert progress._live is None
    progress.on_fit_end(SimpleNamespace(), _module())
