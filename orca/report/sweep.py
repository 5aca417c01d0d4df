"""Jobs of a sweep beside each other: results, means and intervals over seeds.

Everything is read from the jobs' directories, so it does not matter which process, launcher or
machine ran a job, or whether one launch or several made the sweep.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from orca.report.directory import Run, StageRun, job_directories, read_run
from orca.report.evaluations import Evaluation, find_evaluations
from orca.report.swept import SEEDS, tell_apart

RESULTS = ("held_out_loss", "exact_answer")


@dataclass(frozen=True)
class Estimate:
    """Mean of ``n`` seeds with its 95 % t interval, which one seed does not have."""

    n: int
    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class StageResult:
    """What a job had after a finished stage.

    Attributes:
        measures: by name: ``held_out_loss``, ``exact_answer``, ``eval/bbh``, …
        is_last: the job ends with this stage.
    """

    stage: str
    measures: Mapping[str, float]
    seconds: float
    target_tokens: int
    tokens_per_second: float
    is_last: bool


@dataclass(frozen=True)
class Job:
    """A run of the sweep: its swept options as texts (``seed`` among them), and its results.

    Attributes:
        held_out: which sets its losses are of.
        asked: for a measure of an evaluation, which questions by which protocol.
        outdated: evaluations of weights that a stage no longer has; no measures.
    """

    run: Run
    options: Mapping[str, str]
    results: tuple[StageResult, ...]
    held_out: frozenset[str]
    asked: Mapping[str, str]
    outdated: tuple[Path, ...] = ()

    @property
    def last(self) -> StageResult | None:
        """The results of the whole job; None until it has finished."""
        done = self.run.state == "finished" and bool(self.results)
        return self.results[-1] if done else None

    @property
    def group(self) -> tuple[tuple[str, str], ...]:
        return tuple((key, value) for key, value in self.options.items() if key not in SEEDS)

    @property
    def draw(self) -> tuple[str, ...]:
        """Its seeds."""
        return tuple(self.options.get(key, "") for key in SEEDS)


@dataclass(frozen=True)
class Group:
    """Jobs that differ by their seed alone."""

    label: str
    jobs: tuple[Job, ...]

    @property
    def finished(self) -> list[Job]:
        return [job for job in self.jobs if job.last]

    @property
    def repeated(self) -> list[list[Job]]:
        """Jobs that have the seed of another one, too."""
        draws: dict[tuple[str, ...], list[Job]] = {}
        for job in self.jobs:
            draws.setdefault(job.draw, []).append(job)
        return [own for own in draws.values() if len(own) > 1]

    def estimates(self, stage: str | None = None) -> dict[str, Estimate]:
        """By measure: of the finished jobs, or of all that have finished ``stage``.

        A seed counts once: jobs that have the same one give the mean of them.
        """
        found: dict[str, dict[tuple[str, ...], list[float]]] = {}
        for job in self.jobs:
            for one in [job.last] if stage is None else job.results:
                if one is not None and stage in (None, one.stage):
                    for name, value in one.measures.items():
                        found.setdefault(name, {}).setdefault(job.draw, []).append(value)
        return {
            name: estimate([sum(values) / len(values) for values in draws.values()])
            for name, draws in found.items()
        }


@dataclass(frozen=True)
class Sweep:
    """Several runs to compare.

    Attributes:
        jobs: lowest held-out loss first, those that have not finished last; by name where losses
            are of several held-out sets.
        keys: options of the command line whose values differ, ``seed`` among them. Of runs that
            are no jobs of one sweep ``seed`` at most; their configurations say what else differs.
    """

    path: Path
    name: str
    jobs: tuple[Job, ...]
    keys: tuple[str, ...]

    @cached_property
    def groups(self) -> list[Group]:
        """Lowest mean held-out loss first, groups without one last; else by label, as jobs."""
        found: dict[tuple[tuple[str, str], ...], list[Job]] = {}
        for job in self.jobs:
            found.setdefault(job.group, []).append(job)
        groups = [
            Group(self._label(key, own), tuple(sorted(own, key=lambda job: job.run.name)))
            for key, own in found.items()
        ]
        if self.held_out_sets > 1:
            return sorted(groups, key=lambda group: group.label)
        return sorted(groups, key=_first)

    @property
    def held_out_sets(self) -> int:
        """How many sets losses and exact answers are of; of several they do not compare."""
        return len(_held_out_sets(self.jobs))

    @property
    def unequal(self) -> list[str]:
        """Measures of evaluations that did not ask all jobs the same."""
        asked: dict[str, set[str]] = {}
        for job in self.jobs:
            for name, own in job.asked.items():
                asked.setdefault(name, set()).add(own)
        return [name for name, own in asked.items() if len(own) > 1]

    @property
    def unfinished(self) -> list[Job]:
        return [job for job in self.jobs if job.run.state != "finished"]

    @property
    def measures(self) -> list[str]:
        """All that jobs were measured by, in the order of the tables."""
        names = dict.fromkeys(n for j in self.jobs for one in j.results for n in one.measures)
        return [n for n in RESULTS if n in names] + sorted(n for n in names if n not in RESULTS)

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(one.stage for job in self.jobs for one in job.results))

    def _label(self, group: tuple[tuple[str, str], ...], jobs: Sequence[Job]) -> str:
        named = [f"{key}={value}" for key, value in group if key in self.keys]
        return ", ".join(named) or ", ".join(job.run.name for job in jobs)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % t interval: mean ± t(0.975, n - 1) · s / √n.

    Where a value is no finite number there is no interval, and the mean is none either.
    """
    if not all(math.isfinite(value) for value in values):
        return Estimate(len(values), math.nan)
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return Estimate(n, mean)
    half = t_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(n, mean, mean - half, mean + half)


