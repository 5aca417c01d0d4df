"""Tables of a sweep: for a terminal, for ``sweep.md``, and for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from orca.report.again import command
from orca.report.options import UNKNOWN
from orca.report.sweep import SEEDS, Estimate, Group, Job, Sweep

NAMES = {"held_out_loss": "held-out loss", "exact_answer": "exact answers"}

ABOUT = (
    "Mean over the seeds that have finished, with its 95 % t interval, mean ± t(0.975, n − 1) · "
    "s/√n; one seed has no interval. It says how far another set of seeds may be from this one on "
    "the same held-out questions, not how far other questions may be."
)


@dataclass(frozen=True)
class Cell:
    """Text, and what it is sorted by (None comes last).

    Attributes:
        detail: said more quietly after the text: an interval.
    """

    text: str
    value: float | str | None = None
    detail: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of cells; ``texts`` are the columns that hold no numbers."""

    head: tuple[str, ...]
    rows: list[list[Cell]]
    texts: frozenset[int] = field(default_factory=frozenset)

    def lines(self) -> list[list[str]]:
        """Head and rows as texts."""
        return [
            list(self.head),
            *([f"{c.text} {c.detail}".strip() for c in row] for row in self.rows),
        ]

    def aligned(self) -> str:
        """For a terminal."""
        lines = self.lines()
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        return "\n".join(
            "  ".join(
                text.ljust(width) if i in self.texts else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        lines = [[text.replace("|", "\\|") for text in line] for line in self.lines()]
        lines.insert(1, ["---" if i in self.texts else "---:" for i in range(len(self.head))])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def groups_grid(sweep: Sweep, by_stage: bool = False) -> Grid:
    """A row for each group (and stage): options, seeds, and what it was measured by.

    Args:
        by_stage: what jobs had after each stage, and not what they ended with.
    """
    keys = [key for key in sweep.keys if key not in SEEDS]
    head = keys or ["run"]
    head = [*head, "after"] if by_stage else head
    rows = []
    for group in sweep.groups:
        options = dict(group.jobs[0].group)
        first = [_text(options[key]) for key in keys] or [_text(group.label)]
        for stage in sweep.stages if by_stage else [None]:
            found = group.estimates(stage)
            if stage is not None and not found:
                continue
            row = [*first] if stage is None else [*first, _text(stage)]
            seeds = _seeds(group, stage)
            cells = [estimate_cell(name, found.get(name), seeds.value) for name in sweep.measures]
            rows.append([*row, seeds, *cells])
    names = [NAMES.get(name, name) for name in sweep.measures]
    return Grid((*head, "seeds", *names), rows, frozenset(range(len(head))))


def jobs_grid(sweep: Sweep) -> Grid:
    """A row for each job, best first: what it ended with, what it was trained on and how long."""
    several = len(sweep.stages) > 1
    head = ["job", "state", *(["after"] if several else [])]
    texts = frozenset(range(len(head)))
    head += [NAMES.get(name, name) for name in sweep.measures]
    head += ["target tokens", "tokens/s", "time"]
    rows = []
    for job in sweep.jobs:
        last = job.last
        row = [_text(job.run.name), _text(job.run.state)]
        if several:
            row.append(_text(last.stage if last else UNKNOWN))
        measures = last.measures if last else {}
        row += [_measure(name, measures.get(name)) for name in sweep.measures]
        targets = sum(one.target_tokens for one in job.results)
        row.append(Cell(f"{targets:,}", targets) if job.results else Cell(UNKNOWN))
        row.append(Cell(f"{last.tokens_per_second:,.0f}", last.tokens_per_second) if last
                   else Cell(UNKNOWN))  # fmt: skip
        seconds = job.run.seconds
        rows.append([*row, Cell(duration(seconds), seconds) if seconds else Cell(UNKNOWN)])
    return Grid(tuple(head), rows, texts)


def estimate_cell(measure: str, found: Estimate | None, seeds: object = None) -> Cell:
    """Mean and interval; of how many seeds, where not of the ``seeds`` that are given."""
    if found is None:
        return Cell(UNKNOWN)
    if not math.isfinite(found.mean):
        return Cell("no number", None, f"({found.n} seed{'s' if found.n > 1 else ''})")
    if found.low is None or found.high is None:
        return Cell(_form(measure, found.mean), found.mean, "(one seed)")
    bounds = f"[{_form(measure, found.low)}, {_form(measure, found.high)}]"
    detail = bounds if seeds in (None, found.n) else f"{bounds} ({found.n} seeds)"
    return Cell(_form(measure, found.mean), found.mean, detail)


def sweep_text(sweep: Sweep) -> str:
    """What a sweep ends with in a terminal: groups with intervals, jobs, and what is missing."""
    parts = [groups_grid(sweep).aligned()]
    if any(len(group.jobs) > 1 for group in sweep.groups) or sweep.unfinished:
        parts.append(jobs_grid(sweep).aligned())
    else:
        parts = [jobs_grid(sweep).aligned()]
    parts += [f"{told(job)}\n  {_again(job)}" for job in sweep.unfinished]
    parts += warnings(sweep)
    return "\n\n".join(parts)


def sweep_markdown(sweep: Sweep) -> str:
    """The same as a page."""
    parts = [f"# Sweep {sweep.name}", "## Over seeds", groups_grid(sweep).markdown(), ABOUT]
    if len(sweep.stages) > 1:
        parts += ["## After each stage", groups_grid(sweep, by_stage=True).markdown()]
    parts += ["## Jobs", jobs_grid(sweep).markdown(), *warnings(sweep)]
    if sweep.unfinished:
        parts += ["## Not finished"]
        parts += [f"- {told(job)}\n\n      {_again(job)}" for job in sweep.unfinished]
    return "\n\n".join(parts) + "\n"


def warnings(sweep: Sweep) -> list[str]:
    """What one must know before numbers of the tables are compared."""
    found = []
    if sweep.held_out_sets > 1:
        found.append(
            f"warning: the jobs have {sweep.held_out_sets} different held-out sets (facts of their "
            "data cards); losses and exact answers compare only between jobs of the same one"
        )
    found += [
        f"warning: {name} is not of the same questions or protocol in all jobs (facts of their "
        "evaluations): it compares only between jobs that were asked the same"
        for name in sweep.unequal
    ]
    found += [
        f"warning: {path} evaluated other weights than {job.run.name} has now, and is left out: "
        "evaluate again with another out="
        for job in sweep.jobs
        for path in job.outdated
    ]
    found += [
        f"warning: {' and '.join(job.run.name for job in own)} have the same options and seed; "
        "the seed counts once, with their mean"
        for group in sweep.groups
        for own in group.repeated
    ]
    found += [
        f"warning: the last attempt of {job.run.name} failed ({job.run.error}); its results are "
        "those of an earlier one"
        for job in sweep.jobs
        if job.run.state == "finished" and job.run.error
    ]
    return found


def told(job: Job) -> str:
    """A sentence on a job that has not finished."""
    run = job.run
    if run.state == "failed":
        return f"failed: {run.name}: {run.error}"
    done = [f"{s.name} {s.state}, {s.steps:,} steps" for s in run.stages]
    missing = [name for name in run.expected if name not in {s.name for s in run.stages}]
    done += [f"{name} not started" for name in missing]
    return f"{run.state}: {run.name}" + (f" ({'; '.join(done)})" if done else "")


def _again(job: Job) -> str:
    if job.run.state == "running":
        return "it is still running"
    return command(job.run) or "how it was started is not known"


def _seeds(group: Group, stage: str | None) -> Cell:
    done = len({job.draw for job in group.finished})
    if stage is not None:
        done = len({job.draw for job in group.jobs for one in job.results if one.stage == stage})
    started = len({job.draw for job in group.jobs})
    return Cell(str(done) if done == started else f"{done} of {started}", done)


def _text(text: str) -> Cell:
    return Cell(text, text)


def _measure(name: str, value: float | None) -> Cell:
    if value is None:
        return Cell(UNKNOWN)
    return Cell(_form(name, value), value if math.isfinite(value) else None)


def _form(measure: str, value: float) -> str:
    return f"{value:.4f}" if measure == "held_out_loss" else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """As 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def best(groups: Sequence[Group]) -> Group | None:
    """The group with the lowest mean held-out loss."""
    known = ((group, group.estimates().get("held_out_loss")) for group in groups)
    return next((group for group, own in known if own and math.isfinite(own.mean)), None)
