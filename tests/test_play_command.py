import json

import pytest
from PIL import Image

from visplay import cli
from visplay.commands import play
from visplay.tiny import BASE

CONFIG = ["--config=configs/tiny.yaml"]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "shapes.png"
    Image.effect_noise((56, 56), 40).convert("RGB").save(path)
    return str(path)


def test_the_same_weights_ask_and_vote_alike(image, capsys):
    models = ["--model=base", f"--model=copy={BASE}"]
    own = "--question=How many shapes are there?"
    play.run([image, *CONFIG, *models, "--questions=2", own, "--json"], cli.instantiate)
    told = json.loads(capsys.readouterr().out)
    asked = [(each["asked_by"], each["question"]["text"]) for each in told["questions"]]
    assert asked[0] == ("you", "How many shapes are there?")
    assert [text for who, text in asked if who == "base"] == [text for who, text in asked if who == "copy"]
    for each in told["questions"]:
        assert each["votes"]["base"] == each["votes"]["copy"]
        assert each["votes"]["base"]["total"] == 10
        assert each["answers"]["base"] == each["answers"]["copy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "error: .*nowhere.png"),
        (["IMAGE", "--model=runs/no.ckpt"], "error: path: there is no checkpoint 'runs/no.ckpt'"),
        (["IMAGE", "--model=x=./nowhere"], "error: path: './nowhere' is neither a Hub name nor a directory"),
    ],
)
def test_what_is_not_there_is_one_line(image, arguments, message):
    with pytest.raises(SystemExit, match=message):
        play.run([*CONFIG, *(image if each == "IMAGE" else each for each in arguments)], cli.instantiate)


def test_nothing_to_ask(image, capsys):
    with pytest.raises(SystemExit):
        play.run([image, *CONFIG, "--questions=0"], cli.instantiate)
    assert "argument --questions: 0 must be at least 1, or 0 with --question" in capsys.readouterr().err
