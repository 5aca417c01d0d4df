"""Around ``python train.py -m …``: what its jobs are, and at its end their table and report."""

from __future__ import annotations

import json
import secrets
import sys
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from orca.errors import UserError
from orca.report import (
    JOB_FILE,
    read_sweep,
    sweep_text,
    try_report,
    write_sweep_report,
    write_sweep_tables,
)
from orca.sweeps.names import own_directories

NOT_OF_A_JOB = ("hydra.mode", "hydra/sweeper", "hydra.sweeper", "hydra.sweep", "hydra.searchpath")
"""Options of a sweep that running one of its jobs again does not want."""


class SweepTable(Callback):
    """Prints the jobs' results with intervals over seeds; writes ``sweep.csv``, ``sweep.md`` and
    ``report.html`` in the sweep's directory.

    All jobs of the directory are in the table, those of earlier launches too. The sweep ends with
    status 1 when a job of this launch has not finished; the others are run all the same.

    A job may run in another process or on another machine, where a copy of this object is. So what
    is known of jobs in the end is what they left in their directories.
    """

    def __init__(self) -> None:
        self.launch, self.is_new = "", False

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.launch = secrets.token_hex(4)  # before launchers copy this object
        self.is_new = not Path(config.hydra.sweep.dir).exists()

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Write ``job.json``: all that is needed to run the job again, and to miss its stages.

        Hydra's own launcher is told of here as well: its jobs run one after the other, and their
        lines look alike.
        """
        hydra = config.hydra  # some launchers call this for all jobs before the first runs
        if hydra.mode != RunMode.MULTIRUN or config.plan:
            return
        launcher = [o for o in hydra.overrides.hydra if not o.startswith(NOT_OF_A_JOB)]
        launcher += own_directories(hydra)
        if hydra.runtime.choices.get("hydra/sweeper") not in (None, "basic"):
            launcher.append("hydra/sweeper=basic")
        job = {
            "launch": self.launch,
            "options": list(hydra.overrides.task),
            "launcher": launcher,
            "choices": {k: v for k, v in hydra.runtime.choices.items() if "hydra" not in k},
            "stages": [str(name) for name in config.stages],
        }
        if hydra.runtime.choices.get("hydra/launcher") == "basic":
            print(f"\njob {hydra.job.num + 1}: {Path(hydra.runtime.output_dir).name}", flush=True)
        file = Path(hydra.runtime.output_dir) / JOB_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(job, indent=1, ensure_ascii=False), encoding="utf-8")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        directory = Path(config.hydra.sweep.dir)
        if config.plan:
            if self.is_new:  # made by Hydra
                (directory / "multirun.yaml").unlink(missing_ok=True)
                with suppress(OSError):
                    directory.rmdir()
            return
        try:
            missing = self._save(directory)
        except Exception as error:  # Hydra would make a warning of it, and status 0
            if not isinstance(error, UserError):
                traceback.print_exc()
            print(f"error: the sweep has no table: {error}", file=sys.stderr, flush=True)
            sys.exit(1)
        if missing:
            print(f"not finished: {', '.join(missing)}", flush=True)
            sys.exit(1)

    def _save(self, directory: Path) -> list[str]:
        """Table and report; returns the names of this launch's jobs that did not end well."""
        sweep = read_sweep(directory)
        print(sweep_text(sweep), flush=True)
        write_sweep_tables(sweep)
        try_report(partial(write_sweep_report, sweep), directory)
        own = [job.run for job in sweep.jobs if job.run.job.get("launch") == self.launch]
        # A job that was refused keeps the results of an earlier launch.
        missing = [run.name for run in own if run.state != "finished" or run.error]
        return missing if own else ["any job"]
