"""``visplay predict`` and ``visplay convert`` on the shipped base."""

import pyarrow.parquet as pq
import pytest

from visplay.__main__ import main

TINY = ["predict", "--config", "configs/tiny.yaml"]


def test_a_prediction_and_its_export(tmp_path, capsys):
    """Settings of ``fit`` and the command's own; the same command again asks nothing and writes the same."""
    output = tmp_path / "pairs"
    small = [f"--trainer.default_root_dir={tmp_path}", "--data.n_images=6", "--data.heldout_questions=8"]
    band = ["--self_play.curation.gates=[]", "--self_play.curation.high=0.75"]
    own = [f"--output={output}", "--max-images=4", "--questions-per-image=1", "--adaptive-votes=2", "--embed-images"]
    main([*TINY, *small, *band, *own])
    rows = pq.read_table(output / "data").to_pylist()
    assert len(rows) == 4
    assert {row["votes_taken"] for row in rows if row["question"]} <= {8, 10}
    assert all(row["second_answer"] for row in rows if row["question"]), "configs/tiny.yaml has a second view"
    card = (output / "README.md").read_bytes()
    main([*TINY, *small, *band, *own])
    assert (output / "README.md").read_bytes() == card
    with pytest.raises(SystemExit, match="begun with other settings .*seed: 0 then, 1 now"):
        main([*TINY, *small, *band, *own, "--model.seed=1"])
    capsys.readouterr()
    main(["convert", str(output), "--to", "easyr1", "--output", str(tmp_path / "easyr1"), "--all"])
    exported = pq.read_table(tmp_path / "easyr1" / "train.parquet").to_pylist()
    assert [row["answer"] for row in exported] == [row["silver_answer"] for row in rows if row["silver_answer"]]
    assert "easyr1: " in capsys.readouterr().out


def test_bad_arguments(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*TINY, "--output", "x", "--max-images", "0"])
    assert "argument --max-images: 0 must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", "x", "--to", "trl", "--output", "y", "--name", "../z"])
    assert "argument --name: '../z' must be letters, digits, - and _" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="model: predict needs a VisPlay, got Reasoner"):
        main(["predict", "--config", "configs/tiny_labelled.yaml", f"--output={tmp_path / 'out'}"])
    with pytest.raises(
        SystemExit, match="votes_per_round: all votes count for the gate calibrated_accuracy; give null"
    ):
        main([*TINY, f"--output={tmp_path / 'out'}", "--adaptive-votes"])
    with pytest.raises(SystemExit, match="ckpt_path: there is no checkpoint 'none.ckpt'"):
        main([*TINY, f"--output={tmp_path / 'out'}", "--ckpt_path=none.ckpt"])
    assert not (tmp_path / "out").exists()
