"""Where metrics go in any case: a CSV file. :mod:`orca.training.wandb_run` is for W&B."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from orca.paths import replacing

METRICS_FILE = "metrics.csv"
HEAD = ("step", "name", "value")


class MetricsCsv(Logger):
    """``step,name,value`` rows, appended and flushed as they come.

    A long table needs no rewriting when a new metric appears and survives a kill. After a resume,
    rows of steps that will be done again are cut off.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.file = Path(directory) / METRICS_FILE

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        is_new = not self.file.exists()
        with self.file.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(HEAD)
            for name, value in metrics.items():
                if name != "epoch":  # Lightning's own; a run is one pass of its fit loop
                    writer.writerow((step, name, repr(float(value))))

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The resolved configuration lies beside the file as ``config.yaml``."""

    @rank_zero_only
    def cut(self, steps: int) -> None:
        """Keep what was logged in the first ``steps`` optimizer steps."""
        if not self.file.exists():
            return
        rows = [row for row in read_metrics(self.file) if row[0] < steps]
        with (
            replacing(self.file) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([HEAD, *rows])


def log_step(module: L.LightningModule, metrics: Mapping[str, Any]) -> None:
    """Log what a step has just done, at once.

    Lightning writes a step's metrics after all callbacks, the one that saves checkpoints included:
    a kill in between would lose the row, for a resume starts with the next step.
    """
    module.log_dict(dict(metrics), logger=False)
    step = module.trainer.global_step - 1
    if step % module.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
        for logger in module.loggers:
            logger.log_metrics({name: float(value) for name, value in metrics.items()}, step)


def read_metrics(file: Path) -> list[tuple[int, str, float]]:
    """Rows of a metrics file; a last line cut off by a kill is left out.

    Raises:
        ValueError: another line is no metric.
    """
    rows = []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = csv.reader(line for line in lines if line.endswith("\n"))
    if (head := next(whole, None)) not in (None, list(HEAD)):
        raise ValueError(f"the first is {head}, not {','.join(HEAD)}")
    for step, name, value in whole:
        rows.append((int(step), name, float(value)))
    return rows
