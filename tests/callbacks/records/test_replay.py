"""A recorded step, done again, is the same bit by bit; where it is not, the first difference is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file, save_file

from helpers import Scripted, image_number, plain_image
from runs import CONFIG, CURATION, fit, script, write_plain_images
from visplay.callbacks import Recorder, SelfPlay
from visplay.callbacks.records.replaying import SILENT, replay_judging, replay_update
from visplay.callbacks.records.step_record import FILES, read_record
from visplay.callbacks.records.trace_comparison import compare_traces
from visplay.data.generated import write_examples
from visplay.data.module import LabelledSource, SelfPlayData
from visplay.data.table_collections import Columns
from visplay.modules import LoRA, Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, Tuning, VisPlay, Voting
from visplay.modules.learner.mismatch import MismatchCheck, MismatchConfig, PolicyMismatchError
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Example

ROWS = [
    *("prompts and sampling", "texts of completions", "grades", "rewards and votes", "statistics of the judgement"),
    *("batch", "statistics of the update", "weights and optimizer after it"),
]
KINDS = [
    "two policies",
    "LoRA with dropout",
    "LoRA, shared",
    "shared",
    "refills and KL from the base",
    "a Reasoner alone",
    "a Questioner alone",
]


def say(policy, prompt, text, sample):
    """As always, whoever's policy it is."""
    return script("questioner" if "Ask." in text else "reasoner", prompt, text, sample)


def say_flat(policy, prompt, text, sample):
    """The same in every sample about an image of an even number: groups without variance."""
    return say(policy, prompt, text, 1 if "Ask." in text and image_number(prompt.images[0]) % 2 == 0 else sample)


def make(kind):
    config = replace(CONFIG, weight_decay=0.1, prompts_per_update=2, warmup_steps=3)
    if "base" in kind:
        config = replace(config, kl_reference="base", filter_zero_variance=True, max_refills=2)
    vlm = Qwen2_5_VL(str(BASE), tuning=Tuning(lora=LoRA(rank=2, dropout=0.2)) if "LoRA" in kind else Tuning())
    if "alone" in kind:
        reasoner = Reasoner(config, ANSWER, Voting(votes=4), vlm=vlm)
        if "Reasoner" in kind:
            return reasoner
        return Questioner(config, ASK, QuestionFormat(kinds=None), reasoner=reasoner, vlm=Qwen2_5_VL(str(BASE)))
    questioner = Questioner(config, ASK, QuestionFormat(kinds=None))
    return VisPlay(vlm, questioner, Reasoner(config, ANSWER, Voting(votes=4)), shared_policy="shared" in kind)


def record(root, kind="two policies", **settings):
    labelled = None
    if "Reasoner" in kind:
        path = root / "labelled.parquet"
        write_examples(path, [Example(f"g{n}", plain_image(n), f"What is {n}?", str(n)) for n in range(5)])
        labelled = LabelledSource(str(path), columns=Columns(key="key"))
    data = SelfPlayData(write_plain_images(root / "images", n=5), labelled)
    trainer, module, _ = fit(
        root,
        module=make(kind),
        data=data,
        engine=Scripted(say_flat if "refills" in kind else say),
        self_play=SelfPlay(1, CURATION),
        callbacks=[Recorder("all")],
        enable_checkpointing=False,
        **settings,
    )
    return sorted((Path(trainer.log_dir) / "records").iterdir()), module


def again(directory, module, **settings):
    """The rows of a comparison by name, of the whole step and of its judging, and the record."""
    known = read_record(directory)
    whole = replay_update(known, module, Trainer(accelerator="cpu", **SILENT, **settings))
    return {row.what: row for row in compare_traces(known.trace, whole.trace)}, whole.error, known


def judged(directory, module):
    known = read_record(directory, weights=False)
    replay = replay_judging(known, module)
    return {row.what: row for row in compare_traces(known.trace, replay.trace, judging=True)}, replay.error


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The records of a run of two policies: two steps of the Questioner, two of the Reasoner."""
    return record(tmp_path_factory.mktemp("recorded"))[0]


@pytest.fixture
def copied(recorded, tmp_path):
    """The Questioner's second step, to be altered."""
    return Path(shutil.copytree(recorded[1], tmp_path / recorded[1].name))


