from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import ImageDraw, ImageFont
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import plain_image
from visplay.callbacks import SampleLogger
from visplay.callbacks.logging import log_table
from visplay.callbacks.samples import HEIGHT, WIDTH, _cells, _extremes, draw_panel, wrap
from visplay.types import Record, Vote

VOTE = Vote("3", 0.75, (("3", 3), ("4", 1)), 4, 4)


def _record(reward=0.5, number=9, size=(56, 56), problem="How many?", text="<question>How many?</question>", vote=VOTE):
    return Record(plain_image(number, size), problem, text, reward, vote)


@pytest.fixture
def written(monkeypatch):
    """Draws a panel, and gives the texts in it with the boxes they take."""
    found = []
    draw = ImageDraw.ImageDraw.text

    def text(self, xy, text, fill, font):
        found.append((text, font.getbbox(text, anchor="la"), xy))
        draw(self, xy, text, fill=fill, font=font)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)

    def write(record, **options):
        found.clear()
        draw_panel(record, **options)
        for shown, (_, _, right, bottom), (left, top) in found:
            assert left + right <= WIDTH, shown
            assert top + bottom <= HEIGHT, shown
        return [shown for shown, _, _ in found]

    return write


@pytest.mark.parametrize("size", [(56, 56), (1, 900), (2000, 31), (1, 1)])
def test_a_panel_shows_the_image_and_text(size):
    panel = np.asarray(draw_panel(_record(size=size)))
    assert (panel[:340, :340] == np.asarray(plain_image(9).getpixel((0, 0)))).all(-1).any()
    assert (panel[:, 350:] < 100).any()
    assert (panel[:, 350:] == 255).mean() > 0.5


def test_a_panel_without_an_image():
    assert (np.asarray(draw_panel(replace(_record(), image=None)))[:340, :340] == 255).all()


def test_a_panel_says_what_was_asked_voted_and_paid(written):
    shown = written(replace(_record(), parts={"valid": 1.0, "redundancy": 0.125}), advantage=-0.5)
    assert shown == [
        *("reward", "+0.500", "valid 1.000", "redundancy 0.125", "advantage -0.500"),
        *("silver answer", "3", "confidence 0.75", "How many?", "votes: 4 of 4 answers parsed"),
        *("3", "3", "4", "1"),  # names and counts
        *("completion", "<question>How many?</question>"),
    ]
    assert written(_record(), texts=False) == ["reward", "+0.500", "confidence 0.75"]


def test_a_panel_names_the_true_answer_of_a_label(written):
    shown = written(Record(plain_image(1), "How many?", "4", 0.0, None, "3"))
    assert shown == ["reward", "+0.000", "true answer", "3", "How many?", "completion", "4"]


def test_bars_are_as_long_as_their_counts():
    panel = np.asarray(draw_panel(_record()))
    green, grey = ((panel == color).all(-1).sum(1).max() for color in ((24, 128, 56), (218, 220, 224)))
    assert green == pytest.approx(3 * grey, abs=3)


def test_rare_answers_share_a_bar(written):
    vote = Vote("a", 0.4, tuple((name, 1 + (name == "a")) for name in "abcdefg"), 8, 8)
    shown = written(_record(vote=vote))
    assert shown[-12:-2] == ["a", "2", "b", "1", "c", "1", "d", "1", "(others)", "3"]


def test_a_panel_of_what_did_not_parse_is_as_large(written):
    record = _record(problem=None, text="x " * 5000, vote=None)
    assert draw_panel(record).size == draw_panel(_record()).size == (WIDTH, HEIGHT)
    shown = written(record)
    assert "(the completion is no question)" in shown
    assert shown[-1].endswith("x…")


