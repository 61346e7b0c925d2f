import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from visplay.tiny import BASE
from visplay.tiny.cold_start.accuracy import Sampler, measure_answers, measure_questions
from visplay.tiny.cold_start.tokenizer import ENTRIES
from visplay.tiny.splits import heldout


@pytest.fixture(scope="module")
def sampler():
    return Sampler(AutoModelForImageTextToText.from_pretrained(BASE), AutoProcessor.from_pretrained(BASE))


def test_directory_is_small_and_says_how_it_was_made():
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 5 * 2**20
    assert "python -m visplay.tiny.cold_start --seed 0" in (BASE / "README.md").read_text()


def test_tokenizer_and_model_agree():
    processor, model = AutoProcessor.from_pretrained(BASE), AutoModelForImageTextToText.from_pretrained(BASE)
    assert len(processor.tokenizer) == model.config.text_config.vocab_size == ENTRIES
    assert model.dtype.is_floating_point
    assert str(model.dtype) == "torch.float32"


def test_base_leaves_head_room(sampler):
    measured = measure_answers(sampler, heldout(64))
    assert 0.35 < measured["sampled"] < 0.6
    assert measured["majority"] > measured["sampled"] + 0.08
    assert 0.2 < measured["listed"] < 0.5


def test_questions_are_valid(sampler):
    measured = measure_questions(sampler, [example.image for example in heldout(48)])
    assert measured["valid"] > 0.9
