"""What is written about scripted questions, after a kill, with other settings, and with fewer votes."""

import hashlib
import json
import re
import shutil
from dataclasses import replace

import datasets
import pyarrow.parquet as pq
import pytest
import torch

from data_engine.engine_runs import CURATION, predict, say, write_images
from helpers import Scripted
from visplay.callbacks import Margin
from visplay.data_engine.predictor import Prediction, Predictor
from visplay.modules.second_view import SecondView


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


def _rows(output):
    return pq.read_table(output / "data").to_pylist()


def _files(output):
    """What is the same however often a prediction was killed: all but timings."""
    files = [path for path in output.rglob("*") if path.is_file() and path.parent.name != "asked"]
    return {path.relative_to(output): path.read_bytes() for path in files if path.suffix != ".lock"}


def test_rows_by_hand(images, tmp_path):
    curation = replace(CURATION, second_view=SecondView("questioner"))
    written, _ = predict(images, tmp_path / "out", curation, votes=4)
    rows = _rows(tmp_path / "out")
    assert [row["image_path"] for row in rows] == [f"{n}.png" for n in range(5) for _ in range(2)]
    assert [row["key"] for row in rows] == [f"{n:09d}" for n in range(10)]
    two, three, unparsed = rows[4], rows[6], rows[5]
    assert (two["question"], two["question_type"], two["questioner_answer"]) == ("What is 2?", "numerical", "9")
    assert (two["silver_answer"], two["confidence"], two["tied"]) == ("2", 0.75, False)
    assert two["votes"] == [{"answer": "2", "count": 3}, {"answer": "-1", "count": 1}]
    assert (two["votes_taken"], two["votes_parsed"]) == (4, 4)
    assert (two["kept"], two["rejected"]) == (True, None)
    assert (two["second_answer"], two["views_agree"]) == ("9", False)
    assert two["estimated_accuracy"] < 0.3, "the other view does not support it"
    assert (two["blind_answer"], two["needs_image"]) == ("2", False)
    assert (three["confidence"], three["kept"], three["rejected"]) == (1.0, False, "confidence_band/above")
    assert (three["blind_answer"], three["needs_image"]) == ("2", True)
    assert (unparsed["question"], unparsed["silver_answer"], unparsed["rejected"]) == (None, None, "unparsed_question")
    assert two["image_sha256"] == hashlib.sha256((images / "2.png").read_bytes()).hexdigest()
    assert (two["image_hashed"], two["licence"], two["seed"]) == ("file", None, 0)
    assert re.fullmatch("[0-9a-f]{64}", two["reasoner_weights"])
    assert json.loads(two["prompts"])["reasoner"]["user"] == "{question}"
    assert json.loads(two["sampling"])["reasoner"]["n"] == 4
    tally = written.tally
    assert (tally.images, tally.asked, tally.voted, tally.kept, tally.votes) == (5, 10, 5, 3, 20)
    assert written.duplicates == {}
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["kept"] == [row["kept"] for row in rows]


def test_a_kill_costs_a_batch_and_changes_nothing(images, tmp_path):
    whole, _ = predict(images, tmp_path / "whole")
    calls = 0

    class Killed(Scripted):
        def sample(self, *args):
            nonlocal calls
            calls += 1
            if calls == 5:
                raise RuntimeError("killed")
            return super().sample(*args)

    with pytest.raises(RuntimeError, match="killed"):
        predict(images, tmp_path / "killed", engine=Killed(say))
    assert len([*(tmp_path / "killed" / "data").glob("*.parquet")]) == 1, "the first batch: questions, votes, blind"
    (tmp_path / "killed" / "data" / ".part-00001.parquet.1-a.tmp").write_bytes(b"half")
    again, engine = predict(images, tmp_path / "killed")
    assert len(engine.calls) == 6, "two batches, three calls each"
    assert _files(tmp_path / "killed") == _files(tmp_path / "whole")
    assert again.tally == whole.tally
    damaged = tmp_path / "killed" / "data" / "part-00000.parquet"
    damaged.write_bytes(b"damaged")
    _, engine = predict(images, tmp_path / "killed")
    assert (engine.calls, _files(tmp_path / "killed")) == ([], _files(tmp_path / "whole"))


def test_other_settings_are_named(images, tmp_path):
    predict(images, tmp_path / "out", max_images=2)
    with pytest.raises(ValueError, match=r"begun with other settings \(seed: 0 then, 1 now\); give these again"):
        predict(images, tmp_path / "out", seed=1, max_images=2)
    with pytest.raises(ValueError, match=r"other settings \(prediction.max_images: 2 then, 3 now\)"):
        predict(images, tmp_path / "out", max_images=3)
    shutil.copy(images / "1.png", images / "9.png")
    with pytest.raises(ValueError, match="images.found: 5 then, 6 now"):
        predict(images, tmp_path / "out", max_images=2)
    with pytest.raises(ValueError, match="holds '0.png', which is of no prediction"):
        predict(images, images)


