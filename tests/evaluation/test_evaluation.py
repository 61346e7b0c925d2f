"""The ``Evaluation`` callback in a trainer: continuing, faulty judges, models compared, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from answers import item, stored
from helpers import Scripted, image_number, plain_image
from judge_server import Reply, honest, reject, say
from visplay.callbacks import Evaluation
from visplay.commands import compare
from visplay.data import BenchmarkSource
from visplay.data.benchmarks.benchmark_files import write_benchmarks
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.module import SelfPlayData
from visplay.evaluation import AnswerStore, read_usage
from visplay.evaluation.judging import read_verdicts
from visplay.judge import JudgeConfig, JudgeLimits, JudgeUnavailableError
from visplay.modules import GRPOConfig, Questioner, Qwen2_5_VL, Reasoner
from visplay.modules.answering import Answering
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Example

ROWS, BATCH = 48, 8
CONFIG = GRPOConfig(max_new_tokens=24)


def say_number(policy, prompt, text, sample):
    """Every third question is answered wrong."""
    number = image_number(prompt.images[0])
    return f"\\boxed{{{number if number % 3 else 'nothing'}}}"


def make_trainer(evaluation, engine=None, logger=False):
    evaluation.console = Console(width=200, force_terminal=False)
    return Trainer(
        accelerator="cpu",
        callbacks=[engine or Scripted(say_number), evaluation],
        logger=logger,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def write_numbers(path, shift=0, items=ROWS):
    """Questions whose image tells the answer; the answers may be those of other items."""
    examples = [Example(f"numbers/{n}", plain_image(n), f"What is {n}?", str(n + shift)) for n in range(items)]
    write_benchmarks(path, {"numbers": examples})
    return path


@pytest.fixture
def numbers(tmp_path):
    return write_numbers(tmp_path / "numbers.parquet")


@pytest.fixture
def test(tmp_path, numbers):
    """Evaluate on the numbers; returns the callback."""

    def test(engine=None, reasoner=None, *, logger=False, path=numbers, votes=0, **settings):
        evaluation = Evaluation(str(tmp_path / "evaluation"), **settings)
        source = BenchmarkSource("numbers", path=str(path), part="numbers", votes=votes)
        data = SelfPlayData(validation_batch_size=BATCH, benchmarks=BenchmarkSuite((source,)))
        reasoner = reasoner or Reasoner(CONFIG, ANSWER, vlm=Qwen2_5_VL(str(BASE)))
        compare.evaluate_models(make_trainer(evaluation, engine, logger), reasoner, data)
        return evaluation

    return test


def report(evaluation):
    return json.loads((evaluation.store.directory / "scores.json").read_text())["scores"]["numbers"]


def answers(store):
    return {item.key: item.greedy.correct for item in store.items("numbers")}


class TestContinuing:
    def test_what_is_answered_is_not_asked_again(self, test):
        first = test()
        engine = Scripted(say_number)
        second = test(engine)
        assert not engine.calls
        assert report(second) == report(first)
        assert report(first)["metrics"]["rule_accuracy"]["value"] == pytest.approx(2 / 3)

    def test_other_settings_are_another_evaluation(self, test):
        directories = [
            test(**settings).store.directory
            for settings in ({}, {"answering": Answering(samples=2)}, {"answering": Answering(max_new_tokens=9)})
        ]
        assert len(set(directories)) == 3

    def test_a_stop_between_batches_loses_nothing(self, test):
        def stop(policy, prompt, text, sample):
            if image_number(prompt.images[0]) == 3 * BATCH:
                raise KeyboardInterrupt
            return say_number(policy, prompt, text, sample)

        with pytest.raises((KeyboardInterrupt, SystemExit)):
            test(Scripted(stop))
        engine = Scripted(say_number)
        asked = []
        engine.script = lambda *given: asked.append(given[1].key) or say_number(*given)
        evaluation = test(engine)
        assert asked == [f"numbers/{n}" for n in range(3 * BATCH, ROWS)]
        assert answers(evaluation.store) == {f"numbers/{n}": n % 3 > 0 for n in range(ROWS)}

    def test_a_planted_shift_is_rejected(self, test, tmp_path, numbers):
        test()
        shifted = write_numbers(tmp_path / "shifted.parquet", shift=1)
        with pytest.raises(ValueError, match=r"answer: benchmark 'numbers' has '1' in the row 'numbers/0', got '0'"):
            test(path=shifted)

    def test_another_number_of_votes_is_rejected(self, test):
        test()
        with pytest.raises(ValueError, match="votes: 'numbers' was answered with 0 samples each"):
            test(votes=3)


class TestJudges:
    LIMITS = JudgeLimits(retries=8, wait_seconds=0.01, longest_wait_seconds=0.05, request_seconds=1.0)

    def judges(self, *models, **settings):
        return [JudgeConfig(model, limits=self.LIMITS, **settings) for model in models or ("m",)]

    def test_faults_lose_no_row_and_what_is_known_is_not_asked_again(self, test, serve):
        """Three requests of ten fail: an error, a time-out, or text that is no verdict."""
        faults = (reject(500), say("I would rather not."), Reply(b"", delay_seconds=1.5))

        def faulty(seen, attempt):
            number = len(server.seen)
            return faults[number // 10 % 3] if number % 10 < 3 else honest(seen, attempt)

        server = serve(faulty)
        evaluation = test(judges=self.judges())
        found = report(evaluation)
        assert found["metrics"]["judge_accuracy/m"]["value"] == pytest.approx(2 / 3)
        assert found["counts"]["unjudged/m"] == 0
        assert read_verdicts(evaluation.store, "m", "numbers").keys() == answers(evaluation.store).keys()
        usage = read_usage(evaluation.store, "m")
        assert {"server_error", "malformed", "timed_out"} <= usage.failed_requests.keys()
        requests = len(server.seen)
        assert requests > usage.items - usage.blank_items
        again = test(judges=self.judges())
        assert report(again) == found
        assert len(server.seen) == requests

    def test_where_judging_fails_the_rule_stands(self, test, serve):
        serve(lambda seen, attempt: reject(400) if seen.item["prediction"] == "1" else say({"correct": False}))
        found = report(test(judges=self.judges()))
        assert found["counts"]["unjudged/m"] == 1
        assert found["metrics"]["judge_accuracy/m"]["value"] == pytest.approx(1 / ROWS)

    def test_two_judges_and_the_rows_they_differ_on(self, test, serve):
        serve(lambda seen, attempt: say({"correct": True}) if seen.body["model"] == "n" else honest(seen, attempt))
        store = test(judges=self.judges("m", "n")).store
        lines = [json.loads(line) for line in (store.directory / "agreement.jsonl").read_text().splitlines()]
        assert {line["key"] for line in lines} == {key for key, correct in answers(store).items() if not correct}
        assert all((line["rule"], line["m"], line["n"]) == (False, False, True) for line in lines)
        table = (store.directory / "agreement.md").read_text()
        assert f"| rule, m | {ROWS} | 100.0 % |" in table
        assert f"| rule, n | {ROWS} | 66.7 % |" in table

    def test_a_judge_that_cannot_be_asked_is_told_before_anything_is_answered(self, test, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        engine = Scripted(say_number)
        with pytest.raises(JudgeUnavailableError, match="OPENAI_"):
            test(engine, judges=self.judges())
        assert not engine.calls

    def test_names_must_differ(self):
        with pytest.raises(ValueError, match="judges: their names must differ"):
            Evaluation(judges=self.judges("m", "m"))


class TestModels:
    @pytest.fixture
    def evolved(self, fresh_base, tmp_path):
        """A checkpoint of a run whose Reasoner has other weights than the base, and a Hugging Face directory of it."""
        state = {f"questioner.vlm.model.{n}": w.clone() for n, w in fresh_base.model.state_dict().items()}
        with torch.no_grad():
            fresh_base.head_weight.mul_(1.5)
        state |= {f"reasoner.vlm.model.{n}": w for n, w in fresh_base.model.state_dict().items()}
        torch.save({"state_dict": state}, tmp_path / "run.ckpt")
        fresh_base.save(tmp_path / "exported")
        return {
            "base": ModelSource(),
            "reasoner": ModelSource(str(tmp_path / "run.ckpt")),
            "questioner": ModelSource(str(tmp_path / "run.ckpt"), "questioner"),
            "exported": ModelSource(str(tmp_path / "exported")),
        }

    def test_base_against_evolved(self, test, evolved, tmp_path):
        """The engine answers by the weights it is given, so that a model that was not loaded would be seen."""

        class ByWeights(Scripted):
            def load_weights(self, policy):
                self.scale = float(policy.head_weight.abs().sum())

        engine = ByWeights(None)
        scales = []

        def script(policy, prompt, text, sample):
            scales.append(engine.scale)
            number = image_number(prompt.images[0])
            return f"\\boxed{{{number if number % 3 or engine.scale > 1.2 * scales[0] else 'nothing'}}}"

        engine.script = script
        logger = TensorBoardLogger(tmp_path, name="run")
        evaluation = test(engine, logger=logger, models=evolved)
        directories = {path.name.rpartition("-")[0]: path for path in evaluation.directory.iterdir()}
        shares = {name: answers(AnswerStore(path)) for name, path in directories.items()}
        shares = {name: sum(found.values()) / ROWS for name, found in shares.items()}
        expected = {"base": 2 / 3, "questioner": 2 / 3, "reasoner": 1.0, "exported": 1.0}
        assert shares == pytest.approx(expected)
        hashes = {name: path.name.rpartition("-")[2] for name, path in directories.items()}
        assert hashes["base"] == hashes["questioner"] != hashes["reasoner"] == hashes["exported"]
        (against,) = directories["reasoner"].glob("against-base-*.md")
        assert "| numbers | rule accuracy | 48 | 66.7 | 100.0 | +33.3" in against.read_text()
        events = EventAccumulator(logger.log_dir)
        events.Reload()
        assert events.Scalars("test/reasoner/numbers/rule_accuracy")[0].value == 1.0
        assert events.Scalars("test/base/numbers/rule_accuracy")[0].value == pytest.approx(2 / 3)
        assert any("reasoner-against-base" in tag for tag in events.Tags()["tensors"])

    def test_compare_from_the_disk(self, test, evolved, tmp_path, capsys):
        first = test(models={"base": evolved["base"]}).store.directory
        other = test(Scripted(lambda *given: "\\boxed{7}"), models={"base": evolved["reasoner"]}).store.directory
        compare.run([str(first), str(other)])
        assert "rule accuracy" in " ".join(capsys.readouterr().out.split())
        for wrong, message in (
            (["--", str(first)], "two directories"),
            ([str(first), str(tmp_path)], "no answered rows"),
        ):
            with pytest.raises(SystemExit):
                compare.run(wrong)
            assert message in capsys.readouterr().err

    def test_directories_of_one_name_are_told_apart_by_their_paths(self, tmp_path, capsys):
        directories = [tmp_path / run / "iteration-1" for run in "ab"]
        for directory, correct in zip(directories, (False, True), strict=True):
            stored(directory, b=[item("1", correct)])
        compare.run([*map(str, directories)])
        said = "".join(capsys.readouterr().out.split())
        assert f"{directories[1]}(after)against{directories[0]}" in said
        assert "+100.0" in said
        with pytest.raises(SystemExit):
            compare.run([str(directories[0])] * 2)

    def test_a_questioner_alone_does_not_answer(self, test):
        with pytest.raises(ValueError, match="a Questioner alone does not answer"):
            test(reasoner=Questioner(CONFIG, ASK, vlm=Qwen2_5_VL(str(BASE))))

    def test_names_and_checkpoints(self):
        with pytest.raises(ValueError, match="models: 'a/b' must consist of letters"):
            Evaluation(models={"a/b": ModelSource()})
        with pytest.raises(ValueError, match="ckpt_path: models are given"):
            Evaluation(models={"a": ModelSource()}).sources("x.ckpt")
        for path in ("last", "runs/tiny/version_0"):
            with pytest.raises(ValueError, match=rf"ckpt_path: need a run's checkpoint, \*.ckpt, got '{path}'"):
                Evaluation().sources(path)
        sources = Evaluation(roles=("questioner", "reasoner")).sources("x.ckpt")
        assert list(sources) == ["base", "questioner", "reasoner"]


def test_within_a_fit_rows_lie_in_the_directory_of_the_run(numbers, tmp_path):
    from runs import fit, write_plain_images

    source = BenchmarkSource("numbers", path=str(numbers), part="numbers")
    data = SelfPlayData(write_plain_images(tmp_path / "images"), benchmarks=BenchmarkSuite((source,)))
    evaluation = Evaluation(str(tmp_path / "evaluation"))
    trainer, module, _ = fit(tmp_path, data=data, callbacks=[evaluation], num_sanity_val_steps=-1)
    directory = Path(trainer.log_dir) / "evaluation"
    assert sorted(path.name for path in directory.iterdir()) == ["iteration-0", "iteration-1"]
    for path in directory.iterdir():
        assert len(answers(AnswerStore(path))) == ROWS
        assert (path / "scores.md").read_text().startswith(f"# {path.name}\n")
    assert module.scores.keys() == {"val/numbers/rule_accuracy", "val/numbers/wrong_claims"}
    assert not (tmp_path / "evaluation").exists()
