"""Runs as they lie in directories, whatever state they are in: ``runs/NAME/STAGE/…``.

Nothing here needs the program that made them to be over, or to have ended well. What a stage has
not written yet is empty or None. A directory below which runs lie, as a sweep leaves it, has jobs.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from orca.errors import UserError
from orca.sweeps.jobs import ERROR_FILE
from orca.training.answers import SAMPLES_FILE
from orca.training.directory import CONFIG_FILE, RESULTS_FILE
from orca.training.guards import INCIDENTS_FILE
from orca.training.loggers import METRICS_FILE, read_metrics
from orca.training.report import MACHINE_FILE

JOB_FILE = "job.json"
"""Of a job of a sweep: its options, stages, and the launch that started it."""

CARD_FILE = "data_card.json"
RESULTS = ("held_out_loss", "exact_answer", "seconds", "target_tokens", "tokens_per_second")
CARD = (
    *("totals", "dropped", "dropped_rows", "fill", "examples_per_pack", "length"),
    *("target_tokens_per_example", "composition", "audit", "facts"),
)
SAMPLE = ("step", "id", "task", "system_message", "query", "response", "gold_answer", "exact")
"""What pages and tables need of a file."""

Points = tuple[np.ndarray, np.ndarray]
"""A metric: optimizer steps, int64 [points], and values, float64 [points]."""


@dataclass(frozen=True)
class StageRun:
    """One stage of a run, finished or not.

    Attributes:
        metrics: by name, in the order of their first values; numbers that are none left out.
        not_finite: how many values of a metric were none.
        results: None until the stage is finished; ``card`` likewise.
        samples: answers to held-out questions; ``incidents``: steps that went wrong.
        machine: commit, device and versions, where the run wrote them down.
        is_running: a process holds the stage's lock.
    """

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Points]
    not_finite: dict[str, int]
    results: dict[str, Any] | None
    card: dict[str, Any] | None
    samples: list[dict[str, Any]]
    incidents: list[dict[str, Any]]
    machine: dict[str, Any]
    is_running: bool

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def state(self) -> str:
        """finished, running, or stopped."""
        return "finished" if self.results else "running" if self.is_running else "stopped"

    @property
    def start_from(self) -> str:
        return str(self.config["stages"].get(self.name, {}).get("start_from", "base"))

    @cached_property
    def steps(self) -> int:
        """Optimizer steps that were taken; of a stage that has not finished, as far as logged."""
        done = [int((self.results or {}).get("steps", 0))]
        for metric, before in (("train/loss", 1), ("val/loss", 0)):
            logged, _ = self.metrics.get(metric, (np.zeros(0), None))
            done.append(int(logged[-1]) + before if len(logged) else 0)
        return max(done)  # not every step is logged

    def tokens(self, kind: str) -> float | None:
        """``tokens`` or ``target_tokens`` of the whole stage, as far as is known."""
        logged = self.last(f"data/{kind}")
        return max(logged or 0, self.results.get(kind, 0)) if self.results else logged

    def values(self, metric: str) -> np.ndarray:
        """float64 [points]; none where it was not logged."""
        return self.metrics[metric][1] if metric in self.metrics else np.zeros(0)

    def last(self, metric: str) -> float | None:
        values = self.values(metric)
        return float(values[-1]) if len(values) else None

    def ends(self, name: str, metric: str) -> dict[str, float] | None:
        """First and last value of ``held_out_loss`` or ``exact_answer``, of the results or the
        metrics; a stage that is not finished has no last one."""
        if self.results:
            return self.results[name]
        values = self.values(metric)
        return {"before": float(values[0])} if len(values) else None


@dataclass(frozen=True)
class Run:
    """All stages of a run, a stage after the one that it starts from.

    Attributes:
        job: what the sweep wrote down when it started this job; empty for other runs.
        error: why the job failed, as it was told; None when it did not.
    """

    path: Path
    name: str
    stages: tuple[StageRun, ...]
    job: dict[str, Any]
    error: str | None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The first stage's resolved configuration with the stages of all."""
        if not self.stages:
            return {}
        stages: dict[str, Any] = {}
        for stage in self.stages:
            stages |= stage.config["stages"]
        return self.stages[0].config | {"stages": stages}

    @property
    def expected(self) -> list[str]:
        """Names of the stages that the run should have in the end, as far as is known."""
        return list(dict.fromkeys([*self.job.get("stages", ()), *(s.name for s in self.stages)]))

    @property
    def state(self) -> str:
        """finished, running, failed (it said why), or unfinished."""
        if any(stage.is_running for stage in self.stages):
            return "running"
        finished = {stage.name for stage in self.stages if stage.results}
        if finished and finished == set(self.expected):
            return "finished"
        return "failed" if self.error else "unfinished"

    @property
    def seconds(self) -> float:
        return sum(stage.results["seconds"] for stage in self.stages if stage.results)