def test_fewer_votes_decide_alike(images, tmp_path):
    """Of 10 votes, 8 that agree are above .75 whatever follows; 7 of 10 are inside once 6 of 9 are."""
    full, _ = predict(images, tmp_path / "full")
    fewer, engine = predict(images, tmp_path / "fewer", replace(CURATION, votes_per_round=1))
    decided = ("question", "silver_answer", "kept", "rejected", "needs_image", "tied")
    for one, other in zip(_rows(tmp_path / "full"), _rows(tmp_path / "fewer"), strict=True):
        assert [one[name] for name in decided] == [other[name] for name in decided]
    asked = [row for row in _rows(tmp_path / "fewer") if row["question"]]
    assert [(row["votes_taken"], row["confidence"]) for row in asked] == [(9, 6 / 9), (8, 1.0)] * 2 + [(9, 6 / 9)]
    assert (full.tally.saved(10), fewer.tally.saved(10)) == (0, 3 * 1 + 2 * 2)
    assert [sampling.first for _, _, sampling in engine.calls if sampling.n == 1][:9] == list(range(9))
    assert "and of the answers taken" in (tmp_path / "fewer" / "README.md").read_text()


def test_weights_of_a_run(images, tmp_path):
    """A checkpoint has both policies; the rows say by whose weights they were made."""
    _, engine = predict(images, tmp_path / "base", max_images=1)
    trainer = engine.trainer
    with torch.no_grad():
        for weight in trainer.lightning_module.reasoner.vlm.parameters():
            weight.add_(1e-3)
    trainer.save_checkpoint(tmp_path / "phase.ckpt")
    expected = trainer.lightning_module.reasoner.vlm.fingerprint()
    predict(images, tmp_path / "evolved", max_images=1, ckpt_path=tmp_path / "phase.ckpt")
    base, evolved = _rows(tmp_path / "base")[0], _rows(tmp_path / "evolved")[0]
    assert base["reasoner_weights"] == base["questioner_weights"] == evolved["questioner_weights"]
    assert evolved["reasoner_weights"] == expected != base["reasoner_weights"]


def test_images_that_look_alike(images, tmp_path):
    shutil.copy(images / "0.png", images / "7.png")
    (images / "8.png").write_bytes(b"broken")
    reported, _ = predict(images, tmp_path / "report", votes=4)
    assert (reported.duplicates, reported.tally.images, reported.tally.unusable) == ({"7.png": "0.png"}, 6, 1)
    skipped, _ = predict(images, tmp_path / "skip", votes=4, duplicates="skip")
    assert [row["image_path"] for row in _rows(tmp_path / "skip")][::2] == [f"{n}.png" for n in range(5)]
    assert skipped.duplicates == {"7.png": "0.png"}
    unlooked, _ = predict(images, tmp_path / "off", votes=4, duplicates="off", max_images=3, ask_blind=False)
    assert (unlooked.duplicates, unlooked.tally.images) == (None, 3)
    assert {row["needs_image"] for row in _rows(tmp_path / "off")} == {None}


def test_embedded_images_and_broken_ones(images, tmp_path):
    whole = write_images(tmp_path / "more", 1)
    table = tmp_path / "images.parquet"
    cells = [{"bytes": (images / f"{n}.png").read_bytes(), "path": None} for n in range(2)]
    cells.insert(1, {"bytes": b"broken", "path": None})
    datasets.Dataset.from_list([{"image": cell, "license": "CC0", "author": "me"} for cell in cells]).to_parquet(table)
    one_by_one = replace(CURATION, images_per_batch=1)
    written, _ = predict(table, tmp_path / "out", one_by_one, votes=4, embed_images=True)
    assert (written.tally.images, written.tally.unusable) == (2, 1)
    rows = _rows(tmp_path / "out")
    assert [row["image_path"] for row in rows] == ["images:0", "images:0", "images:2", "images:2"]
    assert rows[2]["image"]["bytes"] == (images / "1.png").read_bytes()
    assert (rows[0]["licence"], rows[0]["attribution"]) == ("CC0", "me")
    assert rows[0]["image_sha256"] == hashlib.sha256((whole / "0.png").read_bytes()).hexdigest()


def test_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="votes_per_round: all votes count for the gate margin; give null, got 4"):
        replace(CURATION, votes_per_round=4, gates=[Margin()])
    with pytest.raises(ValueError, match="votes_per_round: 0 must be at least 1, or null"):
        replace(CURATION, votes_per_round=0)
    harmonic = SecondView(label="harmonic")
    with pytest.raises(ValueError, match="all votes count for on_too_few: relax, second_view.label: harmonic; give"):
        replace(CURATION, votes_per_round=4, on_too_few="relax", second_view=harmonic)
    with pytest.raises(ValueError, match="max_images: 0 must be at least 1"):
        Prediction(max_images=0)
    with pytest.raises(ValueError, match=r"duplicate_distance: 17 must be in \[0, 16\]"):
        Prediction(duplicate_distance=17)
    predictor = Predictor(replace(CURATION, on_too_few="relax"), tmp_path, Prediction())
    assert [gate.name for gate in predictor.gates] == ["confidence_band"], "asking blind keeps and rejects nothing"
