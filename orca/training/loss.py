"""Cross-entropy over target positions, without logits for any other position.

Hidden states of target positions are gathered first; then ``lm_head`` and the loss run in chunks
that compute their gradients in the same sweep, so no logits outlive their chunk; a frozen
``lm_head`` (LoRA) costs no gradient. The result is a sum: dividing by the target tokens of the
whole optimizer step is the caller's part.
"""

from __future__ import annotations

from typing import Any

import torch


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Σ cross-entropy of ``hidden @ weight.T`` against ``targets``, gradients at once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        chunk: int,
        with_gradient: bool,
    ) -> torch.Tensor:
        for_hidden, for_weight = (with_gradient and need for need in ctx.needs_input_grad[:2])
        # Matrix products in the precision that autocast gives linear layers; softmax, sum and
        # the weight's gradient in float32 (bf16 sums over chunks lose small terms).
        compute = hidden.dtype
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            compute = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            matrix = weight.to(compute)
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            hidden_gradient = torch.empty_like(hidden) if for_hidden else None
            weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
            for start in range(0, len(targets), chunk):
                part = hidden[start : start + chunk].to(compute)
                labels = targets[start : start + chunk]
                logits = (part @ matrix.T).float()
                log_normaliser = logits.logsumexp(dim=-1)
                total += (log_normaliser - logits.gather(1, labels[:, None])[:, 0]).sum()
                if hidden_gradient is None and weight_gradient is None:
                    continue
                gradient = logits.sub_(log_normaliser[:, None]).exp_()
                gradient[torch.arange(len(labels), device=labels.device), labels] -= 1.0
                gradient = gradient.to(compute)
                if hidden_gradient is not None:
                    hidden_gradient[start : start + chunk] = gradient @ matrix
                if weight_gradient is not None:
                    weight_gradient += gradient.T @ part
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        for_hidden = for_weight = None
        if hidden_gradient is not None:
            for_hidden = hidden_gradient * gradient.to(hidden_gradient.dtype)
        if weight_gradient is not None:
            for_weight = (weight_gradient * gradient).to(ctx.weight_dtype)
        return for_hidden, for_weight, None, None, None


def target_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int = 1024
) -> torch.Tensor:
    """Sum of the cross-entropy over target positions, a float32 scalar.

    Args:
        hidden: final hidden states of the target positions [n, d]; n may be 0.
        weight: the output embedding [V, d].
        targets: token ids [n].
        chunk: positions whose logits exist at once.
    """
    if not len(targets):
        # A zero that hangs in the graph: under sharding every rank must run a backward pass.
        return hidden.float().sum() * 0.0 + weight.float().sum() * 0.0
    return _ChunkedCrossEntropy.apply(hidden, weight, targets, chunk, torch.is_grad_enabled())
