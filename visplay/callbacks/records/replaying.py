"""Doing a recorded step again: the ordinary step, with an engine that answers from the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

from lightning import Callback, Trainer

from visplay.callbacks.records.step_record import StepRecord
from visplay.callbacks.records.step_state import loss_scaler, own_optimizer, policy_tensors
from visplay.callbacks.records.step_trace import Call, StepTrace, tracing
from visplay.data.module import SelfPlayData
from visplay.modules.learner.mismatch import PolicyMismatchError
from visplay.modules.learner.skipped_update import NonFiniteUpdateError
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.placement import CPU, move
from visplay.modules.questioner import Questioner
from visplay.modules.training import GRPOModule
from visplay.types import Completion, Engine, PhaseState, Prompt, Sampling

SILENT: Mapping[str, Any] = {
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    "max_epochs": 1,
    "num_sanity_val_steps": 0,
}
"""Settings of a trainer that takes one step, and writes and shows nothing."""


class NotRecordedError(RuntimeError):
    """What is asked for now was not asked for when the step was recorded."""


class RecordedRollout(Engine):
    """Answers each call of a step with the tokens that were sampled then; their texts are decoded anew.

    Args:
        calls: Of the step, in their order.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls: Iterator[Call] = iter(calls)

    def generate(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """What was sampled for the prompts of these keys.

        Raises:
            NotRecordedError: Nothing was.
        """
        call = next(self._calls, None)
        groups = {} if call is None else dict(zip((p.key for p in call.prompts), call.completions, strict=True))
        if missing := [prompt.key for prompt in prompts if prompt.key not in groups]:
            raise NotRecordedError(
                f"nothing was sampled from the {policy.name} for {len(missing)} prompts, such as {missing[0]!r}: what "
                "is asked now is not what was asked when the step was recorded"
            )
        return [[replace(each, text=policy.decode(each.token_ids)) for each in groups[p.key]] for p in prompts]

    def load(self, policy: Any) -> None:
        """Do nothing, as there are no weights; nor is there anything to give back or to end."""

    def sleep(self) -> None:
        """Do nothing."""

    def wake(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Replay(NamedTuple):
    """A step that was done again.

    Args:
        trace: What it did.
        error: What ended it early; None where it did all that it did before.
    """

    trace: StepTrace
    error: Exception | None = None


def replay_judging(record: StepRecord, module: GRPOModule) -> Replay:
    """Parse, vote on, grade and reward the recorded completions again; no weights are read.

    Args:
        record: The step.
        module: As configured, its models not loaded.

    Raises:
        FileNotFoundError: A model's configuration or processor is gone.
    """
    for policy in (policy for policy in module.modules() if isinstance(policy, VLM)):
        policy.load(weights=False)
    _take_up(record, module)
    role, items, seed = module.role, record.trace.items[0], module.stage_seed("step", module.phase.step)
    with tracing(module, items) as trace:
        try:
            trace.note_judgement(*role.learner.sample(role, items, seed, module.refill))
        except NotRecordedError as error:
            return Replay(trace, error)
    return Replay(trace)


def replay_update(record: StepRecord, module: GRPOModule, trainer: Trainer) -> Replay:
    """Do the whole step again from its state, judging included.

    Args:
        record: The step.
        module: As configured.
        trainer: Of the run's precision, strategy and device, else ``SILENT``.

    Raises:
        FileNotFoundError: A model is gone.
        ValueError: The recorded weights are not those of the configured model.
    """
    replaying, data = _Replaying(record), SelfPlayData()
    data.phase_batches = lambda: _OneBatch(record.trace.items[0])
    trainer.callbacks.append(replaying)
    try:
        trainer.fit(module, datamodule=data)
    except (NonFiniteUpdateError, NotRecordedError, PolicyMismatchError) as error:
        return Replay(replaying.trace, error)
    return Replay(replaying.trace)


class _Replaying(Callback):
    """Brings a module to the state of a record before its one step, and watches that."""

    def __init__(self, record: StepRecord) -> None:
        self.record = record
        self.trace = StepTrace([])
        self._tracing = ExitStack()

    def on_fit_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Take up the phase; what does not learn is kept in CPU memory."""
        _take_up(self.record, pl_module)
        for policy in pl_module.idle:
            move(policy, CPU)

    def on_train_batch_start(self, trainer: Trainer, pl_module: GRPOModule, batch: Any, batch_idx: int) -> None:
        """Restore the state last, after all that may draw random numbers."""
        self.record.state.restore(pl_module, own_optimizer(pl_module), loss_scaler(trainer))
        self.trace = self._tracing.enter_context(tracing(pl_module, batch))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note what came of it."""
        self._tracing.close()
        assert pl_module.result is not None, "a step with items has a result"
        self.trace.note_step(pl_module.result, policy_tensors(pl_module, own_optimizer(pl_module)))


class _OneBatch:
    """A loader of the items of one step; a list would be taken for several loaders."""

    def __init__(self, items: Sequence) -> None:
        self.items = items

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Sequence]:
        yield self.items


def _take_up(record: StepRecord, module: GRPOModule) -> None:
    """Set a module to the phase of a record, with its engine and the items of its refills."""
    module.phase = PhaseState(**record.state.facts["phase"])
    if module.phase.role not in module.roles:
        raise ValueError(f"record: a step of a {module.phase.role}, and the model has {' and '.join(module.roles)}")
    if isinstance(module.role, Questioner):
        module.role.remembered = record.state.facts.get("remembered", ())
    refills = iter(record.trace.items[1:])
    module.attach_engine(RecordedRollout(record.trace.calls))
    module.refill = lambda count: next(refills, ())
