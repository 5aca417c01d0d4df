"""A run or a sweep as one self-contained HTML page; a sweep's table over seeds (docs/reports.md).

Everything is read from directories, so a report can be made of what runs, has ended or has failed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orca.errors import UserError
from orca.report.directory import (
    JOB_FILE,
    Run,
    has_stages,
    job_directories,
    read_run,
)
from orca.report.evaluations import find_evaluations, read_evaluation
from orca.report.run_page import run_html
from orca.report.sweep import Estimate, Job, Sweep, compare, estimate, read_sweep, save_csv
from orca.report.sweep_page import sweep_html
from orca.report.sweep_tables import sweep_markdown, sweep_text

REPORT_FILE = "report.html"


def write_run_report(directory: Path, evaluations: Sequence[Path] = ()) -> Path:
    """The page of the run in ``directory``, with the evaluations below it and those given.

    It is ``report.html`` there; ``run.html`` where a sweep has left jobs beside the run's stages.

    Raises:
        UserError: a file of the run or of an evaluation cannot be read.
    """
    run = read_run(directory)
    jobs = job_directories(directory)
    below = [one for one in find_evaluations(directory)
             if not any(job in one.path.parents for job in jobs)]  # fmt: skip
    known = {one.path.resolve() for one in below}
    given = [read_evaluation(path) for path in evaluations if path.resolve() not in known]
    file = directory / ("run.html" if jobs else REPORT_FILE)
    file.write_text(run_html(run, [*below, *given]), encoding="utf-8")
    return file


def write_sweep_tables(sweep: Sweep) -> None:
    """``sweep.csv`` and ``sweep.md`` in the sweep's directory."""
    save_csv(sweep, sweep.path / "sweep.csv")
    (sweep.path / "sweep.md").write_text(sweep_markdown(sweep), encoding="utf-8")


def write_sweep_report(sweep: Sweep) -> Path:
    """The page in the sweep's directory; the pages of its jobs are their own."""
    file = sweep.path / REPORT_FILE
    file.write_text(sweep_html(sweep, file), encoding="utf-8")
    return file


def write_comparison(directories: Sequence[Path], file: Path) -> Path:
    """Runs beside each other; of a sweep, all its jobs.

    Raises:
        UserError: a file of a run cannot be read.
    """
    runs: list[Run] = []
    for directory in directories:
        jobs = job_directories(directory)
        runs += [read_run(job, f"{directory.name}/{job.name}") for job in jobs]
        if has_stages(directory):
            runs.append(read_run(directory))
    sweep = compare(runs, file.parent, " and ".join(path.resolve().name for path in directories))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(sweep_html(sweep, file, is_sweep=False), encoding="utf-8")
    return file


def try_report(write: Callable[[], Path], directory: Path) -> None:
    """Write a report at the end of a run or sweep, which a fault in it must not lose."""
    try:
        print(f"report: {write()}", flush=True)
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        print(
            f"warning: {directory} has no report ({kind}{error}). What was trained is not touched; "
            f"python -m orca.report {directory} tries again",
            file=sys.stderr,
            flush=True,
        )


__all__ = [
    "JOB_FILE",
    "REPORT_FILE",
    "Estimate",
    "Job",
    "Run",
    "Sweep",
    "compare",
    "estimate",
    "read_run",
    "read_sweep",
    "run_html",
    "save_csv",
    "sweep_html",
    "sweep_markdown",
    "sweep_text",
    "try_report",
    "write_comparison",
    "write_run_report",
    "write_sweep_report",
    "write_sweep_tables",
]
