import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy

from helpers import Scripted, image_number
from runs import CURATION, STEPS, N, fit, make_module, script, write_plain_images
from visplay.callbacks import Curation, SelfPlay, TooFewQuestionsError, TransformersRollout
from visplay.callbacks.iterations.phase_sources import PhaseSources
from visplay.callbacks.self_play import PhaseBatches
from visplay.data.draws import Draws
from visplay.data.generated import read_examples
from visplay.data.module import SelfPlayData
from visplay.modules import QuestionFormat, VisPlay, Voting
from visplay.tiny.self_play_images import write_images
from visplay.types import PhaseState


class SeenImages:
    """Notes what every phase reads."""

    def __init__(self, module_class, monkeypatch):
        self.batches = []
        step = module_class.training_step

        def training_step(module, batch, batch_idx):
            self.batches.append((module.phase.iteration, module.phase.role, [item.key for item in batch]))
            return step(module, batch, batch_idx)

        monkeypatch.setattr(module_class, "training_step", training_step)


def test_phases_take_turns_and_each_trains_its_own_policy(tmp_path, monkeypatch):
    seen = SeenImages(VisPlay, monkeypatch)
    engine = Scripted(script)
    _, module, self_play = fit(tmp_path, engine=engine, self_play=SelfPlay(2, CURATION))
    assert [(i, role) for i, role, _ in seen.batches] == [
        (i, role) for i in (1, 2) for role in ("questioner", "reasoner") for _ in range(STEPS)
    ]
    assert module.questioner.vlm.version == module.reasoner.vlm.version == 2 * STEPS
    # the Reasoner is frozen while the Questioner learns, and the Questioner while it writes the data set
    versions = [(name, version) for name, version, _ in engine.calls]
    assert [v for v in versions if v == ("reasoner", 0)]
    assert max(version for name, version in versions[: versions.index(("reasoner", 1))] if name == "reasoner") == 0
    assert (self_play.phase.iteration, self_play.phase.role) == (3, "questioner")


@pytest.mark.parametrize("offload", [True, False])
def test_the_policy_that_does_not_learn_waits_on_the_host(tmp_path, monkeypatch, offload):
    moves = []
    monkeypatch.setattr("visplay.callbacks.self_play.move", lambda policy, device: moves.append((policy.name, device)))
    monkeypatch.setattr("visplay.callbacks.self_play.CPU", "host")
    fit(tmp_path, self_play=SelfPlay(1, CURATION, offload=offload))
    there = torch.device("cpu")
    asking = [("reasoner", "host"), ("questioner", there)]
    answering = [("questioner", "host"), ("reasoner", there)]
    assert moves == ([*asking, *asking, *answering] if offload else [])  # as the run begins, and each phase


def test_several_processes_learn_by_ddp_or_fsdp2_alone():
    trainer = SimpleNamespace(world_size=2, strategy=FSDPStrategy(parallel_devices=[torch.device("cpu")] * 2))
    with pytest.raises(ValueError, match="strategy: several processes learn by 'ddp' or 'fsdp2', got FSDPStrategy"):
        SelfPlay().setup(trainer, make_module(), "fit")


def test_every_image_is_seen_before_any_repeats(tmp_path, monkeypatch):
    seen = SeenImages(VisPlay, monkeypatch)
    _, _, self_play = fit(tmp_path)
    asked = [key for _, role, keys in seen.batches for key in keys if role == "questioner"]
    examples = read_examples(Path(self_play.dataset))
    assert len(set(asked)) == STEPS * N
    assert not set(asked) & {example.image_id for example in examples}
    assert self_play.phase.positions == {"images": STEPS * N + 4}


def test_generated_data_set(tmp_path):
    _, module, self_play = fit(tmp_path)
    examples = read_examples(Path(self_play.dataset))
    assert len(examples) == 4 * 2  # every third question does not parse
    for example in examples:
        number = image_number(example.image)
        assert example.image_id == f"{number}.png"
        assert example.problem == f"What is {number}?"
        assert (example.answer, example.score) == (str(number), 0.5)
        assert dict(example.votes) == {str(number): 2, "wrong": 1, "false": 1}
        assert example.iteration == 1

    def tokens(text):  # with the one that stops; all images have a number of one digit
        return len(module.reasoner.vlm.tokenizer.encode(text, add_special_tokens=False)) + 1

    answers = sum(tokens(f"\\boxed{{{answer}}}") for answer in ("1", "1", "wrong", "false"))
    question = tokens("<type>numerical</type><question>What is 1?</question>")
    assert self_play.statistics == {
        "asked": 12,
        "valid_fraction": pytest.approx(8 / 12),
        "mean_confidence": 0.5,
        "kept": 8,
        "kept_fraction": pytest.approx(8 / 12),
        "tied_fraction": 0.0,
        "vote_margin": 0.25,
        "duplicate_fraction": 0.5,  # each image is asked the same twice
        "seen_before_fraction": 0.0,
        "low": 0.25,
        "high": 0.75,
        "rejected/unparsed_question": 4,
        "questions_tokens": 8 * question + 4 * tokens("nonsense"),
        "votes_tokens": 8 * answers,
    }


