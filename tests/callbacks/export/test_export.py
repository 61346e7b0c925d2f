"""Exports of a run: after each phase what learned, and by command what a checkpoint holds."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from runs import CONFIG, CURATION, fit, write_plain_images
from visplay.__main__ import main
from visplay.callbacks import DiskBudgetError, Evaluation, Export, HubTarget, Retention, SelfPlay
from visplay.callbacks.export.hub import UploadError
from visplay.callbacks.export.model_card import CardFacts, model_card
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.module import SelfPlayData
from visplay.modules import LoRA, Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, Tuning, VisPlay, Voting
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.modules.policy.weights.saving import ExportFormat
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Example

METRIC = "val/mine/rule_accuracy"
FLOAT32 = ExportFormat("float32")


class Validated(SelfPlayData):
    def benchmarks(self, stage="test"):
        return [Benchmark("mine", [Example("a", image, "What is 1?", "1") for image in [self.images[1].image]])]


def make_module(lora=None):
    vlm = Qwen2_5_VL(str(BASE), tuning=Tuning((), lora))
    questioner = Questioner(CONFIG, ASK, QuestionFormat(kinds=None))
    return VisPlay(vlm, questioner, Reasoner(CONFIG, ANSWER, Voting(votes=4)))


def export_run(root, export, iterations=2, lora=None, callbacks=()):
    evaluation = Evaluation(str(root / "evaluation"))
    data, module = Validated(write_plain_images(root / "images")), make_module(lora)
    each = [evaluation, export, *callbacks]
    fit(root, module=module, data=data, self_play=SelfPlay(iterations, CURATION), callbacks=each)
    return module, root / "run" / "version_0"


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_each_phase_leaves_what_learned(tmp_path, lora):
    module, run = export_run(tmp_path, Export(form=FLOAT32, keep=Retention(1, METRIC)), lora=lora)
    directory = run / "exports"
    facts = json.loads((directory / "exports.json").read_text())
    assert facts["metric"] == METRIC
    assert facts["best"] in (1, 2)
    assert sorted(facts["scores"]) == sorted({"2", str(facts["best"])})
    for role in (module.questioner, module.reasoner):
        place = directory / "iteration-2" / role.name
        loaded = ModelSource(str(place)).load(Qwen2_5_VL(str(BASE)))
        sent = dict(role.vlm.weights())
        assert all(weight.equal(sent[name]) for name, weight in loaded.weights())
        card = (place / "README.md").read_text()
        head = yaml.safe_load(card.split("---")[1])
        assert (head["library_name"], head["pipeline_tag"]) == ("transformers", "image-text-to-text")
        assert f"# {role.name.capitalize()} after iteration 2 of self-play" in card
        assert "- images: images" in card
        assert "learning_rate: 0.001" in card
        assert str(tmp_path) not in card
        assert ("| mine | rule_accuracy |" in card) == (role.name == "reasoner")


def test_roles_and_the_hub(tmp_path, monkeypatch, caplog):
    pushed = []

    def push(place, target, role, message):
        pushed.append((place.name, target.repo, message))
        raise UploadError("no network")

    monkeypatch.setattr("visplay.callbacks.export.export_callback.push_to_hub", push)
    export = Export(str(tmp_path / "out"), roles=["reasoner"], hub=HubTarget("me/x"))
    export_run(tmp_path, export, iterations=1)
    assert [path.name for path in (tmp_path / "out" / "iteration-1").iterdir()] == ["reasoner"]
    assert pushed == [("reasoner", "me/x", "reasoner, iteration 1")]
    assert "no network" in caplog.text


def test_a_run_is_refused_before_it_learns(tmp_path):
    with pytest.raises(DiskBudgetError, match="max_gib: 0.001 GiB is less than"):
        export_run(tmp_path / "a", Export(keep=Retention(max_gib=0.001)))
    with pytest.raises(ValueError, match="adapter_only: this policy is no adapter"):
        export_run(tmp_path / "b", Export(form=ExportFormat(adapter_only=True)))
    with pytest.raises(
        ValueError, match=r"repo: 'me/x' would take what questioner and reasoner learn; put \{role\} in"
    ):
        export_run(tmp_path / "d", Export(hub=HubTarget("me/x")))
    with pytest.raises(ValueError, match=r"metric: 'val/x/y' is not measured; .*'val/mine/rule_accuracy'"):
        export_run(tmp_path / "c", Export(keep=Retention(metric="val/x/y")), iterations=1)


def test_a_metric_that_fails_to_appear_later_does_not_end_the_run(caplog):
    export = Export(keep=Retention(metric="val/x/judge"))
    trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING), sanity_checking=False)
    export.on_validation_end(trainer, SimpleNamespace(scores={"val/x/judge": 0.5}))
    assert not caplog.text
    export.on_validation_end(trainer, SimpleNamespace(scores={"val/x/rule": 0.5}))
    assert "metric: 'val/x/judge' is not measured; the validation measures ['val/x/rule']" in caplog.text
    trainer.sanity_checking = True
    with pytest.raises(ValueError, match="metric: 'val/x/judge' is not measured"):
        export.on_validation_end(trainer, SimpleNamespace(scores={"val/x/rule": 0.5}))
    alone = SimpleNamespace(roles={"questioner": None}, validated=None)
    with pytest.raises(ValueError, match="metric: 'val/x/judge', but a SimpleNamespace alone is not validated"):
        export.on_fit_start(trainer, alone)


def test_only_the_first_rank_writes(tmp_path):
    """Whatever the others are asked to write would fail: there is nothing but a barrier."""
    met = []
    strategy = SimpleNamespace(barrier=lambda: met.append(1))
    trainer = SimpleNamespace(is_global_zero=False, log_dir=str(tmp_path), strategy=strategy)
    role = SimpleNamespace(name="reasoner", vlm=SimpleNamespace(sharded=False))
    Export(str(tmp_path / "out")).on_train_epoch_end(trainer, SimpleNamespace(role=role, roles={"reasoner": role}))
    assert met == [1]
    assert not (tmp_path / "out").exists()


def test_a_card_says_settings_of_every_kind_and_no_path_of_this_machine(tmp_path):
    settings = {"loss": partial(round, ndigits=2), "dtype": torch.float32, "path": Path("/a/b"), "many": {1, 2}}
    facts = CardFacts("reasoner", str(tmp_path), FLOAT32, 1, {"images": "images"}, settings)
    card = model_card(facts)
    found = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert found == {"loss": {"round": {"ndigits": 2}}, "dtype": "dtype", "path": "PosixPath", "many": [1, 2]}
    assert f"Learned from {tmp_path.name} with VisPlay" in card
    assert str(tmp_path.parent) not in card
    assert "base_model" not in card.split("---")[1]


def test_a_card_shows_names_that_a_data_set_gives_as_text():
    estimate = {"value": 0.5, "low": None, "high": None, "size": 8}
    scores = {"mine": {"metrics": {"<script>|[x](http://y)": estimate}}}
    card = model_card(CardFacts("reasoner", "base", FLOAT32, data={"images": "<b>\n# [x](http://y)"}, scores=scores))
    assert r"| mine | \<script\>\|\[x\](http://y) | 0.5000 | – | 8 |" in card
    assert r"- images: \<b\> # \[x\](http://y)" in card


@pytest.fixture
def finished(tmp_path):
    """A run of two iterations with adapters, its checkpoints, and its configuration."""
    keep = ModelCheckpoint(filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    module, run = export_run(tmp_path, Export(roles=[]), lora=LoRA(rank=2), callbacks=[keep])
    vlm = {"path": str(BASE), "tuning": {"lora": {"rank": 2}}}
    settings = {
        "vlm": {"class_path": "visplay.modules.Qwen2_5_VL", "init_args": vlm},
        "questioner": {"class_path": "visplay.modules.Questioner"},
        "reasoner": {"class_path": "visplay.modules.Reasoner"},
    }
    config = {"model": {"class_path": "visplay.modules.VisPlay", "init_args": settings}}
    config["data"] = {
        "class_path": "visplay.data.module.SelfPlayData",
        "init_args": {"images": str(tmp_path / "images")},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for iteration, value in ((1, 0.9), (2, 0.4)):
        path = run / "evaluation" / f"iteration-{iteration}" / "scores.json"
        found = json.loads(path.read_text())
        found["scores"]["mine"]["metrics"]["rule_accuracy"]["value"] = value
        path.write_text(json.dumps(found))
    return module, run


def test_the_command(finished, tmp_path, capsys):
    module, run = finished
    like = module.reasoner.vlm

    def export(name, *options):
        main(["export", str(run), "--output", str(tmp_path / name), "--dtype", "float32", *options])
        return tmp_path / name

    def weights(directory):
        return dict(ModelSource(str(directory)).load(like).weights())

    for role in (module.reasoner, module.questioner):
        last = export(f"last-{role.name}", "--role", role.name)
        sent = dict(role.vlm.weights())
        assert all(weight.equal(sent[name]) for name, weight in weights(last).items())
    assert "# Reasoner after iteration 2" in (tmp_path / "last-reasoner" / "README.md").read_text()
    half = run / "checkpoints" / "epoch=2.ckpt"  # after the Questioner's second phase
    for role, iteration in (("questioner", 2), ("reasoner", 1)):
        main(["export", str(half), "--output", str(tmp_path / f"half-{role}"), "--role", role])
        assert f"after iteration {iteration} of" in (tmp_path / f"half-{role}" / "README.md").read_text()
    card = (export("best", "--metric", METRIC) / "README.md").read_text()
    assert "# Reasoner after iteration 1" in card
    assert "| mine | rule_accuracy | 0.9000 |" in card
    assert "- images: images" in card
    (first,) = [path for path in (run / "checkpoints").iterdir() if path.name == "epoch=1.ckpt"]
    expected = dict(ModelSource(str(first)).load(like).weights())
    found = weights(tmp_path / "best")
    assert all(weight.equal(expected[name]) for name, weight in found.items())
    assert "# Reasoner after iteration 2" in (export("worst", "--metric", METRIC, "--lowest") / "README.md").read_text()
    adapter = export("adapter", "--adapter-only")
    merged = weights(adapter)
    assert all(
        torch.allclose(weight, merged[name], atol=1e-6) for name, weight in weights(tmp_path / "last-reasoner").items()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "val/mine/none"], "metric: 'val/mine/none' was measured in no iteration of"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--push-to-hub", "nothing"], "repo: must be owner/name, .* got 'nothing'"),
    ],
)
def test_what_the_command_rejects(finished, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        main(["export", str(finished[1]), "--output", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


def test_directories_that_are_there_or_not(tmp_path):
    with pytest.raises(SystemExit, match="is no checkpoint, and no directory of a run that has finished a phase"):
        main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(SystemExit, match="is there already; give another directory"):
        main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    assert (tmp_path / "out" / "mine").read_text() == "mine"