def t_quantile(degrees: float) -> float:
    """97.5 % of Student's t with ``degrees`` of freedom lie below.

    With t = √ν tan θ the density becomes cos^(ν - 1) θ, which is added up to 95 % of its half.
    """
    angle = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angle) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(np.interp(0.95, below / below[-1], angle))


def read_sweep(directory: Path) -> Sweep:
    """The sweep in ``directory``, with all its jobs in whatever state they are."""
    runs = [read_run(path) for path in job_directories(directory)]
    return compare(runs, directory, directory.resolve().name)


def compare(runs: Sequence[Run], path: Path, name: str) -> Sweep:
    """Runs beside each other, by what they were told on the command line or, where that is not
    known of all, by their configurations."""
    keys, options = tell_apart(runs)
    jobs = sorted(map(_job, runs, options), key=lambda job: job.run.name)
    if len(_held_out_sets(jobs)) <= 1:
        jobs.sort(key=_loss)
    return Sweep(path, name, tuple(jobs), keys)


def _job(run: Run, options: Mapping[str, str]) -> Job:
    evaluations: dict[str, dict[str, float]] = {}
    asked: dict[str, str] = {}
    outdated: list[Path] = []
    for evaluation in find_evaluations(run.path):
        stage_name = _evaluated(evaluation, run)
        if _is_outdated(evaluation, run, stage_name):
            outdated.append(evaluation.path)
            continue
        own = evaluations.setdefault(stage_name, {})
        model = ", best" if Path(evaluation.model).name == "best" else ""
        for benchmark, interval in evaluation.averages().items():
            name = f"eval {benchmark}{model}"
            name = f"{name}, {evaluation.path.name}" if name in own else name
            own[name], asked[name] = interval.value, evaluation.asked
    results = tuple(
        _stage_result(
            stage,
            run.state == "finished" and stage is run.stages[-1],
            evaluations.get(stage.name, {}),
        )
        for stage in run.stages
        if stage.results
    )
    held_out = frozenset(_held_out_set(stage.card["facts"]) for stage in run.stages if stage.card)
    return Job(run, options, results, held_out, asked, tuple(outdated))


