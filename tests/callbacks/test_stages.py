"""Stages that a kill cuts off, the questions of a data set and validations, go on with what is on the disk."""

import gc
import json
import weakref
from dataclasses import replace

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from helpers import Scripted, plain_image
from runs import CURATION, fit, make_module, script
from visplay.callbacks import Evaluation, SelfPlay, Summary
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.module import SelfPlayData
from visplay.types import Example, UnlabeledImage

IN_BATCHES = replace(CURATION, images=8, images_per_batch=3)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of the run goes on."""


class Answers(SelfPlayData):
    """Six questions, in batches of two."""

    def benchmarks(self, stage="test"):
        return [Benchmark("mine", [Example(str(n), plain_image(n), f"What is {n}?", str(n)) for n in range(6)], 2)]


class Images:
    """Ten images, made when they are asked for, of which ``most`` were alive at once."""

    def __init__(self):
        self.most, self._made = 0, []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        image = plain_image(index)
        self._made.append(weakref.ref(image))
        if self._alive() > self.most:
            gc.collect()
            self.most = max(self.most, self._alive())
        return UnlabeledImage(f"{index}.png", image)

    def _alive(self):
        return sum(made() is not None for made in self._made)


class Killed(Scripted):
    """Is killed at a call, counted over all."""

    def __init__(self, at=None):
        super().__init__(script)
        self.at = at

    def sample(self, policy, prompts, sampling):
        if len(self.calls) == self.at:
            raise KilledError
        return super().sample(policy, prompts, sampling)


def run(root, engine, ckpt=None, module=None, curation=IN_BATCHES):
    """A run of one iteration in ``root/run/version_0``, its base validated on all there is."""
    data = Answers(validation_batch_size=2)
    data._images = Images()
    data.setup = lambda stage: None
    keep = ModelCheckpoint(
        filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True, enable_version_counter=False
    )
    fit(
        root,
        module=module,
        data=data,
        engine=engine,
        self_play=SelfPlay(1, curation),
        callbacks=[keep, Summary(), Evaluation(str(root / "evaluation"))],
        ckpt_path=ckpt,
        logger=TensorBoardLogger(root, name="run", version=0),
        num_sanity_val_steps=-1,
    )
    return data


def outcome(root):
    """All files of a run that are the same each time, by name."""
    directory, found = root / "run" / "version_0", {}
    for path in [*directory.glob("generated/**/*.*"), *directory.glob("evaluation/**/*.*"), directory / "summary.json"]:
        if path.name != "manifest.json":
            found[str(path.relative_to(directory))] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    engine = Killed()
    run(root, engine)
    return engine, outcome(root)


def stage(engine, kind):
    """Numbers of the calls of a stage: of curation, or of the validation of iteration 1."""
    names = [(name, sampling.n, sampling.temperature) for name, _, sampling in engine.calls]
    questions = [number for number, (name, n, _) in enumerate(names) if (name, n) == ("questioner", 3)]
    return range(questions[0], questions[-1] + 2) if kind == "curation" else range(len(names) - 6, len(names))


def test_the_files_of_a_run(whole):
    engine, files = whole
    shards = [f"generated/iteration-1/{number:05d}.jsonl" for number in range(3)]
    assert {*shards, "generated/iteration-1.parquet", "evaluation/iteration-1/mine-rank0.jsonl"} <= files.keys()
    rows = [json.loads(line) for name in shards for line in files[name].splitlines()]
    assert [len(files[name].splitlines()) for name in shards] == [9, 9, 6]
    assert [row["question"] is None for row in rows] == [True, False, False] * 8
    assert [row["vote"] is None for row in rows] == [True, False, False] * 8
    assert len(stage(engine, "curation")) == 6


@pytest.mark.parametrize("call", range(6))
def test_a_kill_while_questions_are_asked_and_voted_on_costs_a_batch(whole, tmp_path, call):
    undisturbed, files = whole
    killed = Killed(stage(undisturbed, "curation")[call])
    with pytest.raises(KilledError):
        run(tmp_path, killed)
    again = Killed()
    run(tmp_path, again, tmp_path / "run" / "version_0" / "checkpoints" / "epoch=0.ckpt")
    assert outcome(tmp_path) == files
    asked = [name for name, _, sampling in again.calls if (name, sampling.n) == ("questioner", 3)]
    assert len(asked) == 3 - call // 2


@pytest.mark.parametrize("call", [0, 3, 4])
def test_a_kill_in_a_validation_costs_a_batch(whole, tmp_path, call):
    undisturbed, files = whole
    with pytest.raises(KilledError):
        run(tmp_path, Killed(stage(undisturbed, "validation")[call]))
    again = Killed()
    run(tmp_path, again, tmp_path / "run" / "version_0" / "checkpoints" / "epoch=0.ckpt")
    assert outcome(tmp_path) == files
    done = call // 2  # batches of one greedy and one sampled call each
    assert len(again.calls) == len(undisturbed.calls) - stage(undisturbed, "curation")[-1] - 1 - 2 * done


def test_other_policies_take_nothing_of_what_was_asked(whole, tmp_path):
    undisturbed, files = whole
    with pytest.raises(KilledError):
        run(tmp_path, Killed(stage(undisturbed, "curation")[4]))
    again = Killed()
    run(tmp_path, again, module=make_module(seed=1))
    assert [sampling.n for name, _, sampling in again.calls if name == "questioner"].count(3) == 3
    assert outcome(tmp_path).keys() == files.keys()


def test_a_data_set_of_many_images_needs_the_memory_of_a_batch(tmp_path):
    data = run(tmp_path, Scripted(script), curation=replace(IN_BATCHES, images=40))
    assert data.images.most <= 3 * IN_BATCHES.images_per_batch + 3  # and those of the last step
