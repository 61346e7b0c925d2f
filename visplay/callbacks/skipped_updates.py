"""The batches of updates that were not applied, on the disk: what to look at when a loss is not finite."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors.torch import save

from visplay.data.files import json_number, replacing
from visplay.modules.learner.skipped_update import SkippedUpdate
from visplay.modules.training import GRPOModule

logger = logging.getLogger(__name__)


class SkippedUpdates:
    """Writes the first batches whose loss or gradient is not finite; set as ``GRPO.on_skipped``.

    Of each a JSON file with the texts, rewards and advantages, and a safetensors file with the batch's tensors. Images
    are not written: the key of a prompt names its image or example.

    Args:
        directory: Where; it is made with the first file.
        module: Knows the phase.
        most: Batches that the directory takes, of all roles and phases; later ones are only counted.
    """

    def __init__(self, directory: Path, module: GRPOModule, most: int = 5) -> None:
        self.directory = directory
        self.module = module
        self.most = most

    def __call__(self, update: SkippedUpdate) -> None:
        """Write one, and say where."""
        phase, policy = self.module.phase, update.policy
        where = f"iteration {phase.iteration}, {phase.role}, step {phase.step + 1}"
        what = f"loss {update.loss:g}, norm of the gradient {update.grad_norm:g}; the update is not applied"
        written = len(list(self.directory.glob("*.json")))
        if written >= self.most:
            logger.warning("%s: %s; %d batches are in %s already", where, what, written, self.directory)
            return
        path = self.directory / f"{written + 1}-{phase.role}-iteration-{phase.iteration}-step-{phase.step + 1}.json"
        facts = {
            "role": phase.role,
            "iteration": phase.iteration,
            "attempt": phase.attempt,
            "step": phase.step + 1,
            "version": policy.version,
            "loss": json_number(update.loss),
            "grad_norm": json_number(update.grad_norm),
            "in_a_row": update.in_a_row,
        }
        try:
            with replacing(path.with_suffix(".safetensors")) as file:
                file.write(save(update.batch.tensors()))
            with replacing(path) as file:
                file.write(json.dumps(facts | {"prompts": _texts(update)}, indent=2, allow_nan=False).encode())
        except OSError as error:  # the run goes on: this only helps to find out why
            logger.warning("%s: %s; its batch could not be written: %s", where, what, error)
            return
        logger.warning("%s: %s; its batch is in %s", where, what, path)


def _texts(update: SkippedUpdate) -> list[dict[str, Any]]:
    """Each prompt with its completions as text."""
    policy, batch = update.policy, update.batch
    columns = zip(
        batch.prompts,
        batch.token_ids.tolist(),
        batch.mask.sum(-1).tolist(),
        batch.finished.tolist(),
        batch.rewards.tolist(),
        batch.advantages.tolist(),
        strict=True,
    )
    return [
        {
            "key": prompt.key,
            "text": policy.tokenizer.decode(list(prompt.token_ids)),
            "completions": [
                {
                    "text": policy.decode(ids[:length]),
                    "finished": ended,
                    "reward": json_number(reward),
                    "advantage": json_number(advantage),
                }
                for ids, length, ended, reward, advantage in zip(*group, strict=True)
            ],
        }
        for prompt, *group in columns
    ]