def test_a_finished_stage_is_not_done_again(tmp_path):
    trainer, module, self_play = fit(tmp_path)

    def begin():
        self_play.phase = PhaseState("reasoner")  # as a checkpoint gives it back
        self_play.begin_phase(trainer, module)

    engine = module.reasoner.engine
    begin()  # the policies have learned since: generated anew
    calls = len(engine.calls)
    path = Path(self_play.dataset)
    written = path.stat().st_mtime_ns
    begin()
    assert (len(engine.calls), path.stat().st_mtime_ns) == (calls, written)
    manifest = json.loads((Path(trainer.log_dir) / "manifest.json").read_text())
    assert list(manifest) == ["iteration-1"]
    assert self_play.statistics["kept"] == 8
    before = len(engine.calls)
    module.reasoner.voting = Voting(votes=8)
    begin()
    assert len(engine.calls) > before, "other settings must not take over the data set"
    before = len(engine.calls)
    module.questioner.format = QuestionFormat(kinds={"numerical", "poem"})
    begin()
    assert len(engine.calls) > before
    before = len(engine.calls)
    begin()
    assert len(engine.calls) == before, "the same set of kinds is the same"
    with torch.no_grad():
        module.reasoner.vlm.head_weight[0, 0] += 1
    before = len(engine.calls)
    begin()
    assert len(engine.calls) > before, "nor other weights"
    path.write_bytes(b"broken")
    begin()
    assert len(engine.calls) > calls


def test_batches_and_refills_share_one_order():
    self_play, module = SelfPlay(), make_module()
    self_play.phase, self_play.sources = PhaseState("questioner"), PhaseSources(module)
    self_play.sources.source = Draws(list(range(12)), seed=0)
    batches = PhaseBatches(self_play, module)
    drawn = [item for batch in batches for item in [*batch, *self_play.sources.draw(2)]]
    assert len(batches) == STEPS
    assert len({*drawn}) == len(drawn) == STEPS * (N + 2)


def test_one_image_only(tmp_path):
    _, _, self_play = fit(tmp_path, data=SelfPlayData(write_plain_images(tmp_path / "images", 1)))
    assert {example.image_id for example in read_examples(Path(self_play.dataset))} == {"0.png"}


def test_no_question_parses(tmp_path):
    engine = Scripted(lambda policy, *_: "\\boxed{1}")
    with pytest.raises(TooFewQuestionsError, match="none of the 12 questions is valid: they do not parse"):
        fit(tmp_path, engine=engine)


def test_no_question_is_kept(tmp_path):
    def unanimous(policy, prompt, text, sample):
        return "\\boxed{1}" if policy == "reasoner" else script(policy, prompt, text, sample)

    with pytest.raises(
        TooFewQuestionsError, match=r"none of the 8 valid questions .* by tenths .*\[0, 0, 0, 0, 0, 0, 0, 0, 0, 8\]"
    ):
        fit(tmp_path, engine=Scripted(unanimous))


def test_bad_settings():
    with pytest.raises(ValueError, match="need 0 <= low <= high <= 1, got low=0.8, high=0.2"):
        Curation(low=0.8, high=0.2)
    with pytest.raises(ValueError, match="must be at least 1"):
        Curation(images=0)
    with pytest.raises(ValueError, match="iterations: 0 must be at least 1"):
        SelfPlay(iterations=0)
    with pytest.raises(ValueError, match="validate_every: 0 must be at least 1"):
        SelfPlay(validate_every=0)


def test_training_without_self_play_says_what_is_missing(tmp_path):
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, max_epochs=1, enable_checkpointing=False
    )
    with pytest.raises(RuntimeError, match="a SelfPlay callback is needed"):
        trainer.fit(make_module(), datamodule=SelfPlayData(write_plain_images(tmp_path / "images")))


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_run_continued_from_a_checkpoint_equals_an_undisturbed_one(tmp_path, epoch):
    def checkpoint(root):
        return ModelCheckpoint(
            root / "ckpt", filename="{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True
        )

    whole = tmp_path / "whole"
    _, expected, done = fit(whole, self_play=SelfPlay(2, CURATION), callbacks=[checkpoint(whole)])
    again = tmp_path / "again"
    _, module, self_play = fit(
        again,
        self_play=SelfPlay(2, CURATION),
        callbacks=[checkpoint(again)],
        ckpt_path=whole / "ckpt" / f"epoch={epoch}.ckpt",
    )
    for (name, weight), other in zip(expected.state_dict().items(), module.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    mine, theirs = self_play.state_dict(), done.state_dict()
    assert Path(mine.pop("dataset")).read_bytes() == Path(theirs.pop("dataset")).read_bytes()
    assert [sha256 for _, sha256 in mine.pop("learned")] == [sha256 for _, sha256 in theirs.pop("learned")]
    assert mine == theirs


def test_same_seed_same_weights_with_real_sampling(tmp_path):
    curation = Curation(images=4, questions_per_image=2, low=0.0, high=1.0)
    runs = []
    for root in (tmp_path / "a", tmp_path / "b"):
        data = SelfPlayData(write_images(root / "images", 12, seed=0))
        runs.append(fit(root, data=data, engine=TransformersRollout(), self_play=SelfPlay(1, curation)))
    for (name, weight), other in zip(runs[0][1].state_dict().items(), runs[1][1].state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    assert runs[0][2].statistics["kept"] > 0
