"""Images, texts and histograms at the loggers that people use; W&B offline, MLflow in files."""

from types import SimpleNamespace

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from visplay.callbacks.logging import log_histogram, log_images, log_scalars, log_table

IMAGES = {"lowest": Image.new("RGB", (30, 20), "red"), "highest": Image.new("RGB", (40, 20), "blue")}


def write_all(logger):
    trainer = SimpleNamespace(loggers=[logger])
    log_images(trainer, "reasoner/samples", IMAGES, 3)
    log_table(trainer, "reasoner/samples", ("question", "answer"), [["How | many?", "\udc80 4"]], 3)
    log_histogram(trainer, "reasoner/confidence_histogram", [0.1, 0.12, 1.0], 3)
    log_histogram(trainer, "reasoner/nothing", [], 3)
    log_scalars(trainer, "reasoner", {"reward": 0.5}, 3)
    return trainer


def test_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    write_all(logger)
    logger.experiment.close()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    images = {tag: events.Images(tag)[0] for tag in events.Tags()["images"]}
    assert {tag: (image.width, image.height, image.step) for tag, image in images.items()} == {
        "reasoner/samples/lowest": (30, 20, 3),
        "reasoner/samples/highest": (40, 20, 3),
    }
    (text,) = events.Tensors("reasoner/samples/text_summary")
    assert text.tensor_proto.string_val[0].decode().splitlines() == [
        *("| question | answer |", "| --- | --- |", "| How \\| many? | \\\\udc80 4 |")
    ]
    (histogram,) = events.Histograms("reasoner/confidence_histogram")
    assert histogram.histogram_value.num == 3
    assert events.Tags()["histograms"] == ["reasoner/confidence_histogram"]


def test_wandb_offline(tmp_path, monkeypatch):
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_ERROR_REPORTING", "false"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    settings = {"x_disable_stats": True, "x_disable_meta": True, "disable_git": True, "console": "off"}
    logger = WandbLogger(project="visplay", save_dir=tmp_path, offline=True, settings=settings)
    logged = []
    log = logger.experiment.log

    def note(metrics):
        logged.append(metrics)
        log(metrics)

    monkeypatch.setattr(logger.experiment, "log", note)
    write_all(logger)
    logger.experiment.finish()
    assert {metrics["trainer/global_step"] for metrics in logged} == {3}
    panels, table, histogram, reward = logged
    assert [(image._width, image._caption) for image in panels["reasoner/samples"]] == [(30, "lowest"), (40, "highest")]
    assert table["reasoner/samples"].columns == ["question", "answer"]
    assert table["reasoner/samples"].data == [["How | many?", "\\udc80 4"]]
    assert histogram["reasoner/confidence_histogram"].histogram == [0, 0, 2, *[0] * 16, 1]
    assert reward["reasoner/reward"] == 0.5
    files = {path.suffix for path in (tmp_path / "wandb").rglob("*") if path.is_file()}
    assert {".wandb", ".png", ".json"} <= files


def test_mlflow_in_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger("visplay", save_dir=str(tmp_path / "mlruns"))
    write_all(logger)
    logger.finalize("success")
    client, run = logger.experiment, logger.run_id
    assert [(m.step, m.value) for m in client.get_metric_history(run, "reasoner/reward")] == [(3, 0.5)]
    (text,) = client.list_artifacts(run, "reasoner/samples")
    assert text.path == "reasoner/samples/step-3.md"
    written = [path for path in (tmp_path / "mlruns").rglob("*.png") if "step+3+" in path.name]
    sizes = {}
    for path in written:
        with Image.open(path) as image:
            sizes[path.name.split("+")[0]] = image.size
    assert sizes == {"reasoner~samples~lowest": (30, 20), "reasoner~samples~highest": (40, 20)}


class Gallery(Logger):
    """Has what Lightning's documentation says of a logger that shows images, and no more."""

    name, version = "gallery", 0

    def __init__(self):
        self.shown = []

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass

    def log_image(self, key, images, step=None, **kwargs):
        self.shown.append((key, [image.size for image in images], step, kwargs))


def test_a_logger_with_log_image():
    gallery = Gallery()
    write_all(gallery)
    assert gallery.shown == [("reasoner/samples", [(30, 20), (40, 20)], 3, {"caption": ["lowest", "highest"]})]


def test_a_logger_of_numbers_alone_is_spared(tmp_path):
    logger = CSVLogger(tmp_path)
    write_all(logger)
    logger.save()
    assert (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines() == [
        *("reasoner/reward,step", "0.5,3")
    ]
