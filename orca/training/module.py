"""The LightningModule: one ``training_step`` is one optimizer step.

Optimization is manual. Lightning's own accumulation divides the loss by the number of
micro-batches, which is wrong when they have different numbers of target tokens; here the sum over
target tokens is divided by the target tokens of the whole step, over all micro-batches and ranks.
1 rank × 4 micro-batches, 2 × 2 and 4 × 1 give the same gradient.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from orca.errors import UserError
from orca.stream import IGNORED, MicroBatch, StepBatch
from orca.training.attention import choose_backend, implementation
from orca.training.loggers import log_step
from orca.training.optimizer import AdamW, Schedule
from orca.training.pretrained import Pretrained, prepare_model
from orca.training.ranks import is_rank_zero
from orca.training.sharding import load_shards, shard
from orca.training.student import Student


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient norm is no number; names the examples of the step."""


class ExplanationTuning(L.LightningModule):
    """Trains a student on explanation traces (section 3.2 of the paper).

    Args:
        pretrained: where the student comes from.
        tokenizer: prepared by the template.
        start_from: a ``hf/`` directory of an earlier stage, in place of the pretrained weights.
        attention: a backend's name, or ``auto``.
        gradient_clip: largest norm of the whole gradient; 0 for none.
        lr_scale: factor on the optimizer's learning rate for this stage.
        loss_chunk: target positions whose logits exist at once.
    """

    def __init__(
        self,
        *,
        pretrained: Pretrained,
        tokenizer: Any,
        optimizer: AdamW,
        scheduler: Schedule,
        attention: str = "auto",
        gradient_clip: float = 1.0,
        lr_scale: float = 1.0,
        loss_chunk: int = 1024,
        start_from: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not gradient_clip >= 0 or loss_chunk < 1:
            raise UserError(
                f"gradient_clip={gradient_clip} must not be negative and loss_chunk={loss_chunk} "
                "must be at least 1"
            )
        self.automatic_optimization = False
        self.pretrained = pretrained
        self.tokenizer = tokenizer
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.attention = attention
        self.gradient_clip = gradient_clip
        self.lr_scale = lr_scale
        self.loss_chunk = loss_chunk
        self.start_from = start_from
        self.seed = seed
        self.backend = ""
        self._validation = (0.0, 0)

    def configure_model(self) -> None:
        if hasattr(self, "student"):
            return
        source = self.pretrained
        if self.start_from is not None:
            source = Pretrained(source.name, str(self.start_from), source.lr)
        device = self.trainer.strategy.root_device if self._trainer else self.device
        self.backend, reason = choose_backend(self.attention, device)
        if is_rank_zero():
            print(f"attention: {self.backend} ({reason})", flush=True)
        sharded = bool(self._trainer) and isinstance(self.trainer.strategy, ModelParallelStrategy)
        on_meta = sharded and source.path != "random"
        model = source.meta_model() if on_meta else source.model(self.seed)
        prepare_model(model, self.tokenizer, self.pretrained.embedding_multiple)
        model.set_attn_implementation(implementation(self.backend))
        self.student = Student(model, self.loss_chunk).train()
        if sharded:
            half = torch.bfloat16 if "bf16" in str(self.trainer.precision) else None
            shard(self.student, self.device_mesh["data_parallel"], half)  # type: ignore[index]
        if on_meta:
            load_shards(model, source.directory(), device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer.build(self.student, self.lr_scale)

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        # Seeded by the step and not by what came before it, so that dropout resumes exactly too.
        torch.manual_seed(self.seed + 1_000_003 * self.trainer.global_step + self.global_rank)
        optimizer = self.optimizers()
        total = torch.zeros((), device=self.device)
        for micro in batch.micro_batches:
            loss = self.student(micro) / batch.num_targets
            # Ranks average their gradients; the loss is already divided by all ranks' targets.
            self.manual_backward(loss * self.trainer.world_size)
            total += loss.detach()
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        norm = torch.nn.utils.clip_grad_norm_(
            self.student.parameters(), self.gradient_clip or float("inf")
        )
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        self._stop_if_not_finite(total, norm, batch)
        factor = self.scheduler(self.progress(batch))
        for group in optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = self.optimizer.lr * self.lr_scale * factor
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.trainer.datamodule.step_done(batch)  # type: ignore[attr-defined]
        log_step(
            self,
            {
                "train/loss": total,
                "train/gradient_norm": norm,
                "train/lr": self.optimizer.lr * self.lr_scale * factor,
                "data/progress": batch.progress[1],
            },
        )

    def progress(self, batch: StepBatch) -> float:
        """Where the middle of the step stands in the run, by rows read or, where that ends the
        run sooner, by ``trainer.max_steps``."""
        by_rows = sum(batch.progress) / 2
        by_steps = (self.trainer.global_step + 0.5) / max(self.trainer.max_steps, 1)
        return max(by_rows, by_steps) if self.trainer.max_steps > 0 else by_rows

    def on_validation_epoch_start(self) -> None:
        self._validation = (0.0, 0)

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        total, count = self._validation
        targets = int((batch.labels != IGNORED).sum())
        self._validation = (total + float(self.student(batch)), count + targets)

    def on_validation_epoch_end(self) -> None:
        sums = torch.tensor(self._validation, dtype=torch.float64)
        if self.device.type != "mps":  # which has no float64
            sums = sums.to(self.device)
        total, count = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        self.log("val/loss", total / max(count, 1), prog_bar=True)

    def _stop_if_not_finite(self, loss: torch.Tensor, norm: torch.Tensor, batch: StepBatch) -> None:
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            return
        raise NonFiniteLoss(
            f"step {self.trainer.global_step}: loss {float(loss)}, gradient norm {float(norm)}. "
            f"The step's examples are: {', '.join(batch.example_ids)}. Nothing was updated by it; "
            "look at these traces, and train again with a lower optimizer.lr or without them"
        )