def _held_out_sets(jobs: Sequence[Job]) -> set[frozenset[str]]:
    return {job.held_out for job in jobs if job.held_out}


def _held_out_set(facts: Mapping[str, Any]) -> str:
    """The fingerprint of a file, or which part of which data; how much of it, in which tokens."""
    named = facts.get("held out", "none")
    of = "" if isinstance(named, str) else f" of {facts.get('data')}"
    more = [
        facts.get(name) for name in ("validation traces", "held-out traces too long", "tokenizer")
    ]
    return f"{named}{of}, {more}"


def _evaluated(evaluation: Evaluation, run: Run) -> str:
    """The stage whose model was evaluated; "" for the model before training.

    Where the evaluation does not say, the last: as a rule it is.
    """
    model = Path(evaluation.model)
    if model.name in ("hf", "best"):
        return model.parent.name
    options = run.config.get("model") or {}
    known = [str(options[key]) for key in ("name", "path", "hub_id") if options.get(key)]
    last = run.stages[-1].name if run.stages else ""
    return "" if evaluation.model in known else last


def _is_outdated(evaluation: Evaluation, run: Run, stage: str) -> bool:
    """Whether the stage was trained again after its ``hf/`` was evaluated."""
    results = next((one.results for one in run.stages if one.name == stage), None)
    now = (results or {}).get("handoff", {}).get("weights", "")
    is_known = bool(now and evaluation.weights) and Path(evaluation.model).name == "hf"
    return is_known and not now.startswith(evaluation.weights)


def _stage_result(stage: StageRun, is_last: bool, evaluations: Mapping[str, float]) -> StageResult:
    results = stage.results
    assert results is not None
    measures = {name: results[name]["after"] for name in RESULTS if results[name]}
    for metric in stage.metrics:
        if metric.startswith("eval/") and metric.endswith("/accuracy"):
            accuracy = stage.last(metric)
            if accuracy is not None:
                measures[metric.removesuffix("/accuracy")] = accuracy
    measures |= evaluations
    return StageResult(
        stage.name,
        measures,
        results["seconds"],
        results["target_tokens"],
        results["tokens_per_second"] or 0.0,
        is_last,
    )


def _loss(job: Job) -> float:
    loss = job.last.measures.get("held_out_loss", math.inf) if job.last else math.inf
    return loss if math.isfinite(loss) else math.inf


def _first(group: Group) -> float:
    loss = group.estimates().get("held_out_loss")
    return loss.mean if loss and math.isfinite(loss.mean) else math.inf


def save_csv(sweep: Sweep, file: Path) -> None:
    """A row for each job and finished stage, with mean and interval of its group's seeds."""
    measures = sweep.measures
    head = ["job", "stage", "held_out_loss", "exact_answer", "tokens_per_second", "seconds"]
    others = [name for name in measures if name not in RESULTS]
    head += [*sweep.keys, *others, "seeds"]
    head += [f"{name}_{end}" for name in measures for end in ("mean", "low", "high")]
    groups = {job.run.path: group for group in sweep.groups for job in group.jobs}
    rows = []
    for job in sweep.jobs:
        for one in job.results:
            found = groups[job.run.path].estimates(one.stage)
            row = [job.run.name, one.stage, *(_cell(one.measures.get(n)) for n in RESULTS)]
            row += [_cell(one.tokens_per_second), _cell(one.seconds)]
            row += [job.options.get(key, "") for key in sweep.keys]
            row += [_cell(one.measures.get(name)) for name in others]
            row.append(str(max((own.n for own in found.values()), default=0)))
            for name in measures:
                own = found.get(name)
                row += ["", "", ""] if own is None else map(_cell, (own.mean, own.low, own.high))
            rows.append(row)
    with file.open("w", newline="", encoding="utf-8") as target:
        csv.writer(target).writerows([head, *rows])


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
