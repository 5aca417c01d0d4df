"""Strategies: where parameters, gradients and optimizer state live, and how ranks agree.

All of them save the same checkpoint (:mod:`orca.training.checkpoint`), so a run may go on with
another strategy and another number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from orca.errors import UserError
from orca.training.checkpoint import CheckpointWriter, load

TIMEOUT_MINUTES = 30.0


class ElasticCheckpoints(Strategy):
    """Saves and loads in the one format, whatever the strategy.

    ``writer`` is set by the callback that decides when to save.
    """

    writer: CheckpointWriter | None = None

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True  # sharded tensors and the optimizer must be there to be filled

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return {}  # save_checkpoint takes the tensors itself

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        assert self.writer is not None and storage_options is None
        state = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
        self.writer.save(checkpoint["global_step"], self._tensors(), state)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        tensors = self._tensors()
        state = load(Path(checkpoint_path), tensors)
        set_state_dict(
            self._student,
            self._plain_optimizers,
            model_state_dict=tensors["model"],
            optim_state_dict=tensors["optimizer"],
            options=self._options,
        )
        return {**state, "state_dict": {}, "optimizer_states": [{}] * len(self.optimizers)}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Already done by :meth:`load_checkpoint`."""

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Already done by :meth:`load_checkpoint`."""

    def _tensors(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(
            self._student, self._plain_optimizers, options=self._options
        )
        return {"model": model, "optimizer": optimizer}

    @property
    def _student(self) -> torch.nn.Module:
        return self.lightning_module.student  # type: ignore[union-attr, return-value]

    @property
    def _plain_optimizers(self) -> list[torch.optim.Optimizer]:
        return [getattr(optimizer, "_optimizer", optimizer) for optimizer in self.optimizers]

    @property
    def _options(self) -> StateDictOptions:
        # Frozen weights (under LoRA, the base model) are read again from where they came.
        frozen = any(not p.requires_grad for p in self._student.parameters())
        return StateDictOptions(ignore_frozen_params=frozen, strict=not frozen)


class OneDevice(ElasticCheckpoints, SingleDeviceStrategy):
    """One process on one device."""


class Replicated(ElasticCheckpoints, DDPStrategy):
    """DDP: every rank holds the whole model and averages gradients with the others.

    Args:
        timeout_minutes: how long a rank waits for the others before the run ends with the name of
            the rank that is stuck.
    """

    def __init__(self, timeout_minutes: float = TIMEOUT_MINUTES) -> None:
        super().__init__(timeout=timedelta(minutes=timeout_minutes), gradient_as_bucket_view=True)


class FullySharded(ElasticCheckpoints, ModelParallelStrategy):
    """FSDP2: parameters, gradients and optimizer state sharded over ranks.

    Args:
        replicas: 1 shards over all ranks (FSDP); n holds n copies, each sharded over
            ranks / n (HSDP): less traffic between nodes, more memory.
        reduce_dtype: of the sum of gradients over ranks, ``float32`` or ``bfloat16``.
        cpu_offload: keep parameters, gradients and optimizer state in host memory, and step
            there.
        timeout_minutes: as for :class:`Replicated`.
    """

    def __init__(
        self,
        replicas: int = 1,
        reduce_dtype: str = "float32",
        cpu_offload: bool = False,
        timeout_minutes: float = TIMEOUT_MINUTES,
    ) -> None:
        if reduce_dtype not in ("float32", "bfloat16"):
            raise UserError(
                f"strategy.strategy.reduce_dtype={reduce_dtype!r} must be float32 or bfloat16"
            )
        if replicas < 1:
            raise UserError(f"strategy.strategy.replicas={replicas} must be at least 1")
        super().__init__(1, 1, timeout=timedelta(minutes=timeout_minutes))
        self.replicas = replicas
        self.reduce_dtype = getattr(torch, reduce_dtype)
        self.cpu_offload = cpu_offload
        self._mesh: DeviceMesh | None = None

    def setup_environment(self) -> None:
        # Lightning's "auto" is one data-parallel group per node; ours is the whole world.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def mesh(self) -> DeviceMesh:
        """The ranks to shard over: one dimension, or (replicate, shard)."""
        if self._mesh is None:
            kind = self.root_device.type
            if self.replicas == 1:
                self._mesh = init_device_mesh(kind, (self.world_size,), mesh_dim_names=("shard",))
            else:
                shape = (self.replicas, self.world_size // self.replicas)
                self._mesh = init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard"))
        return self._mesh

    def model_to_device(self) -> None:
        if not self.cpu_offload:
            super().model_to_device()
            return
        for module in self.lightning_module.modules():  # type: ignore[union-attr]
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self.root_device))


def check_strategy(
    name: str, strategy: Any, device: torch.device, ranks: int, precision: str
) -> None:
    """Refuse choices that cannot work together.

    Raises:
        UserError: with the reason and the way out.
    """
    if device.type == "mps" and ranks > 1:
        raise UserError("Apple GPUs have no collectives: take strategy=single, trainer.devices=1")
    if not isinstance(strategy, FullySharded):
        return
    if name == "hsdp" and strategy.replicas == 1:
        raise UserError(
            "strategy=hsdp with one copy of the model is strategy=fsdp. Say how many copies: "
            "strategy.strategy.replicas=N (by default one a node), or take strategy=fsdp"
        )
    if strategy.replicas > 1 and (ranks % strategy.replicas or strategy.replicas >= ranks):
        raise UserError(
            f"strategy.strategy.replicas={strategy.replicas} does not divide {ranks} rank(s) into "
            "groups of several. Take strategy=fsdp (one copy), strategy=ddp (one copy a rank) or "
            "another number of copies"
        )
    if strategy.cpu_offload and device.type != "cuda":
        raise UserError(
            f"strategy.strategy.cpu_offload=true: on {device.type} all is in host memory already"
        )
    if strategy.reduce_dtype == torch.bfloat16 and precision != "bf16-mixed":
        raise UserError(
            f"strategy.strategy.reduce_dtype=bfloat16 goes with precision=bf16-mixed, not "
            f"{precision}"
        )
