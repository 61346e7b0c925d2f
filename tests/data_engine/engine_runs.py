"""Small predictions with scripted policies: image n is asked "What is n?", and answered n by most or by all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lightning import Trainer
from PIL import Image

from helpers import Scripted, image_number, plain_image
from runs import CONFIG
from visplay.callbacks import Curation
from visplay.callbacks.records.replaying import SILENT
from visplay.data.module import SelfPlayData
from visplay.data_engine.predictor import Prediction, Predictor
from visplay.modules import Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, VisPlay, Voting
from visplay.tiny import ANSWER, ASK, BASE

CURATION = Curation(questions_per_image=2, images_per_batch=2)


def say(policy, prompt, text, sample):
    """The second question does not parse; every fourth answer about an even image is wrong; 2 is known blind."""
    if not prompt.images:
        return "\\boxed{2}"
    number = image_number(prompt.images[0])
    if policy == "questioner":
        return (
            f"<type>numerical</type><question>What is {number}?</question><answer>9</answer>" if sample == 0 else "no"
        )
    return f"\\boxed{{{number if sample % 4 or number % 2 else -1}}}"


def write_images(directory: Path, n: int = 5) -> Path:
    """Images that tell their number and look like no other."""
    directory.mkdir(parents=True)
    for number in range(n):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(noise).resize((56, 56))
        image.paste(plain_image(number, (1, 1)), (0, 0))
        image.save(directory / f"{number}.png")
    return directory


def predict(images, output, curation=CURATION, *, seed=0, votes=10, engine=None, ckpt_path=None, **prediction):
    """Run; returns what was written, and the engine."""
    engine = engine or Scripted(say)
    questioner = Questioner(CONFIG, ASK, QuestionFormat(kinds=None))
    module = VisPlay(Qwen2_5_VL(str(BASE)), questioner, Reasoner(CONFIG, ANSWER, Voting(votes=votes)), seed)
    predictor = Predictor(curation, output, Prediction(**prediction))
    trainer = Trainer(callbacks=[engine, predictor], accelerator="cpu", **SILENT)
    data = SelfPlayData(images)
    trainer.predict(module, datamodule=data, return_predictions=False, ckpt_path=ckpt_path, weights_only=True)
    return predictor.written, engine