SCRIPTS = {
    "chinese": "图中有多少个红色的圆形和蓝色的三角形？" * 40,
    "arabic": "كم عدد الدوائر الحمراء؟ " * 40,
    "hebrew": "כמה עיגולים אדומים יש? " * 40,
    "one word": "x" * 5000,
    "nothing": "",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_texts_of_any_script_are_cut_to_size(written, name):
    text = SCRIPTS[name]
    vote = Vote(text, 0.75, ((text, 3), (text[::-1], 1)), 4, 4)
    written(Record(plain_image(1), text, text, 1.0, vote, parts={text: 1.0}))
    written(Record(plain_image(1), text, text, 1.0, None, text))


def test_lines_end_between_words():
    font = ImageFont.load_default(size=20)
    width = font.getlength("one two") + 1
    assert wrap("one two\nthree  four", font, width, 5) == ["one two", "three", "four"]
    assert wrap("one two three four", font, width, 2) == ["one two", "three f…"]
    assert wrap("one two", font, width, 0) == []
    assert wrap("a" * 10, font, font.getlength("aaaa"), 9) == ["aaaa", "aaaa", "aa"]


def test_worst_and_best_of_each_group_are_shown():
    records = [_record(reward) for reward in (0.1, 0.9, 0.5, 0.3, 0.2, 0.4)]
    assert _extremes(records, 2, 5) == [0, 1, 4, 5]
    assert _extremes(records, 2, 1) == [0, 1]


def test_bad_settings():
    with pytest.raises(ValueError, match="every_n_steps=0"):
        SampleLogger(every_n_steps=0)


HOSTILE = "a\x00\x1b[31m\u202e\udc80 <script> [x](http://y) " + "b" * 10**6


@pytest.fixture
def board(tmp_path):
    """A trainer with a TensorBoard log, and what is in it by kind."""
    logger = TensorBoardLogger(tmp_path)

    def read():
        logger.experiment.close()
        events = EventAccumulator(logger.log_dir)
        events.Reload()
        texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
        return {"image": events.Tags()["images"], "text": texts, "histogram": events.Tags()["histograms"]}

    return SimpleNamespace(is_global_zero=True, loggers=[logger]), read


@pytest.mark.parametrize("part", ["problem", "text", "vote", "gold"])
def test_hostile_text_is_drawn_and_written(written, board, part):
    changed = {part: Vote(HOSTILE, 0.75, ((HOSTILE, 3),), 4, 4) if part == "vote" else HOSTILE}
    record = replace(_record(), **changed)
    assert all(text.isprintable() for text in written(record))
    trainer, read = board
    log_table(trainer, "a", ("reward", "question", "completion", "votes"), [_cells(record)], 0)
    (table,) = read()["text"].values()
    assert len(table.splitlines()) == 3
    assert table.replace("\n", "").isprintable()
    assert len(table) < 60_000


def test_a_models_text_cannot_break_the_table(board):
    trainer, read = board
    log_table(trainer, "a", ("completion",), [["a | b\n# title <script> [x](http://y) `c`"]], 0)
    (table,) = read()["text"].values()
    assert table.splitlines()[2] == "| a \\| b # title \\<script\\> \\[x\\](http://y) \\`c\\` |"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, {"image", "text", "histogram"}),
        ({"images": False}, {"text", "histogram"}),
        ({"texts": False}, {"image", "histogram"}),
        ({"images": False, "texts": False}, {"histogram"}),
    ],
)
def test_images_and_texts_can_be_kept_out_of_the_logs(board, options, shown):
    judgement = SimpleNamespace(records=[_record()], rewards=[[0.5]])
    phase, role = SimpleNamespace(step=1, role_step=0), SimpleNamespace(name="reasoner")
    module = SimpleNamespace(result=SimpleNamespace(judgement=judgement, advantages=None), phase=phase, role=role)
    trainer, read = board
    SampleLogger(**options).on_train_batch_end(trainer, module, None, [], 0)
    found = read()
    assert {kind for kind, tags in found.items() if tags} == shown
    names = [f"reasoner/samples/group-1-{which}-reward" for which in ("lowest", "highest")]
    assert sorted(found["image"]) == (sorted(names) if "image" in shown else [])


def test_a_panel_without_texts_does_not_depend_on_them():
    one, other = (draw_panel(_record(problem=p, text=p, vote=None), texts=False) for p in ("one", "another"))
    assert one.tobytes() == other.tobytes()
