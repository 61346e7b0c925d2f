"""``python -m examples.vision_sr1.descriptions STUDY``: how far descriptions of held-out images lead without the image.

The descriptions are those of answers that the runs sampled and stored. The weights that wrote them answer each
question again, greedily, from its description alone. ``descriptions.json`` of each run keeps what comes out, and the
study's page reads it. The world is that of the shapes.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from examples.study.logs import DESCRIPTIONS
from examples.study.plan import read_study
from examples.study.runs import is_finished
from examples.study.tables import BLIND
from visplay.callbacks import TransformersRollout
from visplay.commands.export import read_role
from visplay.commands.settings.configuration import read_config
from visplay.evaluation import AnswerStore
from visplay.functional.parsing import parse_description
from visplay.grading.equivalence import equivalent
from visplay.modules import Describer
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.tiny.splits import heldout_caption

logger = logging.getLogger(__name__)
_SAMPLES = 2
_AT_ONCE = 128


def measure(role: Describer, source: ModelSource, store: AnswerStore) -> dict[str, float]:
    """What sampled answers to held-out questions describe, and what that leads to.

    Args:
        role: How it is asked.
        source: The weights.
        store: Their answers with the image.

    Returns:
        ``described``: fraction of answers that have a description; ``whole``: of answers whose description has all
        that is in the image and nothing else; ``answered_blind``: of answers whose description alone leads to a right
        one.
    """
    role.adopt(source.load(role.vlm).eval(), role.clock)
    role.attach_engine(TransformersRollout())
    asked = {
        f"{item.key}#{k}": (item, item.samples[k].text) for item in store.items("heldout") for k in range(_SAMPLES)
    }
    descriptions = {key: parse_description(text) for key, (_, text) in asked.items()}
    whole = sum(descriptions[key] == heldout_caption(item.key) for key, (item, _) in asked.items())
    prompts = [
        role.vlm.encode(key, role.from_description, None, question=asked[key][0].problem, description=description)
        for key, description in descriptions.items()
        if description is not None
    ]
    right = 0
    for start in range(0, len(prompts), _AT_ONCE):
        sampled = role.sample_one(prompts[start : start + _AT_ONCE], role.sampling(1, 0, temperature=0.0))
        answers = {key: role.parse(completion) for key, completion in sampled.items()}
        right += sum(answer is not None and equivalent(answer, asked[key][0].gold) for key, answer in answers.items())
    counts = {"described": len(prompts), "whole": whole, BLIND: right}
    return {name: count / len(asked) for name, count in counts.items()}


def sources(version: Path) -> Iterator[tuple[int, ModelSource]]:
    """The base, and the Reasoner after each iteration of a run."""
    yield 0, ModelSource()
    phases = [json.loads(line) for line in (version / "phases.jsonl").read_text().splitlines()]
    last = {phase["iteration"]: phase["checkpoint"] for phase in phases if phase["role"] == "reasoner"}
    for iteration, checkpoint in last.items():
        yield iteration, ModelSource(str(version / checkpoint))


def main() -> None:
    """Measure every finished run that was not measured yet."""
    parser = argparse.ArgumentParser(prog="python -m examples.vision_sr1.descriptions", description=__doc__)
    parser.add_argument("study", type=Path)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    study = read_study(parser.parse_args().study)
    for arm, seed in [(arm, seed) for seed in study.seeds for arm in study.arms if is_finished(study, arm, seed)]:
        version = study.version(arm, seed)
        if (version / DESCRIPTIONS).is_file():
            continue
        role = read_role(read_config([str(version / "config.yaml")]), "reasoner")
        found = {
            iteration: measure(role, source, AnswerStore(version / "evaluation" / f"iteration-{iteration}"))
            for iteration, source in sources(version)
        }
        (version / DESCRIPTIONS).write_text(json.dumps(found, indent=1))
        logger.info("%s, seed %d: %s", arm.name, seed, found)


if __name__ == "__main__":
    main()
