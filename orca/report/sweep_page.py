"""The page of a sweep, or of runs beside each other."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orca.page import environment
from orca.report import sweep_tables
from orca.report.again import command
from orca.report.curves import HEIGHT, SMOOTHING, WIDTH, Axis
from orca.report.options import differences
from orca.report.run_charts import compared_charts
from orca.report.sweep import SEEDS, Estimate, Job, Sweep
from orca.training.directory import flat_options


@dataclass(frozen=True)
class Whisker:
    """A group's row of the dot plot, in per cent of its width.

    Attributes:
        dots: a place for each seed, and what it is.
        low, high: of the interval; None for one seed.
    """

    label: str
    colour: int
    text: str
    detail: str
    mean: float
    low: float | None
    high: float | None
    dots: tuple[tuple[float, str], ...]


def sweep_html(sweep: Sweep, out: Path, is_sweep: bool = True) -> str:
    """The whole page.

    Args:
        out: the file that it will be; links to runs are relative to it.
    """
    groups = sweep.groups
    place = {job.run.path: i for i, group in enumerate(groups) for job in group.jobs}
    ordered = sorted(sweep.jobs, key=lambda job: (place[job.run.path], job.run.name))
    with_curves = [job for job in ordered if job.run.stages]
    colours = [place[job.run.path] for job in with_curves]
    whisker_plots = [
        (sweep_tables.NAMES.get(name, name), *_whiskers(sweep, name)) for name in sweep.measures
    ]
    charts, details = compared_charts([job.run for job in with_curves], colours)
    return environment(Path(__file__).parent).get_template("sweep.html.j2").render(
        sweep=sweep,
        is_sweep=is_sweep,
        width=WIDTH,
        height=HEIGHT,
        smoothing=int(SMOOTHING),
        title=f"{sweep.name}: {'sweep' if is_sweep else 'comparison'}",
        tiles=_tiles(sweep),
        groups=sweep_tables.groups_grid(sweep),
        stages=sweep_tables.groups_grid(sweep, by_stage=True) if len(sweep.stages) > 1 else None,
        jobs=sweep_tables.jobs_grid(sweep),
        about=sweep_tables.ABOUT,
        warnings=sweep_tables.warnings(sweep),
        whiskers=[plot for plot in whisker_plots if plot[1]],
        legend=[(group.label, i, [(_legend(job, sweep), job) for job in group.jobs])
                for i, group in enumerate(groups)],
        charts=charts,
        details=details,
        missing=[(sweep_tables.told(job), command(job.run), job.run.state)
                 for job in sweep.unfinished],
        differing=_differing(sweep),
        link=lambda job: _link(job, out),
    )  # fmt: skip


def _tiles(sweep: Sweep) -> list[tuple[str, str, str]]:
    """Value, what it is, a remark."""
    states = [job.run.state for job in sweep.jobs]
    others = [f"{states.count(one)} {one}" for one in ("running", "failed", "unfinished")
              if one in states]  # fmt: skip
    tiles = [(f"{states.count('finished')} of {len(states)}", "runs finished", ", ".join(others))]
    best = sweep_tables.best(sweep.groups)
    if best is not None and sweep.held_out_sets < 2:
        loss = sweep_tables.estimate_cell("held_out_loss", best.estimates()["held_out_loss"])
        tiles.append((loss.text, "lowest held-out loss", f"{best.label} {loss.detail}"))
    swept = [key for key in sweep.keys if key not in SEEDS]
    if swept:
        seeds = max(len({job.draw for job in group.jobs}) for group in sweep.groups)
        tiles.append((", ".join(swept), "swept", f"{len(sweep.groups)} settings, up to {seeds} "
                      f"seed{'s' if seeds > 1 else ''} each"))  # fmt: skip
    seconds = sum(job.run.seconds for job in sweep.jobs)
    tokens = sum(one.target_tokens for job in sweep.jobs for one in job.results)
    if seconds:
        tiles.append((sweep_tables.duration(seconds), "of training", f"{tokens:,} target tokens"))
    return tiles


def _whiskers(sweep: Sweep, measure: str) -> tuple[list[Whisker], list[tuple[str, float]]]:
    """Rows of the dot plot of a measure, and ticks of its axis."""
    found: list[tuple[str, int, Estimate, list[tuple[float, str]]]] = []
    for place, group in enumerate(sweep.groups):
        own = group.estimates().get(measure)
        if own is not None and math.isfinite(own.mean):
            values = [(job.last.measures[measure], job.run.name) for job in group.jobs
                      if job.last and measure in job.last.measures]  # fmt: skip
            found.append((group.label, place, own, values))
    if not found:
        return [], []
    ends = [v for _, _, own, dots in found for v in (own.low, own.high, *(d for d, _ in dots))
            if v is not None]  # fmt: skip
    # A wide interval of two seeds must not squeeze everything else: the axis follows the means.
    seen = [v for _, _, own, dots in found for v in (own.mean, *(d for d, _ in dots))]
    room = max(seen) - min(seen)
    if room == 0:  # nothing to see: all are alike
        return [], []
    low, high = max(min(ends), min(seen) - room), min(max(ends), max(seen) + room)
    margin = 0.04 * ((high - low) or 1.0)
    axis = Axis(low - margin, high + margin)

    def at(value: float) -> float:
        return min(100.0, max(0.0, 100 * (value - axis.low) / (axis.high - axis.low)))

    rows = []
    for label, place, own, dots in found:
        cell = sweep_tables.estimate_cell(measure, own)
        bounds = [None if end is None else at(end) for end in (own.low, own.high)]
        rows.append(
            Whisker(label, place, cell.text, cell.detail, at(own.mean), bounds[0], bounds[1],
                    tuple((at(value), f"{name}: {value:.4g}") for value, name in dots))
        )  # fmt: skip
    percent = measure != "held_out_loss"
    ticks = [(f"{100 * v:.4g} %" if percent else f"{v:.4g}", 100 * p) for v, p in axis.ticks(4)]
    return rows, ticks


def _differing(sweep: Sweep) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Heads and rows of what the configurations say differently: a column for each group."""
    shown = [(group.label, job.run) for group in sweep.groups
             for job in group.jobs[:1] if job.run.stages]  # fmt: skip
    rows = differences([flat_options(run.config) for _, run in shown])
    rows = [(key, values) for key, values in rows if key not in SEEDS]
    return [label for label, _ in shown], rows


def _legend(job: Job, sweep: Sweep) -> str:
    """What a job is called beside its group's name."""
    seeds = [f"seed {job.options[key]}" for key in sweep.keys if key in SEEDS]
    return ", ".join(seeds) or job.run.name


def _link(job: Job, out: Path) -> str:
    """To the run's own page, where there is one."""
    page = job.run.path / "report.html"
    if not page.exists() or page.resolve() == out.resolve():
        return ""
    relative: Any = os.path.relpath(page.resolve(), out.resolve().parent)
    return quote(Path(relative).as_posix())
