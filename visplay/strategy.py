"""FSDP2 as a strategy of Lightning: weights, gradients and optimizer state are sharded over all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lightning import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor
from torch.distributed.constants import default_pg_timeout
from torch.optim import Optimizer

from visplay.modules.policy.weights.sharding import gather_tree, like


class FSDP2Strategy(ModelParallelStrategy):
    """``trainer.strategy: fsdp2``: policies are sharded as they are loaded, layer by layer, over all ranks.

    A checkpoint is the single file that any other strategy writes, so that a run goes on with another one, or on
    another number of ranks: tensors are gathered one after the other, in the CPU memory of rank 0 alone.

    Args:
        process_group_backend: Of torch.distributed; null takes the device's.
        timeout: Longest time that a rank waits for the others.
    """

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta = default_pg_timeout) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """As of DDP."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """As of DDP."""
        return True

    def setup_environment(self) -> None:
        """Make a mesh of all ranks."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Set up what is sharded already.

        Raises:
            ValueError: Losses are scaled: each rank would see overflows of its own shards alone.
        """
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(f"precision: {trainer.precision} scales losses, which shards do not; give bf16-mixed")
        super().setup(trainer)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's state, in which sharded weights are this rank's parts, and a tied one the same object twice."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict(keep_vars=True)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state, in which what belongs to sharded weights is this rank's."""
        return Strategy.optimizer_state(self, optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint whose tensors are whole; all ranks take part."""
        gathered = gather_tree(checkpoint, keep=self.is_global_zero)
        Strategy.save_checkpoint(self, gathered, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Open a checkpoint; its tensors stay on the disk until a rank takes its part."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this rank's part of each weight."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = checkpoint["state_dict"].items()
        parts = {name: like(weight, own[name]) if name in own else weight for name, weight in state}
        self.lightning_module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's part of what belongs to each weight."""
        saved = [_parts(o, state) for o, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True)]
        Strategy.load_optimizer_state_dict(self, {"optimizer_states": saved})


def _parts(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A saved state, in which the tensors of each weight are sharded as it is."""
    optimizer = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def part(value: Any, weight: Tensor) -> Any:
        return like(value, weight) if isinstance(value, Tensor) else value

    states = {i: {name: part(v, weights[i]) for name, v in state.items()} for i, state in saved["state"].items()}
    return saved | {"state": states}


StrategyRegistry.register("fsdp2", FSDP2Strategy, description="Weights, gradients and optimizer state are sharded")
