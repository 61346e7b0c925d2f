import json
from dataclasses import replace
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

import visplay.callbacks.rollout_sink
from helpers import Scripted
from runs import CURATION, fit, script
from visplay.callbacks import RolloutSink, RunRecord, SelfPlay
from visplay.data.images.image_facts import hash_pixels
from visplay.viewing.run_files import SampleFiles
from visplay.viewing.thumbnails import Thumbnails


def _run(root, sink=None, iterations=1, module=None, says=script, **settings):
    self_play = SelfPlay(iterations, replace(CURATION, low=0.0, high=1.0))
    callbacks = [sink or RolloutSink(), RunRecord()]
    trainer, module, _ = fit(
        root, module=module, engine=Scripted(says), self_play=self_play, callbacks=callbacks, **settings
    )
    return Path(trainer.log_dir), module


def _lines(directory, name):
    return [json.loads(line) for line in (directory / "samples" / name).read_text().splitlines()]


def test_what_a_questioner_asked_and_was_paid(tmp_path):
    directory, module = _run(tmp_path, enable_checkpointing=False)
    groups = _lines(directory, "iteration-1-questioner.jsonl")
    assert [(group["step"], len(group["completions"])) for group in groups] == [(1, 2)] * 3 + [(2, 2)] * 3
    first = groups[0]
    number = first["image"].removesuffix(".png")
    assert first["image_hash"] == hash_pixels(Image.open(tmp_path / "images" / first["image"]).convert("RGB"))
    assert first["prompt"] == "user\nAsk.\nassistant\n"
    nonsense, asked = first["completions"]
    assert (nonsense["text"], nonsense["question"], nonsense["silver"], nonsense["votes"]) == (
        "nonsense",
        None,
        None,
        [],
    )
    assert nonsense["parts"]["valid"] == 0
    assert (asked["question"], asked["kind"], asked["finished"]) == (f"What is {number}?", "numerical", True)
    assert (asked["silver"], asked["confidence"], asked["votes"][0]) == (number, 0.5, [number, 2])
    assert asked["parts"] == {"valid": 1.0, "difficulty": 1.0, "redundancy": asked["parts"]["redundancy"]}
    assert asked["reward"] == pytest.approx(asked["parts"]["difficulty"] - asked["parts"]["redundancy"])
    assert nonsense["advantage"] < 0 < asked["advantage"]
    assert module.result.advantages.shape == (3, 2)


def test_what_a_reasoner_answered(tmp_path):
    directory, _ = _run(tmp_path, enable_checkpointing=False)
    groups = _lines(directory, "iteration-1-reasoner.jsonl")
    assert len(groups) == 6
    for group in groups:
        number = group["image"].removesuffix(".png")
        assert (group["question"], group["silver"], group["gold"]) == (f"What is {number}?", number, None)
        assert [each["answer"] == number for each in group["completions"]] == [False, True]
        assert [each["reward"] for each in group["completions"]] == [0.0, 1.0]
        assert [each["parts"] for each in group["completions"]] == [
            {"agreement": 0.0, "form": 0.0},
            {"agreement": 1.0, "form": 0.0},
        ]


def test_statistics_of_every_step(tmp_path):
    directory, _ = _run(tmp_path, RolloutSink(every_n_steps=2), enable_checkpointing=False)
    steps = _lines(directory, "steps.jsonl")
    assert [(each["role"], each["step"]) for each in steps] == [
        ("questioner", 1),
        ("questioner", 2),
        ("reasoner", 1),
        ("reasoner", 2),
    ]
    assert {"reward", "entropy", "valid_fraction"} <= steps[0].keys()
    assert {group["step"] for group in _lines(directory, "iteration-1-questioner.jsonl")} == {1}


