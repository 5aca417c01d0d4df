"""The LightningModule: one ``training_step`` is one optimizer step.

Optimization is manual. Lightning's own accumulation divides the loss by the number of
micro-batches, which is wrong when they have different numbers of target tokens; here the sum over
target tokens is divided by the target tokens of the whole step, over all micro-batches and ranks.
1 rank × 4 micro-batches, 2 × 2 and 4 × 1 give the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed.tensor import DTensor

from orca.errors import UserError
from orca.stream import IGNORED, MicroBatch, StepBatch
from orca.training.attention import choose_backend, implementation
from orca.training.guards import NonFiniteLoss, report_incident
from orca.training.levers import Levers
from orca.training.loggers import log_step
from orca.training.optimizer import AdamW, Schedule, set_lr
from orca.training.pretrained import Pretrained, prepare_model
from orca.training.ranks import gather_objects, is_rank_zero
from orca.training.sharding import load_shards, shard
from orca.training.strategies import FullySharded, Replicated
from orca.training.student import Student


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
        max_skipped_steps: steps in a row whose loss or gradient is no number before the run ends;
            until then each is skipped and its examples are written to ``incidents.jsonl``.
        levers: what trades time for memory.
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
        max_skipped_steps: int = 3,
        levers: Levers = Levers(),  # noqa: B008 (it cannot be changed)
        start_from: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not gradient_clip >= 0 or loss_chunk < 1:
            raise UserError(
                f"gradient_clip={gradient_clip} must not be negative and loss_chunk={loss_chunk} "
                "must be at least 1"
            )
        if max_skipped_steps < 1:
            raise UserError(f"max_skipped_steps={max_skipped_steps} must be at least 1")
        self.automatic_optimization = False
        self.pretrained = pretrained
        self.tokenizer = tokenizer
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.attention = attention
        self.gradient_clip = gradient_clip
        self.lr_scale = lr_scale
        self.loss_chunk = loss_chunk
        self.levers = levers
        self.start_from = start_from
        self.max_skipped_steps = max_skipped_steps
        self.seed = seed
        self.backend = ""
        self.export: Callable[..., Any] = _no_export  # set by the program
        self.stop_requested = False  # on this rank
        self.stopping = False  # agreed by all ranks, in the last step
        self.skipped = False  # the last step
        self.skipped_steps = 0
        self._skipped_in_a_row = 0
        self._validation: dict[str, torch.Tensor] = {}
        self.validated_after = -1  # optimizer steps

    def configure_model(self) -> None:
        if hasattr(self, "student"):
            return
        source = self.pretrained
        if self.start_from is not None:
            source = Pretrained(source.name, str(self.start_from), source.lr)
        device = self.trainer.strategy.root_device if self._trainer else self.device
        self.backend, reason = choose_backend(
            self.attention, device, self.levers.compile, self._half
        )
        if is_rank_zero():
            print(f"attention: {self.backend} ({reason})", flush=True)
        strategy = self.trainer.strategy if self._trainer else None
        sharded = isinstance(strategy, FullySharded)
        on_meta = sharded and source.path != "random"
        model = source.meta_model() if on_meta else source.model(self.seed)
        prepare_model(model, self.tokenizer, self.pretrained.embedding_multiple)
        model.set_attn_implementation(implementation(self.backend))
        if self.pretrained.adapter is not None:
            assert not sharded  # refused by Lora.check
            base = self.start_from or self.pretrained.hub_id or self.pretrained.path
            self.pretrained.adapter.put_on(model, str(base), self.seed, self._half)
        self.levers.apply(model, device)
        self.student = Student(model, self.loss_chunk).train()
        if isinstance(strategy, FullySharded):
            compute = torch.bfloat16 if self._half else None
            shard(self.student, strategy.mesh, compute, strategy.reduce_dtype, strategy.cpu_offload)
            if on_meta:
                home = torch.device("cpu") if strategy.cpu_offload else device
                load_shards(model, source.directory(), home)

    @property
    def _half(self) -> bool:
        """Whether computation is in bf16."""
        return self._trainer is not None and "bf16" in str(self.trainer.precision)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer.build(self.student, self.lr_scale)

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        # Seeded by the step and not by what came before it, so that dropout resumes exactly too.
        torch.manual_seed(self.seed + 1_000_003 * self.trainer.global_step + self.global_rank)
        optimizer = self.optimizers()
        losses = self._backward(batch)
        sums = torch.stack([torch.stack(losses).sum(), losses[0].new_tensor(self.stop_requested)])
        total, stop = self.trainer.strategy.reduce(sums, reduce_op="sum").unbind()
        norm = torch.nn.utils.clip_grad_norm_(
            self.student.parameters(), self.gradient_clip or float("inf")
        )
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        lr = self.optimizer.lr * self.lr_scale * self.scheduler(self.progress(batch))
        # The step's one synchronisation with the device.
        is_finite, self.stopping = torch.stack(
            [torch.isfinite(total) & torch.isfinite(norm), stop > 0]
        ).tolist()
        self.skipped = not is_finite
        if is_finite:
            set_lr(optimizer, lr)  # type: ignore[arg-type]
            optimizer.step()  # type: ignore[union-attr]
            self._skipped_in_a_row = 0
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.trainer.datamodule.step_done(batch)  # type: ignore[attr-defined]
        if not is_finite:
            self._skip(float(total), float(norm), losses, batch)
            return
        log_step(
            self,
            {
                "train/loss": total,
                "train/gradient_norm": norm,
                "train/lr": lr,
                "data/progress": batch.progress[1],
            },
        )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # A hook of the module comes after those of all callbacks: they have seen this step.
        if self.stopping:
            raise SIGTERMException

    def _backward(self, batch: StepBatch) -> list[torch.Tensor]:
        """Gradients of the step; this rank's part of its loss, by micro-batch."""
        losses = []
        for number, micro in enumerate(batch.micro_batches, start=1):
            loss = self.student(micro) / batch.num_targets
            strategy = self.trainer.strategy
            # FSDP reduces in every micro-batch: to wait would keep whole gradients.
            waits = isinstance(strategy, Replicated) and number < len(batch.micro_batches)
            with strategy.block_backward_sync() if waits else nullcontext():  # type: ignore[attr-defined]
                # Ranks average their gradients; the loss is divided by all ranks' targets.
                self.manual_backward(loss * self.trainer.world_size)
            losses.append(loss.detach())
        return losses

    def _skip(self, loss: float, norm: float, losses: list[torch.Tensor], batch: StepBatch) -> None:
        """Report a step that could not be taken; end the run after too many in a row."""
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        bad = [
            name
            for value, micro in zip(losses, batch.micro_batches, strict=True)
            if not torch.isfinite(value)
            for name in micro.example_ids
        ]
        ids = [name for part in gather_objects(bad) for name in part] or batch.example_ids
        step = self.trainer.global_step
        report_incident(
            Path(self.trainer.default_root_dir),
            f"step {step} was skipped: loss {loss}, gradient norm {norm}",
            {"kind": "not finite", "step": step, "loss": loss, "gradient_norm": norm},
            ids,
        )
        skipped = {"guards/skipped_steps": float(self.skipped_steps)}
        self.log_dict(skipped, logger=False)
        for logger in self.loggers:
            logger.log_metrics(skipped, max(step - 1, 0))
        if self._skipped_in_a_row == self.max_skipped_steps:
            raise NonFiniteLoss(
                f"step {step}: loss {loss}, gradient norm {norm}, and no number either in the "
                f"{self._skipped_in_a_row - 1} step(s) tried before it. Nothing was updated by "
                "these steps; their examples are in incidents.jsonl. Go on from the last "
                "checkpoint with resume=auto and a lower optimizer.lr or a larger "
                "max_skipped_steps, or start again without these examples (run=NAME)"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped"] = (self.skipped_steps, self._skipped_in_a_row)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped_steps, self._skipped_in_a_row = checkpoint["skipped"]

    def progress(self, batch: StepBatch) -> float:
        """Where the middle of the step stands in the run, by rows read or, where that ends the
        run sooner, by ``trainer.max_steps``."""
        by_rows = sum(batch.progress) / 2
        by_steps = (self.trainer.global_step + 0.5) / max(self.trainer.max_steps, 1)
        return max(by_rows, by_steps) if self.trainer.max_steps > 0 else by_rows

    def on_validation_epoch_start(self) -> None:
        packs = self.trainer.datamodule.held_out_packs()  # type: ignore[attr-defined]
        self._validation = {group: torch.zeros(2, dtype=torch.float64) for group in packs}

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        targets = int((batch.labels != IGNORED).sum())
        self._validation[batch.group] += torch.tensor(
            [float(self.student(batch)), targets], dtype=torch.float64
        )

    def on_validation_epoch_end(self) -> None:
        """Log the loss per target token, of all validation traces and of each group."""
        sums = torch.stack(list(self._validation.values()))
        if self.device.type != "mps":  # which has no float64
            sums = sums.to(self.device)
        sums = self.trainer.strategy.reduce(sums, reduce_op="sum").cpu()
        total, count = sums.sum(dim=0).tolist()
        self.validated_after = self.trainer.global_step
        self.log("val/loss", total / max(count, 1), prog_bar=True)
        if len(sums) > 1:
            for group, (own, targets) in zip(self._validation, sums.tolist(), strict=True):
                if targets:  # none: trainer.limit_val_batches ended before this group
                    self.log(f"val/loss/{group}", own / targets)


def _no_export(*_: Any) -> None:
    raise AssertionError("no one has said how this module is exported")
