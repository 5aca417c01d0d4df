"""After ``python train.py -m …``: one table of all jobs, best held-out loss first."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from orca.config import FAILED

COLUMNS = ("job", "stage", "held_out_loss", "exact_answer", "tokens_per_second", "seconds")


class SweepTable(Callback):
    """Prints the jobs' results and writes them to ``sweep.csv`` in the sweep's directory.

    The sweep ends with status 1 when a job failed; the others are run all the same.
    """

    def __init__(self) -> None:
        self.failed = 0

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        directory = Path(config.hydra.sweep.dir)
        rows = collect(directory)
        if not rows:
            print(f"no job of the sweep in {directory} has finished", flush=True)
            sys.exit(1)
        with (directory / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        widths = [max(len(str(row[i])) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
        for row in [COLUMNS, *rows]:
            print("  ".join(str(value).ljust(w) for value, w in zip(row, widths, strict=True)))
        if self.failed:
            print(f"failed: {self.failed} job(s); their errors are above", flush=True)
            sys.exit(1)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        # A job that failed has returned no held-out loss (see orca.config).
        self.failed += (
            job_return.status == JobStatus.COMPLETED and job_return.return_value == FAILED
        )


def collect(directory: Path) -> list[tuple[str, ...]]:
    """One row per finished job and stage below ``directory``, lowest held-out loss first."""
    found = []
    for file in directory.glob("*/*/results.json"):
        results = json.loads(file.read_text(encoding="utf-8"))
        loss = (results["held_out_loss"] or {}).get("after")
        answers = (results["exact_answer"] or {}).get("after")
        row = (
            file.parent.parent.name,
            results["stage"],
            "" if loss is None else f"{loss:.4f}",
            "" if answers is None else f"{answers:.1%}",
            f"{results['tokens_per_second'] or 0:.0f}",
            f"{results['seconds']:.0f}",
        )
        found.append((float("inf") if loss is None else loss, row))
    return [row for _, row in sorted(found)]
