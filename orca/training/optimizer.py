"""AdamW with the usual exceptions from weight decay, and learning rate schedules.

A schedule is a function of progress, the share of the run's rows that has been read. The number
of optimizer steps is known only when all data is packed, the number of rows at once; so the
schedule ends exactly with the data, keeps no state and resumes exactly.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

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

    def build(self, module: nn.Module, lr_scale: float = 1.0) -> torch.optim.Optimizer:
        """An optimizer over the parameters of ``module`` that require a gradient."""
        return torch.optim.AdamW(
            self._groups(module),
            lr=self.lr * lr_scale,
            betas=self.betas,
            eps=self.eps,
            fused=True,
        )

    def _groups(self, module: nn.Module) -> list[dict[str, Any]]:
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
        return [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]


class AdamW8bit(AdamW):
    """AdamW whose two moments are kept in 8 bits, in blocks of 256 with a scale each (``torchao``,
    after arXiv 2110.02861); parameters of less than 4,096 values or no multiple of 256 keep theirs
    in float32.

    Raises:
        UserError: the package torchao is not installed.
    """

    def __init__(
        self,
        lr: float,
        betas: Sequence[float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay)
        if importlib.util.find_spec("torchao") is None:
            raise UserError(
                "optimizer=adamw_8bit: the package torchao is not installed. Install it (pip "
                "install -e '.[memory]'), or take optimizer=adamw"
            )
        # Here and not in build: importing it also lets torch.load know its state, and a checkpoint
        # is read before optimizers are built.
        import torchao.optim

        _let_checkpoints_copy_moments()
        self._optimizer = torchao.optim.AdamW8bit

    def build(self, module: nn.Module, lr_scale: float = 1.0) -> torch.optim.Optimizer:
        """As :meth:`AdamW.build`, with the same groups."""
        return self._optimizer(
            self._groups(module), lr=self.lr * lr_scale, betas=self.betas, eps=self.eps
        )


def _let_checkpoints_copy_moments() -> None:
    """Give torchao's moments the two operators with which the asynchronous writer of checkpoints
    makes room for its copy (of whole and of sharded tensors), and which they lack."""
    from torchao.optim.subclass_8bit import OptimState8bit

    @OptimState8bit.implements([torch.ops.aten.zeros_like.default, torch.ops.aten.clone.default])
    def _(function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        moment, options = args[0], {k: v for k, v in kwargs.items() if k == "device"}
        codes, scale = (function(tensor, **options) for tensor in (moment.codes, moment.scale))
        # The map from codes to values stays: copying into the moment does not set it.
        qmap = moment.qmap.to(options.get("device"))
        return OptimState8bit(codes, scale, qmap, moment.signed, dtype=moment.dtype)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups; torchao keeps it in a tensor that its compiled step
    reads, and refuses a float."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


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
