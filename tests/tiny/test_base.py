import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from visplay.tiny.cold_start.accuracy import Sampler, measure_answers, measure_questions
from visplay.tiny.cold_start.tokenizer import ENTRIES
from visplay.tiny.digits import DigitWorld
from visplay.tiny.shapes import SHAPES
from visplay.tiny.splits import heldout

each_world = pytest.mark.parametrize("world", [SHAPES, DigitWorld()], ids=lambda world: world.name)


def load(world):
    return AutoModelForImageTextToText.from_pretrained(world.base), AutoProcessor.from_pretrained(world.base)


@each_world
def test_directory_is_small_and_says_how_it_was_made(world):
    assert sum(path.stat().st_size for path in world.base.iterdir()) <= 5 * 2**20
    assert "python -m visplay.tiny.cold_start" in (world.base / "README.md").read_text()


@each_world
def test_tokenizer_and_model_agree(world):
    model, processor = load(world)
    assert len(processor.tokenizer) == model.config.text_config.vocab_size <= ENTRIES
    assert str(model.dtype) == "torch.float32"


@each_world
def test_base_leaves_head_room(world):
    measured = measure_answers(Sampler(*load(world)), heldout(64, world))
    assert 0.35 < measured["sampled"] < 0.6
    assert measured["majority"] > measured["sampled"] + 0.08
    assert 0.2 < measured["listed"] < 0.5


@each_world
def test_questions_are_valid(world):
    images = [example.image for example in heldout(48, world)]
    assert measure_questions(Sampler(*load(world)), images, world=world)["valid"] > 0.9
