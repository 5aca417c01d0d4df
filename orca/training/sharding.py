"""FSDP2: parameters, gradients and optimizer state sharded over all ranks.

The model is created on the meta device and each rank reads its own rows of every weight from the
safetensors files, so no rank ever holds the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from orca.errors import UserError
from orca.stream.batches import idle_micro_batch
from orca.training.student import Student
from orca.training.weights import open_weights, weight_files


def shard(
    student: Student,
    mesh: DeviceMesh,
    compute_dtype: torch.dtype | None,
    reduce_dtype: torch.dtype = torch.float32,
    cpu_offload: bool = False,
) -> None:
    """Shard every decoder layer, then the rest, over ``mesh``.

    Args:
        mesh: of one dimension, or of two: (replicate, shard).
        compute_dtype: of the gathered parameters; None keeps the parameters' own.
        reduce_dtype: of the sum of gradients over ranks; the optimizer gets float32 either way.
        cpu_offload: keep the shards in host memory.
    """
    options: dict[str, Any] = {"mesh": mesh}
    if compute_dtype is not None:
        options["mp_policy"] = MixedPrecisionPolicy(compute_dtype, reduce_dtype)
    if cpu_offload:
        options["offload_policy"] = CPUOffloadPolicy()
    for layer in student.causal_lm.base_model.layers:
        fully_shard(layer, **options)
    fully_shard(student, **options)


def load_shards(model: Any, directory: Path, device: torch.device) -> None:
    """Give a sharded model on the meta device its weights, each rank reading its own rows.

    Rows that the file does not have (embeddings grown for added tokens) become the mean of the
    rows that it has.

    Raises:
        UserError: a weight or its file is missing or cut off, or one has another shape.
    """
    files = weight_files(directory)
    missing = [name for name, _ in model.named_parameters() if name not in files]
    if missing:
        raise UserError(
            f"{directory} has no weight {missing[0]!r} ({len(missing)} of the model's are "
            "missing). If its files name weights differently, strategy=single can load it"
        )
    model.to_empty(device=device)
    for name, parameter in model.named_parameters():
        with open_weights(files[name]) as file:
            _read_rows(file.get_slice(name), parameter, f"weight {name!r} in {files[name]}")
    _compute_buffers(model, device)


@contextmanager
def whole_root(student: Student) -> Iterator[None]:
    """Inside, embeddings, last norm and ``lm_head`` are whole on every rank, so that the model can
    be called past the student, as generation does. Layers gather themselves as they run."""
    if not isinstance(student, FSDPModule):
        yield
        return
    # FSDP2 wants its first pass to go through the root, and generation's inference mode would make
    # tensors that training cannot use.
    first = next(student.parameters())
    device = first.device_mesh.device_type if isinstance(first, DTensor) else first.device
    with torch.no_grad():
        student(idle_micro_batch(0).to(device))
    student.unshard()
    try:
        yield
    finally:
        student.reshard()


def _read_rows(source: Any, parameter: nn.Parameter, name: str) -> None:
    shape = source.get_shape()
    if list(parameter.shape[1:]) != shape[1:] or parameter.shape[0] < shape[0]:
        raise UserError(f"{name} has shape {shape}, the model {list(parameter.shape)}")
    target, first, rows = parameter.data, 0, parameter.shape[0]
    if isinstance(target, DTensor):
        local, offset = compute_local_shape_and_global_offset(
            target.shape, target.device_mesh, target.placements
        )
        target, first, rows = target.to_local(), offset[0], local[0] if local else 0
    have = max(0, min(rows, shape[0] - first))
    with torch.no_grad():
        if have:
            target[:have].copy_(source[first : first + have])
        if have < rows:
            target[have:rows].copy_(_mean_row(source, shape[0]).expand(rows - have, -1))


def _mean_row(source: Any, rows: int) -> torch.Tensor:
    total = torch.zeros(source.get_shape()[1], dtype=torch.float64)
    for start in range(0, rows, 4096):
        total += source[start : start + 4096].double().sum(dim=0)
    return (total / rows).float()


def _compute_buffers(model: Any, device: torch.device) -> None:
    # Buffers that no file holds (rotary frequencies) are computed by the constructors, which ran
    # on the meta device.
    for module in model.modules():
        if module._non_persistent_buffers_set:
            fresh = type(module)(model.config)
            for name in module._non_persistent_buffers_set:
                setattr(module, name, getattr(fresh, name).to(device))
            if hasattr(module, "original_inv_freq"):
                module.original_inv_freq = module.inv_freq