def check(directory, kind, **settings):
    rows, error, known = again(directory, make(kind), **settings)
    assert error is None
    assert known.changed == ()
    assert list(rows) == ROWS
    assert {what: row.first for what, row in rows.items() if row.differing} == {}
    assert all(row.compared for row in rows.values())
    rows, error = judged(directory, make(kind))
    assert error is None
    assert list(rows) == ROWS[:5]
    assert {what: row.first for what, row in rows.items() if row.differing} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_done_again(tmp_path, kind):
    records, module = record(tmp_path, kind)
    phases = 1 if "alone" in kind else 2
    assert [path.name for path in records] == [f"phase-0{p}-step-000{s}" for p in range(phases) for s in (1, 2)]
    for directory in records:
        check(directory, kind)
    if "refills" in kind:
        assert max(len(read_record(directory).trace.items) for directory in records) > 1


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_in_half_precision(tmp_path, precision):
    def settings():
        if precision == "bf16-mixed":
            return {"precision": precision}
        return {"plugins": [MixedPrecision(precision, "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))]}

    records, _ = record(tmp_path, **settings())
    check(records[1], "two policies", **settings())


def test_recording_changes_nothing(tmp_path):
    _, module = record(tmp_path / "recorded")
    plain, data = make("two policies"), SelfPlayData(write_plain_images(tmp_path / "images", n=5))
    fit(tmp_path / "plain", module=plain, data=data, engine=Scripted(say))
    for (name, weight), expected in zip(module.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(weight, expected), name


def alter_lines(path, line, **values):
    lines = path.read_text().splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | values)
    path.write_text("\n".join(lines) + "\n")


def alter_tensor(path, name, index, change):
    tensors = load_file(path)
    tensors[name].view(-1)[index] += change
    save_file(tensors, path)


def test_an_altered_reward(copied):
    alter_lines(copied / "judged.jsonl", 1, reward=0.75)
    rows, error, known = again(copied, make("two policies"))
    assert known.changed == ("judged.jsonl",)
    assert [what for what, row in rows.items() if row.differing] == ["rewards and votes"]
    assert rows["rewards and votes"].differing == 1
    assert rows["rewards and votes"].first.endswith("completion 1.reward: 0.75 in the record, 0.5 now")
    rows, _ = judged(copied, make("two policies"))
    assert [what for what, row in rows.items() if row.differing] == ["rewards and votes"]


def test_an_altered_token(copied):
    alter_tensor(copied / "tokens.safetensors", "0.token_ids", 3, 1)
    rows, error, known = again(copied, make("two policies"))
    assert known.changed == ("tokens.safetensors",)
    assert rows["texts of completions"].differing == 1
    assert rows["batch"].first.startswith("token_ids[0, 0, 3]: ")
    assert rows["weights and optimizer after it"].differing > 1


def test_an_altered_weight(copied):
    name = "policy.model.model.language_model.layers.0.mlp.up_proj.weight"
    alter_tensor(copied / "state.safetensors", name, 5, 2.0**-12)
    rows, error, known = again(copied, make("two policies"))
    assert known.changed == ("state.safetensors",)
    differing = [what for what, row in rows.items() if row.differing]
    assert differing[-1] == "weights and optimizer after it"
    assert not set(differing) & set(ROWS[:5])  # what was sampled is as recorded, and so is the judging


def test_an_altered_grade(copied):
    alter_lines(copied / "grades.jsonl", 2, outcome="timed_out")
    rows, _ = judged(copied, make("two policies"))
    assert [what for what, row in rows.items() if row.differing] == ["grades"]
    assert rows["grades"].first == ("grade 2.outcome: 'timed_out' in the record, 'different' now")


def test_another_method_is_named(recorded):
    module = make("two policies")
    module.reasoner.learner.config = replace(module.reasoner.config, clip_low=0.1, entropy_weight=0.1)
    rows, error, _ = again(recorded[3], module)
    assert error is None
    assert [what for what, row in rows.items() if row.differing] == [ROWS[-2], ROWS[-1]]


def test_another_prompt_is_named(recorded):
    module = make("two policies")
    module.questioner.template = replace(ASK, user="Ask. Now.")
    rows, _ = judged(recorded[1], module)
    assert "token_ids" in rows["prompts and sampling"].first


def test_what_was_not_asked_ends_the_step(recorded):
    module = make("two policies")
    module.questioner.parse = lambda completion, opened="": QuestionFormat(kinds=None).parse(
        f"<type>numerical</type><question>{completion.text}</question>"
    )
    _, error = judged(recorded[0], module)
    assert "nothing was sampled from the reasoner for" in str(error)


def test_a_step_that_ends_early_says_where(recorded):
    module = make("two policies")
    module.questioner.learner.mismatch = MismatchCheck(MismatchConfig())  # the scripted log-probabilities are made up
    rows, error, _ = again(recorded[0], module)
    assert isinstance(error, PolicyMismatchError)
    assert (rows["grades"].differing, rows["batch"].differing) == (0, 0)
    assert rows["weights and optimizer after it"].first.endswith("in the record, missing now")


def test_another_model_is_refused(recorded):
    with pytest.raises(ValueError, match="weights of the policy are not those of the configured model, such as 'model"):
        again(recorded[0], make("LoRA"))
    with pytest.raises(ValueError, match="record: a step of a questioner, and the model has reasoner"):
        judged(recorded[0], make("a Reasoner alone"))


@pytest.mark.parametrize("name", FILES)
def test_a_record_without_a_file(copied, name):
    (copied / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"record: '.*' has no {name}: it is no whole record"):
        read_record(copied)


@pytest.mark.parametrize("name", FILES)
def test_a_record_with_half_a_file(copied, name):
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="record: .* is damaged"):
        read_record(copied)


def test_an_image_that_is_gone(copied):
    (copied / "images" / "0001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"record: '.*' has no images/0001.png: it is no whole record"):
        read_record(copied)


def test_another_format(copied):
    facts = json.loads((copied / "facts.json").read_text()) | {"format": 99}
    (copied / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="its format is 99, and this version reads 1"):
        read_record(copied)
