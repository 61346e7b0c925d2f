"""Examples of earlier iterations are learned from again, with the answers that they had, from any step on."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from helpers import plain_image
from runs import CONFIG, CURATION, STEPS, N, fit, make_module, write_plain_images
from visplay.callbacks import ReplayBuffer, SelfPlay, StepCheckpoint
from visplay.callbacks.iterations.advance import AdvanceRule
from visplay.data.draws import Draws
from visplay.data.earlier_datasets import DatasetFile
from visplay.data.files import sha256
from visplay.data.generated import read_examples, write_examples
from visplay.data.module import LabelledSource, SelfPlayData
from visplay.data.table_collections import Columns
from visplay.functional import most_confident_first, oldest_first
from visplay.modules import VisPlay
from visplay.types import Example


@pytest.fixture
def learned(monkeypatch):
    """Notes the examples of every step of the Reasoner, refills included."""
    seen, step = [], VisPlay.training_step

    def training_step(module, batch, batch_idx):
        if module.phase.role != "reasoner" or not batch:  # a phase that was continued after its last step has none
            return step(module, batch, batch_idx)
        seen.append((module.phase.iteration, module.phase.attempt, list(batch)))
        refill = module.refill
        module.refill = lambda count: seen[-1][2].extend(more := refill(count)) or more
        try:
            return step(module, batch, batch_idx)
        finally:
            module.refill = refill

    monkeypatch.setattr(VisPlay, "training_step", training_step)
    return seen


def _data(root, labelled=False):
    images = write_plain_images(root / "images")
    if not labelled:
        return SelfPlayData(images)
    path = root / "labelled.parquet"
    write_examples(path, [Example(f"g{n}", plain_image(n), f"What is {n}?", str(n)) for n in range(7)])
    return SelfPlayData(images, LabelledSource(str(path), columns=Columns(key="key")), silver_fraction=0.75)


def _run(root, replay, *, iterations=3, config=CONFIG, ckpt=None, name="run", labelled=False, **settings):
    return fit(
        root,
        module=make_module(config),
        data=_data(root, labelled),
        self_play=SelfPlay(iterations, CURATION, replay=replay, **settings),
        callbacks=[StepCheckpoint(None, every_n_steps=1, keep=99)],
        ckpt_path=ckpt,
        logger=CSVLogger(root, name=name, version=0),
    )


def _column(directory, name):
    with (directory / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_a_share_of_every_batch_is_of_earlier_iterations_with_the_answers_of_then(tmp_path, learned):
    trainer, _, self_play = _run(tmp_path, ReplayBuffer(share=1 / 3))
    generated = Path(trainer.log_dir) / "generated"
    rows = {n: {row.key: row for row in read_examples(generated / f"iteration-{n}.parquet")} for n in (1, 2, 3)}
    for iteration, _, batch in learned:
        assert [0 < e.iteration < iteration for e in batch] == [iteration > 1 and n == N - 1 for n in range(N)]
        for example in batch:
            then = rows[example.iteration][example.key]
            assert (example.problem, example.answer, example.votes) == (then.problem, then.answer, then.votes)
    assert {e.iteration for iteration, _, batch in learned if iteration == 3 for e in batch} <= {1, 2, 3}
    assert _column(Path(trainer.log_dir), "replay/held") == [0, 8, 16]
    expected = [0.0] * STEPS + [1 / 3] * 2 * STEPS
    assert _column(Path(trainer.log_dir), "reasoner/replayed_fraction") == pytest.approx(expected)
    assert self_play.learned == [[str(file), sha256(file)] for file in sorted(generated.glob("*.parquet"))]


def test_without_a_buffer_nothing_is_replayed(tmp_path, learned):
    trainer, _, _ = _run(tmp_path, None, iterations=2)
    assert [{e.iteration for e in batch} for *_, batch in learned] == [{1}] * STEPS + [{2}] * STEPS
    assert "replay" not in (Path(trainer.log_dir) / "metrics.csv").read_text()


def test_the_share_is_that_of_the_generated_ones_where_labels_are_mixed_in(tmp_path, learned):
    _run(tmp_path, ReplayBuffer(share=0.5), iterations=2, config=replace(CONFIG, prompts_per_step=8), labelled=True)
    for iteration, _, batch in learned:
        old = sum(0 < e.iteration < iteration for e in batch)
        assert (sum(e.iteration == 0 for e in batch), old) == (2, 3 if iteration > 1 else 0)


def test_what_a_repeated_phase_learned_from_is_not_replayed(tmp_path, learned):
    class Again(AdvanceRule):
        def measure(self, report):
            again = (report.phase.iteration, report.learns_from) == (1, "examples")
            return 0.0 if again else None

    _, _, self_play = _run(tmp_path, ReplayBuffer(share=1.0), iterations=2, advance=Again())
    assert [Path(path).stem for path, _ in self_play.learned] == ["iteration-1-repeat-1", "iteration-2"]
    again = {e.image_id for iteration, attempt, batch in learned if (iteration, attempt) == (1, 1) for e in batch}
    assert {e.image_id for iteration, _, batch in learned if iteration == 2 for e in batch} <= again | {
        e.image_id for e in read_examples(Path(self_play.learned[0][0]))
    }


@pytest.mark.parametrize("labelled", [False, True])
def test_a_run_goes_on_from_any_step(tmp_path, learned, labelled):
    config = replace(CONFIG, filter_zero_variance=True, max_refills=1)
    replay = ReplayBuffer(share=0.5, size=5)
    trainer, expected, done = _run(tmp_path, replay, iterations=2, config=config, labelled=labelled)
    whole = [[e.key for e in batch] for *_, batch in learned]
    checkpoints = sorted((Path(trainer.log_dir) / "checkpoints").glob("phase-0[23]-step-*.ckpt"))
    assert len(checkpoints) == 2 * STEPS
    for path in checkpoints:
        learned.clear()
        again = {"ckpt": path, "name": path.stem, "labelled": labelled}
        _, module, self_play = _run(tmp_path, replay, iterations=2, config=config, **again)
        assert whole[len(whole) - len(learned) :] == [[e.key for e in batch] for *_, batch in learned]
        for (name, weight), other in zip(expected.state_dict().items(), module.state_dict().values(), strict=True):
            assert torch.equal(weight, other), name
        assert self_play.phase == done.phase
        assert [each[1] for each in self_play.learned] == [each[1] for each in done.learned]


@pytest.mark.parametrize("fault", ["is gone", "has changed"])
def test_an_earlier_data_set_that_is_not_as_it_was(tmp_path, fault):
    trainer, _, self_play = _run(tmp_path, ReplayBuffer(), iterations=2)
    first = Path(self_play.learned[0][0])
    if fault == "is gone":
        first.unlink()
    else:
        shutil.copy(self_play.learned[1][0], first)
    ckpt = Path(trainer.log_dir) / "checkpoints" / "phase-03-step-0001.ckpt"
    with pytest.raises(ValueError, match=rf"dataset: that of an earlier iteration {fault}: .*iteration-1\.parquet"):
        _run(tmp_path, ReplayBuffer(), iterations=2, ckpt=ckpt, name="again")


def _files(root, *scores):
    files = []
    for number, each in enumerate(scores):
        path = root / f"{number}.parquet"
        rows = [Example(f"{number}/{n}", plain_image(n), "?", "1", score=s) for n, s in enumerate(each)]
        write_examples(path, rows)
        files.append(DatasetFile(str(path), sha256(path)))
    return files


@pytest.mark.parametrize(
    ("rule", "held"),
    [
        (oldest_first, ["0/0", "0/1", "1/0"]),
        (most_confident_first, ["0/1", "1/0", "1/1"]),
        (lambda iterations, confidences: -confidences, ["0/0", "1/1", "1/2"]),
    ],
)
def test_a_rule_chooses_what_is_held(tmp_path, rule, held):
    files = _files(tmp_path, [0.25, 0.75], [0.5, 0.5, 0.25])
    found = {tuple(e.key for e in ReplayBuffer(size=3, rule=rule).fill(files, seed)) for seed in range(40)}
    assert tuple(held) in found
    assert all(len({*held} & {*each}) >= 2 for each in found), "the third is drawn among equals"
    assert ReplayBuffer(size=3, rule=rule).fill([], 0).rows == []


def test_rows_are_read_where_they_are(tmp_path):
    files = _files(tmp_path, np.linspace(0, 1, 40), [0.5])
    held = ReplayBuffer(size=100).fill(files, 0)
    drawn = Draws(held, seed=3).draw(41)
    assert sorted(e.key for e in drawn) == sorted([f"0/{n}" for n in range(40)] + ["1/0"])


def test_bad_settings():
    with pytest.raises(ValueError, match=r"share: must lie in \[0, 1\], got 1.5"):
        ReplayBuffer(share=1.5)
    with pytest.raises(ValueError, match="size: must be at least 1, got 0"):
        ReplayBuffer(size=0)