def read_run(directory: Path, name: str | None = None) -> Run:
    """The run in ``directory``, which may have no stage yet.

    Raises:
        UserError: a file of the run cannot be read.
    """
    stages = [read_stage(path) for path in sorted(directory.iterdir()) if is_stage(path)]
    parents = {stage.name: stage.start_from for stage in stages}
    job = read_object(directory / JOB_FILE) or {}
    order = {name: place for place, name in enumerate(job.get("stages", ()))}
    error = directory / ERROR_FILE
    return Run(
        directory,
        name or directory.resolve().name,
        tuple(sorted(stages, key=lambda s: (_depth(s.name, parents), order.get(s.name, 0)))),
        job,
        error.read_text(encoding="utf-8", errors="replace").strip() if error.exists() else None,
    )


def read_stage(path: Path) -> StageRun:
    """One stage's directory.

    Raises:
        UserError: a file of it cannot be read.
    """
    metrics: dict[str, tuple[list[int], list[float]]] = {}
    if (path / METRICS_FILE).exists():
        try:
            logged = read_metrics(path / METRICS_FILE)
        except ValueError as error:
            raise UserError(
                f"{path / METRICS_FILE} has a line that is no metric ({error}): delete the line"
            ) from None
        for step, metric, value in logged:
            steps, values = metrics.setdefault(metric, ([], []))
            steps.append(step)
            values.append(value)
    arrays = {name: (np.array(s), np.array(v)) for name, (s, v) in metrics.items()}
    finite = {name: np.isfinite(values) for name, (_, values) in arrays.items()}
    config = _configuration(path / CONFIG_FILE)
    return StageRun(
        path,
        {"stages": {}} | config,  # the file may still be empty
        {name: (s[finite[name]], v[finite[name]]) for name, (s, v) in arrays.items()},
        {name: int((~ok).sum()) for name, ok in finite.items() if not ok.all()},
        read_object(path / RESULTS_FILE, RESULTS),
        read_object(path / CARD_FILE, CARD),
        read_lines(path / SAMPLES_FILE, SAMPLE),
        read_lines(path / INCIDENTS_FILE, ("step",)),
        read_object(path / MACHINE_FILE) or {},
        is_locked(path.with_name(f".{path.name}.lock")),
    )


def is_stage(path: Path) -> bool:
    """Whether ``path`` is a stage's directory; hidden ones hold what a new run replaces."""
    return (path / CONFIG_FILE).is_file() and not path.name.startswith(".")


def has_stages(directory: Path) -> bool:
    return any(is_stage(path) for path in directory.iterdir())


def job_directories(directory: Path) -> list[Path]:
    """Jobs of a sweep in ``directory``: those that started, a failed one may have left nothing."""
    is_sweep = (directory / "multirun.yaml").exists()
    return [
        path
        for path in sorted(directory.iterdir())
        if path.is_dir()
        and not path.name.startswith(".")
        and not is_stage(path)
        and (has_stages(path) or (path / JOB_FILE).exists() or (is_sweep and "=" in path.name))
    ]


def is_locked(file: Path) -> bool:
    """Whether a process trains in the directory that ``file`` locks (see RunDirectory)."""
    if not file.exists():
        return False
    with file.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_json(file: Path) -> Any:
    """The value in ``file``, None where there is no file."""
    if not file.exists():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of its characters
        raise UserError(f"{file} is no JSON ({error}): restore it, or move it away") from None


def read_object(file: Path, keys: Sequence[str] = ()) -> dict[str, Any] | None:
    """:func:`read_json` of an object with ``keys`` at least."""
    found = read_json(file)
    if found is None or (isinstance(found, dict) and all(key in found for key in keys)):
        return found
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    raise UserError(
        f"{file} is not as train.py writes it ({', '.join(missing) or 'no object'} missing): "
        "restore it, or move it away"
    )


def read_lines(file: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a JSONL file that may be growing: a last line without its end is left out."""
    if not file.exists():
        return []
    try:
        with file.open(encoding="utf-8") as source:
            lines = list(source)  # splitlines() would end a line at U+2028, which texts hold
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise UserError(f"{file} has a line that is no JSON ({error}): delete the line") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise UserError(f"{file}, line {number}, is not as train.py writes it: delete the line")
    return rows


def _configuration(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (ValueError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"{file} is no YAML ({first}): restore it, or move the stage away"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{file} has no options: restore it, or move the stage away")
    return found


def _depth(name: str, parents: dict[str, str]) -> int:
    """How many stages of the run come before; a circle cannot train, and ends here."""
    depth, seen = 0, {name}
    while (name := parents.get(name, "base")) in parents and name not in seen:
        seen.add(name)
        depth += 1
    return depth
