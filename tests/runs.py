"""Small self-play runs with scripted policies: image number n is asked "What is n?" and answered n or wrong."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger

from helpers import Scripted, image_number, plain_image
from visplay.callbacks import Curation, SelfPlay
from visplay.data.module import SelfPlayData
from visplay.modules import GRPOConfig, Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, VisPlay, Voting
from visplay.modules.learner.mismatch import MismatchConfig
from visplay.tiny import ANSWER, ASK, BASE

STEPS, N = 2, 3
CONFIG = GRPOConfig(
    steps=STEPS,
    prompts_per_step=N,
    prompts_per_update=None,
    group_size=2,
    max_new_tokens=48,
    learning_rate=1e-3,
    mismatch=MismatchConfig(stop=False),  # a scripted engine's log-probabilities are made up
)
CURATION = Curation(images=4, questions_per_image=3, images_per_batch=3)


def script(policy, prompt, text, sample):
    """Every third question does not parse; every second answer is right."""
    number = image_number(prompt.images[0])
    if policy == "questioner":
        return f"<type>numerical</type><question>What is {number}?</question>" if sample % 3 else "nonsense"
    return f"\\boxed{{{number}}}" if sample % 2 else f"\\boxed{{{'false' if sample % 4 else 'wrong'}}}"


def make_module(config=CONFIG, seed=0):
    questioner = Questioner(config, ASK, QuestionFormat(kinds=None))
    return VisPlay(Qwen2_5_VL(str(BASE)), questioner, Reasoner(config, ANSWER, Voting(votes=4)), seed)


def write_plain_images(directory: Path, n=10):
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        plain_image(number).save(directory / f"{number}.png")
    return directory


def make_trainer(root, engine, self_play, *callbacks, **settings):
    default = {"enable_checkpointing": bool(callbacks), "reload_dataloaders_every_n_epochs": 1, "max_epochs": 1}
    return Trainer(
        default_root_dir=root,
        accelerator="cpu",
        callbacks=[engine, self_play, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        **default | {"logger": CSVLogger(root, name="run")} | settings,
    )


def fit(root, *, module=None, data=None, engine=None, self_play=None, callbacks=(), ckpt_path=None, **settings):
    """Run; returns trainer, module and the SelfPlay callback."""
    engine, self_play = engine or Scripted(script), self_play or SelfPlay(1, CURATION)
    trainer = make_trainer(root, engine, self_play, *callbacks, **settings)
    module = module or make_module()
    data = data or SelfPlayData(write_plain_images(root / "images"))
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, module, self_play
