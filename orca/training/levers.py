"""What trades time for memory, or the other way round: activation checkpointing, ``torch.compile``
and Liger's kernels, put on the decoder layers of a causal LM before it is sharded.

``layer.forward`` is replaced and not the layer: names of parameters stay, and hooks on the layer
(FSDP2 gathers its weights in one) run outside of what is compiled and what is computed again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.attention.varlen  # registers its operator
from torch._higher_order_ops import flex_attention
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from orca.errors import UserError
from orca.training.liger import use_liger

CHECKPOINTING = ("none", "selective", "full")
"""What is computed again in the backward pass: nothing, all but matrix products and attention, or
everything inside a decoder layer."""


@dataclass(frozen=True)
class Levers:
    """Memory and speed of a training step; none of them changes what is learned.

    Args:
        activation_checkpointing: one of :data:`CHECKPOINTING`.
        compile: ``torch.compile`` for every decoder layer.
        liger: Liger's Triton kernels for rotary embedding, RMS norm and SwiGLU (CUDA).
    """

    activation_checkpointing: str = "none"
    compile: bool = False
    liger: bool = False

    def __post_init__(self) -> None:
        if self.activation_checkpointing not in CHECKPOINTING:
            raise UserError(
                f"activation_checkpointing={self.activation_checkpointing!r} is unknown. Known: "
                f"{', '.join(CHECKPOINTING)}"
            )
        if self.compile and self.liger:
            raise UserError(
                "liger=true and compile=true both fuse norms, rotary embeddings and SwiGLU; take "
                "one of them"
            )

    def apply(self, causal_lm: Any, device: torch.device) -> None:
        """Put the levers on ``causal_lm``, which will run on ``device``."""
        if self.liger:
            use_liger(causal_lm, device)
        if self.activation_checkpointing == "none" and not self.compile:
            return
        if self.compile:
            # DDP would cut compiled graphs at its buckets, and cannot where a part of the graph is
            # computed again. Gradients are reduced by hooks between layers either way.
            torch._dynamo.config.optimize_ddp = False
            # A graph serves layers of a kind; some models alternate kinds.
            torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        for layer in causal_lm.base_model.layers:
            layer.forward = self._trained_forward(layer.forward)

    def _trained_forward(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """``plain`` with the levers where a gradient is wanted; without one (validation,
        generation with its cache) there is nothing to save."""
        levered = plain
        if self.activation_checkpointing != "none":
            levered = _checkpointed(plain, self.activation_checkpointing)
        if self.compile:
            levered = torch.compile(levered, fullgraph=True)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return (levered if torch.is_grad_enabled() else plain)(*args, **kwargs)

        return forward


def _checkpointed(forward: Callable[..., Any], mode: str) -> Callable[..., Any]:
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, keep_expensive)
    return partial(checkpoint, forward, **options)


def keep_expensive(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep the outputs of matrix products and attention kernels; the rest is cheap to repeat."""
    keep = op in _KEPT or _FLASH_ATTN.match(str(op)) is not None
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


_FLASH_ATTN = re.compile(r"flash_attn\w*\..*(fwd|forward)")
"""The flash-attn packages' own operators, which exist once such a package is imported."""

_KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_attention_math.default,
    torch.ops.torch_attn._varlen_attn.default,
    flex_attention,
}
