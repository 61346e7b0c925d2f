from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import plain_image
from visplay.callbacks import SampleLogger
from visplay.callbacks.samples import _extremes, _lines, _table, draw_panel
from visplay.types import Record, Vote

VOTE = Vote("3", 0.75, (("3", 3), ("4", 1)), 4, 4)


def _record(reward=0.5, number=9, size=(56, 56), problem="How many?", text="<question>How many?</question>", vote=VOTE):
    return Record(plain_image(number, size), problem, text, reward, vote)


@pytest.mark.parametrize("size", [(56, 56), (1, 900), (2000, 31), (1, 1)])
def test_a_panel_shows_the_image_and_text(size):
    panel = np.asarray(draw_panel(_record(size=size)))
    assert (panel == np.asarray(plain_image(9).getpixel((0, 0)))).all(-1).any()
    right = panel[:, 240:]
    assert (right == 0).any()
    assert (right == 255).mean() > 0.5


def test_a_panel_without_an_image():
    record = replace(_record(), image=None)
    left = np.asarray(draw_panel(record))[:, :230]
    assert (left == 255).all()


def test_a_panel_of_what_did_not_parse_or_is_long():
    assert draw_panel(_record(problem=None, text="x " * 5000, vote=None)).size == draw_panel(_record()).size


def test_a_panel_names_the_silver_or_the_gold_answer():
    assert "silver: 3   confidence: 0.75" in _lines(_record())
    labelled = Record(plain_image(1), "How many?", "4", 0.0, None, "3")
    assert _lines(labelled)[-2:] == ["gold: 3", "reward: +0.000"]


def test_worst_and_best_of_each_group_are_shown():
    records = [_record(reward) for reward in (0.1, 0.9, 0.5, 0.3, 0.2, 0.4)]
    assert [r.reward for r in _extremes(records, 2, 5)] == [0.1, 0.9, 0.2, 0.4]
    assert [r.reward for r in _extremes(records, 2, 1)] == [0.1, 0.9]


def test_a_models_text_cannot_break_the_table():
    table = _table([_record(text="a | b\n# title <script> [x](http://y) `c`")])
    assert len(table.splitlines()) == 3
    row = table.splitlines()[2]
    assert "\\|" in row
    assert "\\<script\\>" in row
    assert "\\[x\\]" in row


def test_bad_settings():
    with pytest.raises(ValueError, match="every_n_steps=0"):
        SampleLogger(every_n_steps=0)


HOSTILE = "a\x00\x1b[31m\u202e\udc80 <script> [x](http://y) " + "b" * 10**6


@pytest.mark.parametrize("part", ["problem", "text", "vote", "gold"])
def test_hostile_text_is_drawn_and_written(part):
    changed = {part: Vote(HOSTILE, 0.75, ((HOSTILE, 3),), 4, 4) if part == "vote" else HOSTILE}
    record = replace(_record(), **changed)
    draw_panel(record)
    table = _table([record])
    assert len(table.splitlines()) == 3
    assert table.replace("\n", "").isprintable()
    assert len(table) < 60_000


class _Writer:
    def __init__(self):
        self.written = {}

    def add_image(self, name, panels, step, dataformats):
        self.written["image"] = panels

    def add_text(self, name, text, step):
        self.written["text"] = text

    def add_histogram(self, name, values, step, bins):
        self.written["histogram"] = values


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, {"image", "text", "histogram"}),
        ({"images": False}, {"text", "histogram"}),
        ({"texts": False}, {"image", "histogram"}),
        ({"images": False, "texts": False}, {"histogram"}),
    ],
)
def test_images_and_texts_can_be_kept_out_of_the_logs(monkeypatch, options, shown):
    writer = _Writer()
    for module in ("samples", "logging"):
        monkeypatch.setattr(f"visplay.callbacks.{module}.tensorboard_writers", lambda trainer: [writer])
    judgement = SimpleNamespace(records=[_record()], rewards=[[0.5]])
    phase, role = SimpleNamespace(step=1, role_step=0), SimpleNamespace(name="reasoner")
    module = SimpleNamespace(result=SimpleNamespace(judgement=judgement), phase=phase, role=role)
    SampleLogger(**options).on_train_batch_end(SimpleNamespace(is_global_zero=True), module, None, [], 0)
    assert writer.written.keys() == shown
    if "image" in shown and "text" not in shown:
        without = draw_panel(_record(problem="another", text="another", vote=None), texts=False)
        assert (writer.written["image"] == np.concatenate([np.asarray(without)] * 2)).all()
