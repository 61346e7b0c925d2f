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
    trainer = SimpleNamespace(validating=False, sanity_checking=False)
    line = _render(trainer, _module())
    assert "iteration 2 · reasoner · votes 64/400 images" in line
    assert "step 3/30" in line
    assert describe(_module("", "")) == "iteration 2 · reasoner"


def test_says_that_it_validates():
    assert "validation" in _render(SimpleNamespace(validating=True, sanity_checking=False), _module())


def test_shows_nothing_where_a_line_cannot_be_redrawn():
    progress = PhaseProgress()
    progress.on_fit_start(SimpleNamespace(), _module())
    assert progress._live is None
    progress.on_fit_end(SimpleNamespace(), _module())
