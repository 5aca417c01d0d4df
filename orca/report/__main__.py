"""Make the reports of runs and sweeps again, finished or still running.

python -m orca.report runs/NAME                    # of a run or a sweep, in its directory
python -m orca.report runs/NAME --evaluation DIR   # with an evaluation that lies elsewhere
python -m orca.report runs/ONE runs/OTHER          # beside each other: comparison.html
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orca.errors import UserError
from orca.report import (
    JOB_FILE,
    read_sweep,
    sweep_text,
    write_comparison,
    write_run_report,
    write_sweep_report,
    write_sweep_tables,
)
from orca.report.directory import has_stages, job_directories
from orca.sweeps.names import SWEPT_FILE


def main(arguments: list[str] | None = None) -> int:
    """Write what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m orca.report", description="Reports of training runs and sweeps."
    )
    parser.add_argument("directories", nargs="+", type=Path, help="of runs or sweeps")
    parser.add_argument(
        "--evaluation", action="append", default=[], type=Path, metavar="DIR",
        help="an out= directory of evaluate.py to show with a run (several times)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="page of several directories (comparison.html)"
    )  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        for file in write(given.directories, given.evaluation, given.out):
            print(file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write(directories: list[Path], evaluations: list[Path], out: Path | None) -> list[Path]:
    """Pages of one directory, or the comparison of several.

    Raises:
        UserError: a directory holds no run, or an option goes with another kind of page.
    """
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory} is no directory: give runs/NAME of a run or a sweep")
        if not has_stages(directory) and not job_directories(directory):
            raise UserError(
                f"{directory} holds no run: no directory in it has a config.yaml. Give runs/NAME, "
                "in which the stages or the jobs of a sweep lie"
            )
    if len(directories) > 1:
        if evaluations:
            raise UserError("--evaluation goes with one run; a comparison shows what lies in them")
        return [write_comparison(directories, out or Path("comparison.html"))]
    if out is not None:
        raise UserError(f"--out={out} goes with several directories; one has its page in itself")
    directory, files = directories[0], []
    jobs = job_directories(directory)
    if jobs and not has_stages(directory) and not _is_sweep(directory, jobs):
        names = " ".join(map(str, jobs[:3]))
        raise UserError(f"{directory} is no sweep; beside each other are its runs by {names} …")
    if has_stages(directory):
        files.append(write_run_report(directory, evaluations))
    elif evaluations:
        raise UserError(f"--evaluation goes with one run; {directory} is a sweep")
    if jobs:
        files += [write_run_report(job) for job in jobs]
        sweep = read_sweep(directory)
        print(sweep_text(sweep))
        write_sweep_tables(sweep)
        files.append(write_sweep_report(sweep))
    return files


def _is_sweep(directory: Path, jobs: list[Path]) -> bool:
    files = (directory / SWEPT_FILE, directory / "multirun.yaml")
    return any(file.exists() for file in (*files, *(job / JOB_FILE for job in jobs)))


if __name__ == "__main__":
    sys.exit(main())
