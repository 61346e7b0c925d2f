"""What a survey finds of scripted policies, and what the command makes of the small world's base."""

import json
from dataclasses import replace

import pytest
from lightning import Trainer

from helpers import Scripted, image_number
from runs import CURATION, make_module, write_plain_images
from visplay.__main__ import main
from visplay.callbacks import Margin
from visplay.callbacks.curation.survey import LABEL_ACCURACY, Survey
from visplay.callbacks.records.replaying import SILENT
from visplay.data.module import SelfPlayData


def _plays(policy, prompt, text, sample):
    """Every second question parses; of even images three of four answers say n, of odd ones all; 2 is known blind."""
    if not prompt.images:
        return "\\boxed{2}"
    number = image_number(prompt.images[0])
    if policy == "questioner":
        return f"<type>numerical</type><question>What is {number}?</question>" if sample % 2 else "nonsense"
    return f"\\boxed{{{number if sample % 4 or number % 2 else -1}}}"


def _survey(root, curation, images=10):
    survey, data = Survey(curation, images), SelfPlayData(write_plain_images(root / "images"))
    module = make_module()
    trainer = Trainer(callbacks=[Scripted(_plays), survey], accelerator="cpu", **dict(SILENT) | {"max_epochs": 0})
    trainer.fit(module, datamodule=data)
    return survey.findings, module


def test_a_survey_by_hand(tmp_path):
    curation = replace(CURATION, questions_per_image=2, low=0.0, high=1.0, gates=[Margin(0.6)])
    found, module = _survey(tmp_path, curation)
    even, odd = LABEL_ACCURACY(0.75), LABEL_ACCURACY(1.0)
    prospects = found.prospects
    assert (prospects.valid, prospects.repeated, prospects.kept) == (0.5, 0.0, 0.25), "a lead of 3 - 1 of 4 is .5"
    assert prospects.blind == 0.1
    assert prospects.vote_accuracy == pytest.approx((even + odd) / 2)
    assert prospects.kept_accuracy == pytest.approx(odd)
    assert prospects.single_accuracy == pytest.approx((even * 0.75 + (1 - even) * 0.25 + odd) / 2)
    assert found.vote_accuracy.value == prospects.vote_accuracy
    assert [*found.confidences] == [0] * 7 + [5, 0, 5]
    assert found.tied == 0.0
    assert module.reasoner.vlm.version == 0, "nothing is learned"


def test_what_a_survey_asks_for():
    """Answers without images, by a gate that rejects nothing; and the gates of the run."""
    survey = Survey(replace(CURATION, gates=[Margin(0.0)]), images=3)
    assert [gate.name for gate in survey.curation.gates] == ["margin", "survey"]
    assert [gate.name for gate in survey.gates] == ["confidence_band", "margin"]
    assert survey.curation.images == 3


def test_the_command(tmp_path, capsys):
    """The shipped base is one that self-play helps; a run that demands the impossible of it is told so."""
    arguments = ["diagnose", "--config", "configs/tiny.yaml", f"--trainer.default_root_dir={tmp_path}"]
    small = ["--data.n_images=24", "--data.heldout_questions=8"]
    main([*arguments, "--images", "24", "--json", *small])
    told = json.loads(capsys.readouterr().out)
    assert told["will_help"] is True
    assert told["reasons"] == []
    assert told["prospects"]["valid"] > 0.9
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--images", "4", *small, "--self_play.curation.low=1.0", "--self_play.curation.high=1.0"])
    assert end.value.code == 1
    assert "self-play will probably not help: the gates keep too few questions" in capsys.readouterr().out


def test_bad_arguments(capsys):
    with pytest.raises(SystemExit):
        main(["diagnose", "--images", "0"])
    assert "argument --images: 0 must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="self-play needs a VisPlay, got Reasoner"):
        main(["diagnose", "--config", "configs/tiny_labelled.yaml"])
