"""Checkpoints that are whole or absent, and the newest of them."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from orca.errors import UserError


class Checkpoints(Checkpoint):
    """A resumable checkpoint every n steps and at the end, and the weights of the best step.

    Lightning's ``ModelCheckpoint`` has a path of its own for manual optimization, which looks for
    model states from before the step; this one saves what is there after it.

    Args:
        directory: the stage's; files go to ``checkpoints/step00000050.ckpt`` and ``best.ckpt``.
        every_n_steps: optimizer steps between resumable checkpoints; 0 for the last alone.
        keep: resumable checkpoints kept.
        best: keep the weights of the lowest held-out loss.
    """

    def __init__(
        self, directory: str, every_n_steps: int = 50, keep: int = 1, best: bool = True
    ) -> None:
        if keep < 1 or every_n_steps < 0:
            raise UserError(
                f"callbacks.checkpoints: keep={keep} must be at least 1 and "
                f"every_n_steps={every_n_steps} not negative"
            )
        self.directory = Path(directory) / "checkpoints"
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.best = best
        self._saved_step = -1

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.best or trainer.global_step == 0:  # the pretrained model competes not
            return
        loss = float(trainer.callback_metrics.get("val/loss", float("inf")))
        # The best loss so far lies beside the weights and not in a checkpoint: a checkpoint is
        # written before the validation of its own step.
        record = self.directory / "best.json"
        best = json.loads(record.read_text())["loss"] if record.exists() else float("inf")
        if trainer.strategy.broadcast(loss < best):
            trainer.save_checkpoint(self.directory / "best.ckpt", weights_only=True)
            if trainer.is_global_zero:
                record.write_text(json.dumps({"loss": loss, "step": trainer.global_step}))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        # Lightning acts on SIGTERM between steps; Ctrl-C may strike inside the optimizer.
        if isinstance(exception, SIGTERMException):
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Save the state after ``trainer.global_step`` steps and drop what is too old."""
        if trainer.global_step != self._saved_step:
            trainer.save_checkpoint(self.directory / f"step{trainer.global_step:08d}.ckpt")
            self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            for _, old in _resumable(self.directory)[: -self.keep]:
                if old.is_dir():  # a sharded one
                    shutil.rmtree(old)
                else:
                    old.unlink()


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, to disk, then renames: a killed write leaves no checkpoint."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)


def newest_checkpoint(directory: Path) -> tuple[int, Path] | None:
    """(steps done, file) of the latest resumable checkpoint, or None."""
    found = _resumable(directory)
    return found[-1] if found else None


def _resumable(directory: Path) -> list[tuple[int, Path]]:
    matches = [(re.fullmatch(r"step(\d+)\.ckpt", f.name), f) for f in directory.glob("step*")]
    return sorted((int(match[1]), file) for match, file in matches if match)
