"""AdamW with the usual exceptions from weight decay, and learning rate schedules.

A schedule is a function of progress, the share of the run's rows that has been read. The number
of optimizer steps is known only when all data is packed, the number of rows at once; so the
schedule ends exactly with the data, keeps no state and resumes exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from orca.errors import UserError


class AdamW:
    """Builds ``torch.optim.AdamW`` (fused); norms, biases and embeddings get no decay."""

    def __init__(
        self,
        lr: float,
        betas: Sequence[float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        if not isinstance(lr, (int, float)) or not 0 <= lr < float("inf"):
            raise UserError(f"optimizer.lr={lr} must be a number that is not negative")
        self.lr = lr
        self.betas = (betas[0], betas[1])
        self.eps = eps
        self.weight_decay = weight_decay

    def build(self, module: nn.Module, lr_scale: float = 1.0) -> torch.optim.AdamW:
        """An optimizer over the parameters of ``module`` that require a gradient."""
        embeddings = {
            id(parameter)
            for layer in module.modules()
            if isinstance(layer, nn.Embedding)
            for parameter in layer.parameters()
        }
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in module.parameters():
            if parameter.requires_grad:
                plain = parameter.ndim < 2 or id(parameter) in embeddings
                (others if plain else decayed).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            groups, lr=self.lr * lr_scale, betas=self.betas, eps=self.eps, fused=True
        )


class Schedule:
    """Factor of the learning rate at ``progress`` in [0, 1]; rises linearly over ``warmup``.

    Args:
        warmup: share of the run.
        final: factor at the end of the run.
    """

    def __init__(self, warmup: float = 0.03, final: float = 0.0) -> None:
        if not 0 <= warmup < 1 or not 0 <= final <= 1:
            raise UserError(
                f"scheduler: warmup={warmup} must lie in [0, 1), final={final} in [0, 1]"
            )
        self.warmup = warmup
        self.final = final

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        done = (progress - self.warmup) / (1 - self.warmup)
        return self.final + (1 - self.final) * self.decay(min(done, 1.0))

    def decay(self, done: float) -> float:
        """From 1 at ``done`` = 0 to 0 at 1."""
        raise NotImplementedError


class Cosine(Schedule):
    """Half a cosine from 1 to ``final``."""

    def decay(self, done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))


class Linear(Schedule):
    """A straight line from 1 to ``final``."""

    def decay(self, done: float) -> float:
        return 1 - done


class Constant(Schedule):
    """1 after the warm-up."""

    def __init__(self, warmup: float = 0.03) -> None:
        super().__init__(warmup, final=1.0)

    def decay(self, done: float) -> float:
        return 1.0
