"""What is told about a step that went wrong, with the ids of its examples."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from orca.errors import UserError
from orca.stream import StepBatch
from orca.training.ranks import is_rank_zero

INCIDENTS_FILE = "incidents.jsonl"


class NonFiniteLoss(UserError):
    """The loss or the gradient was no number in too many steps in a row."""


def report_incident(
    directory: Path, sentence: str, facts: dict[str, Any], example_ids: Sequence[str]
) -> None:
    """Print the sentence and append facts and ids to ``incidents.jsonl`` (rank 0 alone)."""
    if not is_rank_zero():
        return
    file = directory / INCIDENTS_FILE
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({**facts, "examples": list(example_ids)}) + "\n")
    first = ", ".join(example_ids[:4])
    print(
        f"warning: {sentence}. {len(example_ids)} example(s): {first}"
        f"{', …' if len(example_ids) > 4 else ''} (all in {file})",
        file=sys.stderr,
        flush=True,
    )


class LossSpikes(Callback):
    """Reports steps whose loss stands far above the recent ones; changes nothing.

    Args:
        directory: the stage's; ids go to ``incidents.jsonl`` there.
        window: recent steps that a loss is compared with; nothing is reported before.
        deviations: robust standard deviations (1.4826 × median absolute deviation) above the
            median from which on a loss is a spike.
    """

    def __init__(self, directory: str, window: int = 50, deviations: float = 8.0) -> None:
        if window < 3 or deviations <= 0:
            raise UserError(
                f"callbacks.spikes: window={window} must be at least 3 and "
                f"deviations={deviations} positive"
            )
        self.directory = Path(directory)
        self.window = window
        self.deviations = deviations
        self.recent: list[float] = []
        self._step = 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._step:  # the step was skipped, which is told elsewhere
            return
        self._step = trainer.global_step
        loss = float(trainer.callback_metrics["train/loss"])
        if len(self.recent) == self.window:
            median = statistics.median(self.recent)
            spread = 1.4826 * statistics.median(abs(value - median) for value in self.recent)
            limit = median + self.deviations * max(spread, 1e-3 * median)
            if loss > limit:
                step = trainer.global_step - 1
                report_incident(
                    self.directory,
                    f"loss spike in step {step}: {loss:.4f}, where the last {self.window} steps "
                    f"had {median:.4f} ± {spread:.4f}",
                    {"kind": "spike", "step": step, "loss": loss, "median": median},
                    batch.example_ids,
                )
        self.recent = [*self.recent, loss][-self.window :]

    def state_dict(self) -> dict[str, Any]:
        return {"recent": self.recent, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.recent, self._step = list(state_dict["recent"]), state_dict["step"]
