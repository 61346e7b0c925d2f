"""What examples/ and docs/adding_a_vlm.md say of a family of one's own, and the whole loop with every family."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from families import FAMILIES, Tiny, llava, plain_logps, processed
from runs import CONFIG, STEPS, fit
from visplay.cli import VisPlayCLI, instantiate, run
from visplay.modules import Questioner, QuestionFormat, Reasoner, VisPlay, Voting
from visplay.planning.reading import given_device, read_settings
from visplay.planning.run_plan import make_plan
from visplay.prompts import Template
from visplay.tiny import ANSWER, ASK

ROOT = Path(__file__).parent.parent
CLASS_PATH = "examples.add_a_vlm.Llava"


@pytest.fixture
def own(monkeypatch, tmp_path):
    """A tiny LLaVA 1.5 whose class the configuration names."""
    llava(tmp_path / "llava")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", lambda self, subcommand: None)
    try:
        cli = run(
            ["fit", "--config=configs/tiny.yaml", f"--model.vlm={CLASS_PATH}", f"--model.vlm.path={tmp_path / 'llava'}"]
        )
    finally:
        torch.use_deterministic_algorithms(False)
    return cli.model.questioner.vlm


def one_iteration(directory, vlm):
    questioner = Questioner(CONFIG, ASK, QuestionFormat(kinds=None))
    module = VisPlay(vlm, questioner, Reasoner(CONFIG, ANSWER, Voting(votes=4)), 0)
    fit(directory, module=module)
    assert module.questioner.vlm.version == module.reasoner.vlm.version == STEPS
    base = vlm.base()
    for policy in (module.questioner.vlm, module.reasoner.vlm):
        assert type(policy) is type(vlm)
        moved = [not torch.equal(*pair) for pair in zip(policy.parameters(), base.parameters(), strict=True)]
        assert sum(moved) > 0.75 * len(moved)  # some vision towers are read before their last block


def test_the_example_is_short():
    assert len((ROOT / "examples" / "add_a_vlm.py").read_text().splitlines()) <= 60


def test_a_family_outside_the_package_runs_an_iteration(own, tmp_path):
    assert f"{type(own).__module__}.{type(own).__name__}" == CLASS_PATH
    one_iteration(tmp_path / "run", own)


def test_a_family_outside_the_package_equals_plain_transformers(own, tmp_path):
    own.load()
    assert own.why_not_packed() is None
    images = [Image.effect_noise(size, 90).convert("RGB") for size in [(56, 56), (80, 40)]]
    for chosen in ([], images[:1], images):
        prompt = own.encode("k", Template("{question}", system="Be good."), chosen, question="How many?")
        inputs = processed(own, Tiny(type(own), llava), prompt.token_ids, chosen)
        assert torch.equal(own.collate([prompt]).input_ids, inputs["input_ids"])
        token_ids = torch.tensor([[[5, 6, 7], [9, 8, 4]]])
        logps, _ = own.logps([prompt], token_ids, torch.ones_like(token_ids, dtype=torch.bool))
        for row in range(2):
            plain = plain_logps(own, inputs, token_ids[0, row])
            torch.testing.assert_close(logps[0, row], plain, rtol=0, atol=1e-5)
    own.save(tmp_path / "saved")
    again = type(own)(str(tmp_path / "saved"))
    again.load()
    assert again.fingerprint() == own.fingerprint()


def test_a_family_outside_the_package_is_planned(own):
    given = ["--config=configs/tiny.yaml", f"--model.vlm={CLASS_PATH}", f"--model.vlm.path={own.path}"]
    built = instantiate(given)
    settings = read_settings(built.model, built.callbacks, built.trainer, given_device("cpu", 8.0, 0, None))
    own.load()
    assert settings.shape.weights == sum(weight.numel() for weight in own.parameters())
    assert settings.image.most_tokens == own.most_image_tokens == 16
    assert settings.image.most_patches(settings.shape.patches_per_token) == 16
    assert make_plan(settings).problems == ()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs_an_iteration(name, tmp_path):
    tiny = FAMILIES[name]
    tiny.write(tmp_path / "model")
    one_iteration(tmp_path / "run", tiny.family(str(tmp_path / "model")))
