import pytest

from helpers import Scripted, image_number
from runs import STEPS, fit, script
from visplay.callbacks import Curation, Diagnostics, RolloutEngine, SelfPlay, TransformersRollout
from visplay.data.generated import read_examples
from visplay.data.module import SelfPlayData
from visplay.modules import VLM
from visplay.tiny.self_play_images import write_images


def _metrics(root):
    lines = (root / "run" / "version_0" / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


def _blind(policy, prompt, text, sample):
    """Knows the answers about even images without looking."""
    if prompt.images:
        return script(policy, prompt, text, 1 if policy == "reasoner" and sample < 3 else sample)
    number = int(text.split("What is ")[1].split("?")[0])
    return f"\\boxed{{{number}}}" if number % 2 == 0 else "no idea"


def test_questions_that_need_no_image(tmp_path):
    diagnostics = Diagnostics(kl_every_n_steps=0, blind_questions=99)
    curation = Curation(images=10, questions_per_image=3, high=1.0)
    _, module, self_play = fit(
        tmp_path, engine=Scripted(_blind), self_play=SelfPlay(1, curation), callbacks=[diagnostics]
    )
    metrics = _metrics(tmp_path)
    even = [image_number(e.image) % 2 == 0 for e in read_examples(self_play.dataset)]
    assert metrics["curation/answerable_without_image_fraction"] == [pytest.approx(sum(even) / len(even))]
    assert 0 < sum(even) < len(even)


def test_divergence_from_the_start_of_the_phase_and_from_the_base(tmp_path):
    fit(
        tmp_path,
        data=SelfPlayData(write_images(tmp_path / "tiny", 12, seed=0)),
        engine=TransformersRollout(),
        self_play=SelfPlay(2, Curation(images=4, questions_per_image=3, low=0.0, high=1.0)),
        callbacks=[Diagnostics(kl_every_n_steps=1, blind_questions=0)],
    )
    metrics = _metrics(tmp_path)
    for role in ("questioner", "reasoner"):
        to_start, to_base = metrics[f"{role}/kl_to_phase_start"], metrics[f"{role}/kl_to_base"]
        assert len(to_start) == len(to_base) == 2 * STEPS
        assert to_start[0] == to_base[0] == pytest.approx(0.0, abs=1e-8)
        assert to_start[STEPS] == pytest.approx(0.0, abs=1e-8), "a new phase begins"
        assert to_base[STEPS] > 1e-6, "and the base stays where it is"
        assert min(to_start[1], to_start[STEPS + 1]) > 1e-8


def test_nothing_is_computed_when_switched_off(tmp_path, monkeypatch):
    calls = []
    generate = RolloutEngine.generate
    monkeypatch.setattr(RolloutEngine, "generate", lambda *args: calls.append(args[1].name) or generate(*args))
    scored, logps = [], VLM.logps
    monkeypatch.setattr(VLM, "logps", lambda *args, **named: scored.append(args) or logps(*args, **named))
    fit(tmp_path / "a", callbacks=[Diagnostics(kl_every_n_steps=0, blind_questions=0)])
    with_it = len(calls), len(scored)
    calls.clear()
    scored.clear()
    fit(tmp_path / "b")
    assert (len(calls), len(scored)) == with_it


def test_bad_settings():
    with pytest.raises(ValueError, match="kl_every_n_steps: -1 must not be negative"):
        Diagnostics(kl_every_n_steps=-1)
