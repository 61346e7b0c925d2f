import re
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from visplay.callbacks import Dashboard
from visplay.callbacks.dashboard import lay_out


@pytest.fixture
def run(tmp_path):
    """The trainer and module of a run with a TensorBoard log."""
    benchmarks = [SimpleNamespace(name="heldout"), SimpleNamespace(name="mmmu")]
    data = SimpleNamespace(benchmarks=lambda stage: benchmarks, summary_scores={"greedy": "val/heldout/rule_accuracy"})
    logger = TensorBoardLogger(tmp_path)
    trainer = SimpleNamespace(
        is_global_zero=True,
        log_dir=logger.log_dir,
        ckpt_path=None,
        datamodule=data,
        loggers=[logger],
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        sanity_checking=True,
    )
    phase = SimpleNamespace(iteration=1)
    roles = {"questioner": None, "reasoner": None}
    return trainer, SimpleNamespace(roles=roles, validated=object(), phase=phase)


def read(trainer):
    trainer.loggers[0].experiment.close()
    events = EventAccumulator(trainer.loggers[0].log_dir)
    events.Reload()
    return events


def test_the_layout_and_the_settings_are_written(run):
    trainer, module = run
    dashboard = Dashboard({"heldout": {"true labels": 0.75}})
    dashboard.settings = {"model.seed": 1, "model.vlm.path": "base", "gates": ["a"]}
    dashboard.on_fit_start(trainer, module)
    dashboard.on_validation_end(trainer, module)
    trainer.sanity_checking = False
    dashboard.on_validation_end(trainer, module)
    dashboard.on_fit_end(trainer, module)
    events = read(trainer)
    assert [(e.step, round(e.value, 6)) for e in events.Scalars("val/heldout/reference/true labels")] == [
        *((0, 0.75), (1, 0.75))
    ]
    assert events.Tags()["scalars"] == ["val/heldout/reference/true labels"]
    (tensor,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tensor.tensor_proto.string_val[0])
    assert [(each.title, len(each.chart)) for each in layout.category] == [
        ("Accuracy by iteration (0 is the base)", 2),
        ("Generated questions by iteration", 3),
        ("Learning by step of each role", 6),
    ]
    plugin = {
        tag: HParamsPluginData.FromString(content) for tag, content in events.PluginTagToContent("hparams").items()
    }
    (experiment,) = [each.experiment for tag, each in plugin.items() if tag.endswith("experiment")]
    assert [each.name.tag for each in experiment.metric_infos] == ["val/heldout/rule_accuracy"]
    (started,) = [each.session_start_info for tag, each in plugin.items() if tag.endswith("session_start_info")]
    assert started.hparams["model.seed"].number_value == 1
    assert started.hparams["model.vlm.path"].string_value == "base"
    assert started.hparams["gates"].string_value == "['a']"
    assert any(tag.endswith("session_end_info") for tag in plugin)


@pytest.mark.parametrize(("of", "written"), [("lightning_logs/version_0", False), ("another", True)])
def test_a_log_has_the_layout_once(run, tmp_path, of, written):
    trainer, module = run
    trainer.ckpt_path = str(tmp_path / of / "checkpoints" / "phase-00.ckpt")
    Dashboard().on_fit_start(trainer, module)
    assert ("custom_scalars__config__" in read(trainer).Tags()["tensors"]) == written


def test_other_loggers_are_told_the_settings(run, tmp_path):
    trainer, module = run
    logger = CSVLogger(tmp_path, name="csv")
    trainer.loggers.append(logger)
    dashboard = Dashboard()
    dashboard.settings = {"model.seed": 1}
    dashboard.on_fit_start(trainer, module)
    assert logger.experiment.hparams == {"model.seed": 1}


@pytest.mark.parametrize(
    ("chart", "shown", "hidden"),
    [
        (
            ("Accuracy by iteration (0 is the base)", "a.b: greedy, sampled, majority"),
            ["val/a.b/rule_accuracy", "val/a.b/pass@1", "val/a.b/majority", "val/a.b/reference/true labels"],
            ["val/a.b/wrong_claims", "val/axb/majority", "val/a.b/majority_other"],
        ),
        (
            ("Generated questions by iteration", "Silver answers: confidence and accuracy"),
            ["curation/mean_confidence", "curation/estimated_silver_accuracy", "curation/silver_accuracy"],
            ["curation/estimated_silver_accuracy_low", "curation/kept"],
        ),
        (
            ("Generated questions by iteration", "Questions rejected, by reason"),
            ["curation/rejected/calibrated_accuracy/below", "curation/rejected/invalid"],
            ["curation/asked"],
        ),
        (
            ("Learning by step of each role", "Reward of each role"),
            ["questioner/reward", "reasoner/reward"],
            ["questioner/reward_std", "describer/reward"],
        ),
        (
            ("Learning by step of each role", "Questions: difficulty and redundancy"),
            ["questioner/difficulty", "questioner/redundancy"],
            ["questioner/repeated_fraction"],
        ),
        (
            ("Learning by step of each role", "KL from the reference, nats per token"),
            ["reasoner/kl"],
            ["reasoner/kl_to_base", "reasoner/kl_weight"],
        ),
    ],
)
def test_what_a_chart_shows(chart, shown, hidden):
    category, title = chart
    kind, tags = lay_out(["a.b", "c"], ["questioner", "reasoner"])[category][title]
    assert kind == "Multiline"
    for tag in shown + hidden:
        assert any(re.match(pattern, tag) for pattern in tags) == (tag in shown), tag


def test_a_role_alone_has_no_charts_of_what_it_has_not():
    assert list(lay_out([], ["questioner"])) == ["Learning by step of each role"]


def test_a_module_that_does_not_answer_has_no_scores(run):
    trainer, module = run
    module.validated = None
    Dashboard().on_fit_start(trainer, module)
    assert "custom_scalars__config__" in read(trainer).Tags()["tensors"]


def test_references_of_what_is_not_validated_are_rejected(run):
    with pytest.raises(ValueError, match=r"there is no benchmark \['mmu'\] to validate on, only \['heldout', 'mmmu'\]"):
        Dashboard({"mmu": {"paper": 0.5}}).on_fit_start(*run)


def test_a_reference_is_a_fraction():
    with pytest.raises(ValueError, match="'heldout', 'paper': need a fraction in \\[0, 1\\], got 75"):
        Dashboard({"heldout": {"paper": 75}})
