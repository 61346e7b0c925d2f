"""The Questioner pays for asking again what earlier iterations kept."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from helpers import Scripted, plain_image
from runs import CONFIG, CURATION, STEPS, fit, script, write_plain_images
from visplay.callbacks import Recorder, SelfPlay, StepCheckpoint
from visplay.callbacks.records.replaying import replay_judging
from visplay.callbacks.records.step_record import read_record
from visplay.callbacks.records.trace_comparison import compare_traces
from visplay.data.earlier_datasets import DatasetFile, draw_questions
from visplay.data.files import sha256
from visplay.data.generated import read_examples, write_examples
from visplay.data.module import SelfPlayData
from visplay.functional import MemoryRedundancy, token_overlap
from visplay.modules import Questioner, QuestionFormat, QuestionReward, Qwen2_5_VL, Reasoner, VisPlay, Voting
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Example


def make(memory):
    questioner = Questioner(CONFIG, ASK, QuestionFormat(kinds=None), QuestionReward(memory=memory))
    return VisPlay(Qwen2_5_VL(str(BASE)), questioner, Reasoner(CONFIG, ANSWER, Voting(votes=4)))


def run(root, memory, *callbacks, ckpt=None, name="run"):
    return fit(
        root,
        module=make(memory),
        data=SelfPlayData(write_plain_images(root / "images")),
        engine=Scripted(script),
        self_play=SelfPlay(2, CURATION),
        callbacks=[StepCheckpoint(None, every_n_steps=1, keep=99), *callbacks],
        ckpt_path=ckpt,
        logger=CSVLogger(root, name=name, version=0),
    )


def column(trainer, name):
    with (Path(trainer.log_dir) / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_a_question_costs_more_where_it_was_kept_before(tmp_path):
    trainer, module, self_play = run(tmp_path / "paid", MemoryRedundancy(token_overlap, size=3))
    kept = {e.problem for e in read_examples(Path(self_play.learned[0][0]))}
    assert len(kept) == 4
    assert len(module.questioner.remembered) == 3
    assert {*module.questioner.remembered} < kept
    free, _, _ = run(tmp_path / "free", None)
    charged = column(trainer, "questioner/memory_redundancy")
    assert charged[:STEPS] == [0.0] * STEPS, "nothing is remembered in iteration 1"
    assert min(charged[STEPS:]) >= 0.125, "of three tokens two at least are those of every one remembered"
    rewards, others = (column(each, "questioner/reward") for each in (trainer, free))
    assert rewards[:STEPS] == others[:STEPS]
    assert all(reward < other for reward, other in zip(rewards[STEPS:], others[STEPS:], strict=True))
    assert column(trainer, "questioner/redundancy") == column(free, "questioner/redundancy")
    assert not column(free, "questioner/memory_redundancy")


def test_a_run_goes_on_from_any_step_and_a_recorded_one_is_repeated(tmp_path):
    memory = MemoryRedundancy(size=2)
    trainer, expected, _ = run(tmp_path, memory, Recorder("all"))
    directory = Path(trainer.log_dir)
    for path in sorted((directory / "checkpoints").glob("phase-0[12]-*.ckpt")):
        again, module, _ = run(tmp_path, memory, ckpt=path, name=path.stem)
        assert module.questioner.remembered == expected.questioner.remembered
        for (name, weight), other in zip(expected.state_dict().items(), module.state_dict().values(), strict=True):
            assert torch.equal(weight, other), name
        whole, mine = (column(each, "questioner/memory_redundancy") for each in (trainer, again))
        assert mine == whole[len(whole) - len(mine) :]
    paid = sorted((directory / "records").glob("phase-02-*"))
    assert len(paid) == STEPS
    for path in paid:
        record = read_record(path, weights=False)
        rows = compare_traces(record.trace, replay_judging(record, make(memory)).trace, judging=True)
        assert [row.first for row in rows if row.differing] == []


def test_questions_are_drawn_once_each(tmp_path):
    files = []
    for number, texts in enumerate((["a", "b", "a"], ["b", "c", "d"])):
        path = tmp_path / f"{number}.parquet"
        write_examples(path, [Example(f"{number}/{n}", plain_image(n), text, "1") for n, text in enumerate(texts)])
        files.append(DatasetFile(str(path), sha256(path)))
    assert draw_questions(files, 9, seed=0) == ("a", "b", "c", "d")
    found = {draw_questions(files, 2, seed) for seed in range(60)}
    assert len(found) == 6, "every pair"
    assert draw_questions([], 2, seed=0) == ()
    Path(files[0].path).unlink()
    with pytest.raises(ValueError, match="dataset: that of an earlier iteration is gone"):
        draw_questions(files, 2, seed=0)
