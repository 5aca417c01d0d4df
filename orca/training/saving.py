"""When a run saves: every n steps, at the end, when told to stop; and its best weights."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from orca.errors import UserError
from orca.training.checkpoint import CheckpointWriter
from orca.training.export import HANDOFF_FILE
from orca.training.ranks import on_rank_zero
from orca.training.weights import recover

CHECKPOINTS = "checkpoints"


class Checkpoints(Checkpoint):
    """A resumable checkpoint every n steps and at the end, and the weights of the best step.

    Lightning's ``ModelCheckpoint`` has a path of its own for manual optimization, which looks for
    model states from before the step; this one saves what is there after it.

    Args:
        directory: the stage's; a checkpoint is ``checkpoints/step00000050/``.
        every_n_steps: optimizer steps between checkpoints; 0 for the last alone.
        keep: checkpoints kept. With one alone there is none to go back to when it is damaged.
        asynchronous: write in the background, from a copy in host memory.
        best: keep the weights of the lowest held-out loss, as a model directory ``best/``.
    """

    def __init__(
        self,
        directory: str,
        every_n_steps: int = 50,
        keep: int = 2,
        asynchronous: bool = True,
        best: bool = True,
    ) -> None:
        if keep < 1 or every_n_steps < 0:
            raise UserError(
                f"callbacks.checkpoints: keep={keep} must be at least 1 and "
                f"every_n_steps={every_n_steps} not negative"
            )
        self.directory = Path(directory)
        self.every_n_steps = every_n_steps
        self.best = best
        self.writer = CheckpointWriter(self.directory / CHECKPOINTS, keep, asynchronous)
        self._saved_step = -1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.writer.prepare()
            trainer.strategy.writer = self.writer  # type: ignore[attr-defined]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self.writer.has_failed:
            pl_module.stop_requested = True  # type: ignore[assignment] # wait() then says why
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.best or trainer.global_step == 0:  # the pretrained model competes not
            return
        loss = float(trainer.callback_metrics.get("val/loss", float("inf")))
        # The best loss so far lies beside the weights and not in a checkpoint: a checkpoint is
        # written before the validation of its own step.
        best = self.directory / "best"
        if loss < on_rank_zero(lambda: _recorded_loss(best)):
            step = trainer.global_step
            card = f"The weights of step {step}: held-out loss {loss:.4f}.\n"
            pl_module.export(best, card, {"held_out_loss": loss, "step": step})  # type: ignore[operator]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)  # before the last answers are generated, which takes its time

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.writer.wait()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, SIGTERMException):  # raised between steps, on all ranks
            self.save(trainer)
            self.writer.wait()
        else:  # the other ranks may be gone: finish what was begun, if that is possible
            with suppress(UserError, TimeoutError):
                self.writer.wait(240)

    def save(self, trainer: L.Trainer) -> None:
        """Save the state after ``trainer.global_step`` steps, once."""
        if trainer.global_step != self._saved_step:
            trainer.save_checkpoint(self.directory / CHECKPOINTS)
            self._saved_step = trainer.global_step


def _recorded_loss(best: Path) -> float:
    recover(best)
    file = best / HANDOFF_FILE
    return float(json.loads(file.read_text())["held_out_loss"]) if file.exists() else float("inf")
