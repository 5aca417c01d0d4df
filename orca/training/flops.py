"""What training costs in arithmetic, and what a device can do: the two halves of MFU.

MFU (model FLOPs utilisation) divides the FLOPs that the mathematics of a step asks for by what the
devices could have done in its time. Conventions:

- A multiplication and an addition are two FLOPs. Matrix products and attention count; norms,
  softmax, rotary embeddings and the optimizer do not.
- A weight costs 2 FLOPs a token forward, 2 for the gradient of its input and, where it is trained,
  2 for its own gradient: 6, or 4 for a frozen weight (LoRA's base).
- ``lm_head`` runs at *target* positions alone, so it counts for target tokens alone.
- Attention is causal and stays within examples: Σ length² / 2 pairs of positions over the examples
  of a step, 4 FLOPs a pair and head dimension forward, three times that with the backward pass.
- Padding, tokens that no rank reads, and what activation checkpointing or a flash kernel computes
  twice do not count (with them it would be HFU, hardware FLOPs utilisation).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from orca.errors import UserError


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of forward and backward pass, per token, per target token and per length².

    ``per_square`` times Σ length² over the examples is their attention.
    """

    per_token: float
    per_target: float
    per_square: float

    def of(self, tokens: float, targets: float, squares: float) -> float:
        """FLOPs for ``tokens`` of which ``targets`` are trained on, in examples whose squared
        lengths sum to ``squares``."""
        return self.per_token * tokens + self.per_target * targets + self.per_square * squares


def model_flops(causal_lm: Any) -> ModelFlops:
    """Count a causal LM of `transformers`; weights may be on the meta device or sharded.

    Raises:
        UserError: the architecture computes with weights that are not linear layers in
            ``base_model.layers``, or not with all of them for every token (experts).
    """
    config = causal_lm.config
    layers = decoder_layers(causal_lm)
    linear = linear_weights(layers)
    known = {id(weight) for weight in linear}
    other = [n for n, p in layers.named_parameters() if p.ndim > 1 and id(p) not in known]
    experts = [name for name in _EXPERTS if getattr(config, name, None) is not None]
    if other or experts:
        raise UserError(
            f"the FLOPs of model_type={config.model_type} are not known here "
            f"({', '.join(other[:2] or experts)})"
        )
    head = causal_lm.get_output_embeddings().weight
    return ModelFlops(
        per_token=float(sum(_per_use(weight) for weight in linear)),
        per_target=float(_per_use(head)),
        per_square=float(len(layers) * 3 * 4 * attention_width(config) / 2),
    )


def linear_weights(module: nn.Module) -> list[torch.Tensor]:
    """The weights of the linear layers in ``module``."""
    return [inner.weight for inner in module.modules() if isinstance(inner, nn.Linear)]


def decoder_layers(causal_lm: Any) -> nn.ModuleList:
    """The model's decoder layers.

    Raises:
        UserError: it has none where `transformers` puts them today.
    """
    base = causal_lm.base_model
    layers = getattr(base, "layers", None) or getattr(getattr(base, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"model_type={causal_lm.config.model_type} has no list of decoder layers")
    return layers


def attention_width(config: Any) -> int:
    """Query heads × head dimension; grouped-query attention computes as many products."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_attention_heads * head)


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def _per_use(weight: torch.Tensor) -> int:
    return (6 if weight.requires_grad else 4) * weight.numel()


@dataclass(frozen=True)
class Device:
    """A GPU model.

    Args:
        cuda_name: pattern for the whole of ``torch.cuda.get_device_name()``. A slice of a GPU
            (MIG) has a longer name and so no peak.
        peak: dense bf16 FLOP/s with float32 accumulation.
        memory_gib: what PyTorch sees of the memory, rounded down.
    """

    cuda_name: str
    peak: float
    memory_gib: float


# Vendors print tensor-core peaks with 2:4 sparsity, which nobody trains with: halved here. All are
# NVIDIA's own: the data sheets of A100, H100 (1,979, 1,513 and 1,671 TFLOP/s with sparsity for
# SXM, PCIe and NVL), H200 (1,979; NVL 1,671), L4 (242), L40S (362.05 dense), A10 (125 dense), A40
# (149.7 dense), HGX B200 (36 PFLOP/s with sparsity for eight) and the white paper of the Ada
# architecture (GeForce RTX 4090: 165.2 dense with float32 accumulation; 330.3 is with float16).
DEVICES: dict[str, Device] = {
    "a100-40gb": Device(r"(NVIDIA )?A100-(SXM4|PCIE)-40GB", 312e12, 39),
    "a100-80gb": Device(r"(NVIDIA )?A100[- ](SXM4-80GB|80GB PCIe)", 312e12, 79),
    "h100": Device(r"NVIDIA H100 80GB HBM3", 989e12, 79),
    "h100-pcie": Device(r"NVIDIA H100 PCIe", 756e12, 79),
    "h100-nvl": Device(r"NVIDIA H100 NVL", 835.5e12, 93),
    "h200": Device(r"NVIDIA H200", 989e12, 139),
    "h200-nvl": Device(r"NVIDIA H200 NVL", 835.5e12, 139),
    "b200": Device(r"NVIDIA B200", 2250e12, 178),
    "l4": Device(r"NVIDIA L4", 121e12, 22),
    "l40s": Device(r"NVIDIA L40S", 362e12, 44),
    "a10": Device(r"NVIDIA A10", 125e12, 22),
    "a40": Device(r"NVIDIA A40", 149.7e12, 44),
    "rtx-4090": Device(r"NVIDIA GeForce RTX 4090", 165.2e12, 23),
}
"""By the names that ``planning.device`` takes."""


def known_device(name: str) -> Device:
    """The device called ``name`` in :data:`DEVICES`."""
    if name not in DEVICES:
        raise UserError(f"planning.device={name!r} is unknown. Known: {', '.join(DEVICES)}")
    return DEVICES[name]


def peak_flops(cuda_name: str) -> float | None:
    """Dense bf16 FLOP/s of the device that ``torch.cuda.get_device_name()`` calls so, or None."""
    peaks = (d.peak for d in DEVICES.values() if re.fullmatch(d.cuda_name, cuda_name))
    return next(peaks, None)


def mfu_reference(device: torch.device, precision: str) -> tuple[float | None, str]:
    """The FLOP/s of one device that MFU is measured against, or None, and a sentence on it.

    Args:
        precision: Lightning's name.
    """
    if device.type != "cuda":
        return None, f"no MFU: no peak is known for this {device.type}"
    name = torch.cuda.get_device_name(device)
    if not precision.startswith("bf16"):
        return None, f"no MFU: the known peaks are for bf16, this is {precision}"
    peak = peak_flops(name)
    if peak is None:
        return None, f"no MFU: the dense bf16 peak of {name} is not known (orca/training/flops.py)"
    return peak, f"MFU against {peak / 1e12:g} TFLOP/s ({name}, dense bf16)"
