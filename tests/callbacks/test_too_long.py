"""What does not fit the context: skipped and counted, in training, curation, votes and benchmarks alike."""

from dataclasses import replace

import pytest

from helpers import Scripted, plain_image
from runs import CONFIG, CURATION, STEPS, N, fit, script, write_plain_images
from visplay.callbacks import SelfPlay
from visplay.data.benchmarks.benchmark import Benchmark, BenchmarkBatches
from visplay.data.generated import read_examples, write_examples
from visplay.data.module import SelfPlayData
from visplay.modules import Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, VisPlay, Voting
from visplay.modules.answering import Answering, answer_batch
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Example, Question, UnlabeledImage

CONTEXT = 128
LONG = "Is it " + "very " * 200 + "red?"
REASON = rf"a prompt of \d+ tokens and an answer of 48 do not fit the context of {CONTEXT}"


def vlm():
    return Qwen2_5_VL(str(BASE), max_pixels=50 * 196, max_context_tokens=CONTEXT)


def examples(n=6, long=(1, 4), **settings):
    return [
        Example(f"g{i}", plain_image(i), LONG if i in long else f"What is {i}?", "wrong", **settings) for i in range(n)
    ]


def written(path, rows):
    write_examples(path, rows)
    return path


@pytest.fixture
def learned(monkeypatch):
    """Keys of what each step learned from."""
    keys = []
    for kind in (Reasoner, Questioner, VisPlay):

        def training_step(module, batch, index, step=kind.training_step):
            keys.extend((module.phase.role, item.key) for item in batch)
            return step(module, batch, index)

        monkeypatch.setattr(kind, "training_step", training_step)
    return keys


@pytest.mark.parametrize("source", ["labelled", "silver"])
def test_a_question_that_is_too_long_costs_the_question(tmp_path, learned, caplog, source):
    votes = {"votes": (("wrong", 2), ("x", 2)), "score": 0.5} if source == "silver" else {}
    data = SelfPlayData(**{source: written(tmp_path / "rows.parquet", examples(**votes))})
    fit(tmp_path, module=Reasoner(CONFIG, ANSWER, vlm=vlm()), data=data)
    assert len(learned) == STEPS * N
    keys = [key.partition(":")[2] or key[1:] for _, key in learned]
    assert set(keys) == {"0", "2", "3", "5"}
    lines = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(lines) == 2
    assert all("do not fit the context of 128" in line for line in lines)


def test_labels_mixed_into_self_play(tmp_path, learned):
    data = SelfPlayData(
        write_plain_images(tmp_path / "images"),
        labelled=written(tmp_path / "gold.parquet", examples(long=(0, 1, 2, 3, 4))),
    )
    questioner = Questioner(CONFIG, ASK, QuestionFormat(kinds=None))
    module = VisPlay(vlm(), questioner, Reasoner(CONFIG, ANSWER, Voting(votes=4)))
    fit(tmp_path, module=module, data=data)
    assert {key for role, key in learned if role == "reasoner" and key.startswith("gold")} == {"gold:5"}


def test_an_image_that_is_too_large_is_not_asked_about(tmp_path, learned):
    images = write_plain_images(tmp_path / "images")
    for number in range(5):
        plain_image(number, (98, 98)).save(images / f"{number}.png")  # 49 tokens
    config = replace(CONFIG, max_new_tokens=64)
    questioner = Questioner(config, ASK, QuestionFormat(kinds=None))
    policy = Qwen2_5_VL(str(BASE), max_pixels=50 * 196, max_context_tokens=115)
    module = VisPlay(policy, questioner, Reasoner(replace(CONFIG, max_new_tokens=16), ANSWER, Voting(votes=4)))
    _, _, self_play = fit(tmp_path, module=module, data=SelfPlayData(images), self_play=SelfPlay(1, CURATION))
    asked = {key for role, key in learned if role == "questioner"}
    asked |= {row.image_id for row in read_examples(self_play.dataset)}
    assert asked <= {f"{number}.png" for number in range(5, 10)}
    assert asked


def test_nothing_that_fits_ends_the_run_with_the_reason(tmp_path):
    data = SelfPlayData(labelled=written(tmp_path / "rows.parquet", examples(3, long=(0, 1, 2))))
    with pytest.raises(ValueError, match=rf"items: none of the 3 can be used, for example .*: {REASON}"):
        fit(tmp_path, module=Reasoner(CONFIG, ANSWER, vlm=vlm()), data=data)


@pytest.fixture
def reasoner():
    reasoner = Reasoner(CONFIG, ANSWER, Voting(votes=4), vlm=vlm())
    reasoner.vlm.load()
    reasoner.attach_engine(Scripted(script))
    return reasoner


def test_votes(reasoner, caplog):
    questions = [[Question("What is 1?", "numerical"), Question(LONG, "numerical"), None]]
    ((short, long, none),) = reasoner.vote_on([UnlabeledImage("a", plain_image(1))], questions, seed=0)
    assert (short.total, long, none) == (4, None, None)
    (record,) = caplog.records
    assert "1 of 2 questions are not voted on, for example: a prompt of " in record.getMessage()


def test_benchmarks(reasoner):
    benchmark = Benchmark("mine", examples())
    (batch,) = BenchmarkBatches(benchmark, 10)
    answers = answer_batch(reasoner, batch, Answering(), seed=0)
    assert [item.key for item in answers.items] == ["g0", "g2", "g3", "g5"]
    assert list(answers.skipped) == ["g1", "g4"]
    assert all("do not fit the context of 128" in reason for reason in answers.skipped.values())
