"""Bytes on one device, stage by stage: what lies there all the time, and what a stage adds at its peak."""

from __future__ import annotations

from dataclasses import dataclass

from visplay.planning.activations import FLOAT
from visplay.planning.memory import Activations, Micro, Shape, Training, activations, scoring, trained_weights

Bytes = dict[str, int]
"""Bytes by what they are for, in the order they are shown."""


@dataclass(frozen=True)
class Residents:
    """What lies on the device beside a stage's own needs.

    Args:
        process: Bytes of the process itself: libraries on a CPU, the context on a GPU.
        idle: Number of weights of policies that do not learn; of one that is an adapter, its own.
        reference: Number of weights of the frozen copy that measures the KL divergence, likewise.
        shards: Devices over which weights, gradients and optimizer states are cut.
    """

    process: int = 0
    idle: int = 0
    reference: int = 0
    shards: int = 1


def policies(shape: Shape, residents: Residents) -> Bytes:
    """Weights in float32, which are the masters: nothing keeps a second copy in another precision."""
    own = FLOAT * (shape.weights + shape.adapter_weights) // residents.shards
    parts = {"process": residents.process, "weights, float32 masters": own}
    idle = FLOAT * residents.idle // residents.shards
    return parts | ({"idle policy": idle} if idle else {})


def phase(shape: Shape, training: Training, residents: Residents) -> Bytes:
    """What lies there between the updates of a phase: also the reference, and the two optimizer state of AdamW."""
    reference = FLOAT * residents.reference // residents.shards
    parts = policies(shape, residents) | ({"reference policy": reference} if reference else {})
    return parts | {"optimizer states": 2 * FLOAT * trained_weights(shape, training) // residents.shards}


def update(shape: Shape, training: Training, residents: Residents, micros: tuple[Micro, ...]) -> Bytes:
    """An update at its peak, with the micro-batch that needs most."""
    learning = FLOAT * trained_weights(shape, training)
    course: Activations = max((activations(shape, micro, training) for micro in micros), key=lambda each: each.peak)
    gradients = learning // residents.shards
    beyond = course.peak - course.kept
    if not training.accumulated:  # those that came up are part of the peak
        beyond = max(course.peak, learning) - gradients - course.kept
    parts = phase(shape, training, residents) | {"gradients": gradients, "activations": course.kept}
    parts["logits and backward pass"] = beyond
    return parts | _gathered(shape, residents)


def score(shape: Shape, training: Training, residents: Residents, micros: tuple[Micro, ...]) -> Bytes:
    """What scoring a batch under the reference needs, before the updates: no gradient is there."""
    working = max(scoring(shape, micro, training.precision) for micro in micros)
    parts = phase(shape, training, residents) | {"scoring (estimate)": working}
    return parts | _gathered(shape, residents)


def _gathered(shape: Shape, residents: Residents) -> Bytes:
    return {"gathered weights": FLOAT * (2 * shape.text.weights + shape.head)} if residents.shards > 1 else {}