def test_images_that_are_asked_about_have_thumbnails(tmp_path):
    directory, _ = _run(tmp_path, enable_checkpointing=False)
    kept = Thumbnails(directory / "samples" / "thumbnails.sqlite")
    questions = [row for row in (directory / "generated" / "iteration-1").glob("0*.jsonl")]
    asked = {json.loads(line)["image"] for path in questions for line in path.read_text().splitlines()}
    assert len(asked) == 4
    assert asked <= kept.hashes().keys()
    assert len(kept.read(kept.hashes().values())) == len(set(kept.hashes().values()))


def test_without_images_there_are_hashes(tmp_path):
    directory, _ = _run(tmp_path, RolloutSink(images=False), enable_checkpointing=False)
    kept = Thumbnails(directory / "samples" / "thumbnails.sqlite")
    assert kept.hashes()
    assert kept.read(kept.hashes().values()) == {}
    assert all(group["image_hash"] for group in _lines(directory, "iteration-1-reasoner.jsonl"))


def test_a_full_phase_leaves_out_its_later_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(visplay.callbacks.rollout_sink, "_MEBIBYTE", 12_000)  # 3,000 bytes for each of two phases
    directory, _ = _run(tmp_path, RolloutSink(most_megabytes=1), enable_checkpointing=False)
    sizes = {path.name: path.stat().st_size for path in (directory / "samples").glob("iteration-*.jsonl")}
    assert all(size <= 3_000 for size in sizes.values())
    assert {group["step"] for group in _lines(directory, "iteration-1-questioner.jsonl")} == {1}
    assert len(_lines(directory, "steps.jsonl")) == 4


def test_a_run_that_goes_back_goes_on_with_the_samples_of_then(tmp_path):
    checkpoint = ModelCheckpoint(save_top_k=-1, every_n_epochs=1, filename="{epoch}")

    def run(**settings):
        self_play = SelfPlay(2, replace(CURATION, low=0.0, high=1.0))
        logger = TensorBoardLogger(tmp_path, name="run", version=0)
        callbacks = [RolloutSink(), RunRecord(), checkpoint]
        fit(tmp_path, engine=Scripted(script), self_play=self_play, callbacks=callbacks, logger=logger, **settings)
        samples = tmp_path / "run" / "version_0" / "samples"
        return {path.name: path.read_bytes() for path in samples.glob("*.jsonl")}

    whole = run()
    assert len(whole) == 5
    again = run(ckpt_path=str(tmp_path / "run" / "version_0" / "checkpoints" / "epoch=1.ckpt"))
    steps = [json.loads(line) for line in again["steps.jsonl"].splitlines()]
    steps = [{name: row[name] for name in ("iteration", "step")} for row in steps]
    assert steps == [{"iteration": i, "step": s} for i in (1, 1, 2, 2) for s in (1, 2)]
    assert {name: text for name, text in again.items() if name != "steps.jsonl"} == {
        name: text for name, text in whole.items() if name != "steps.jsonl"
    }


def test_files_are_cut_to_where_they_were(tmp_path):
    files = SampleFiles(tmp_path)
    files.append("a.jsonl", [{"n": 1}])
    position = files.position()
    files.append("a.jsonl", [{"n": 2}])
    files.append("b.jsonl", [{"n": 3}])
    files.cut(position)
    assert position == {"a.jsonl": 9}
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["a.jsonl"]
    assert (tmp_path / "samples" / "a.jsonl").read_text() == '{"n": 1}\n'


def test_lines_are_added_all_or_none(tmp_path):
    files = SampleFiles(tmp_path)
    assert files.append("a.jsonl", [{"n": 1}, {"n": 2}], most_bytes=18)
    assert not files.append("a.jsonl", [{"n": 3}], most_bytes=26)
    assert files.append("a.jsonl", [{"n": 3}], most_bytes=27)
    assert (tmp_path / "samples" / "a.jsonl").read_text() == '{"n": 1}\n{"n": 2}\n{"n": 3}\n'


@pytest.mark.parametrize("settings", [{"every_n_steps": 0}, {"most_megabytes": 0}])
def test_bad_settings(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name}: {value} must be at least 1"):
        RolloutSink(**settings)
