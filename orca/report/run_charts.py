"""Which metrics a chart shows, for one run and for several beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orca.report.chart import Chart, Mark, series_of
from orca.report.curves import BUCKETS
from orca.report.directory import Run, StageRun


@dataclass(frozen=True)
class Panel:
    """A chart's title and metrics: by name or, ending in ``*``, by the beginning of the name.

    Attributes:
        names: of the curves, where the metrics' own would say less.
    """

    title: str
    metrics: tuple[str, ...]
    names: tuple[str, ...] = ()
    percent: bool = False
    is_wide: bool = False


PANELS = (
    Panel("Loss, nats per target token", ("train/loss", "val/loss"), ("training", "held out"),
          is_wide=True),
    Panel("Held-out loss by sub-collection, nats per target token", ("val/loss/*",)),
    Panel("Exact answers to held-out questions", ("val/exact_answer",), ("exact answers",),
          percent=True),
    Panel("Benchmarks, accuracy", ("eval/*/accuracy",), percent=True),
    Panel("Benchmarks, answers by the stricter rule", ("eval/*/stated",), percent=True),
    Panel("Benchmarks, answers without a label", ("eval/*/format_failures",), percent=True),
    Panel("Learning rate", ("train/lr",), ("learning rate",)),
    Panel("Norm of the gradient, before clipping", ("train/gradient_norm",), ("gradient norm",)),
    Panel("Tokens per second",
          ("throughput/tokens_per_second", "throughput/target_tokens_per_second"),
          ("tokens", "target tokens")),
    Panel("Model FLOPs utilisation", ("throughput/mfu",), ("MFU",), percent=True),
    Panel("Peak memory of a device, GiB", ("throughput/peak_memory_gib",), ("peak memory",)),
    Panel("Length of responses, tokens", ("data/response_tokens", "samples/response_tokens"),
          ("teacher's, in the step", "student's, to held-out questions")),
    Panel("Packs filled, and waiting for data",
          ("throughput/fill", "throughput/data_wait"),
          ("packs filled", "share of time waiting for data"), percent=True),
    Panel("Skipped steps", ("guards/skipped_steps",), ("skipped steps",)),
)  # fmt: skip
"""In the order of the page."""

COUNTERS = ("data/progress", "data/tokens", "data/target_tokens")
"""Metrics that rise evenly: they are no curve to look at."""

AFTER = ("val/", "eval/", "samples/")
"""Beginnings of the names of metrics that are seldom measured."""


def run_charts(run: Run) -> list[Chart]:
    """All metrics of a run, its stages one after the other."""
    starts = stage_starts(run)
    one_line = len(set(starts.values())) == len(starts)
    logged = dict.fromkeys(name for stage in run.stages for name in stage.metrics)
    charts = []
    for panel in _panels(logged):
        chart = _chart(run, panel, list(logged), starts, one_line)
        if chart is not None:
            charts.append(chart)
    return charts


def compared_charts(runs: Sequence[Run], colours: Sequence[int]) -> tuple[list[Chart], list[Chart]]:
    """A chart for each metric, a curve for each run, over target tokens where all runs count them.

    Args:
        colours: of the runs.

    Returns:
        Charts to see, and those of single sub-collections, which may be many.
    """
    trained = [s for run in runs for s in run.stages if "train/loss" in s.metrics]
    by_tokens = all("data/target_tokens" in s.metrics for s in trained)
    buckets = max(100, min(BUCKETS, 10_000 // max(len(runs), 1)))
    logged = dict.fromkeys(name for run in runs for s in run.stages for name in s.metrics)
    charts: list[Chart] = []
    details: list[Chart] = []
    for panel in _panels(logged):
        for place, metric in enumerate(_chosen(panel, list(logged))):
            series = []
            for run, colour in zip(runs, colours, strict=True):
                starts = stage_starts(run, by_tokens)
                parts = [
                    (starts[s.name] + _across(s, metric, by_tokens), s.metrics[metric][1])
                    for s in run.stages
                    if metric in s.metrics
                ]
                one = series_of(
                    run.name,
                    colour,
                    parts,
                    buckets,
                    run.name,
                    _is_after(metric),
                    metric != "train/lr",
                )
                series += [one] if one.segments else []
            if series:
                title = _title(panel, place, metric)
                across = "target tokens" if by_tokens else "optimizer step"
                chart = Chart(title, series, across, panel.percent, metric == "val/loss")
                missing = sum(s.not_finite.get(metric, 0) for run in runs for s in run.stages)
                chart.notes += _left_out(missing)
                (details if metric.startswith("val/loss/") else charts).append(chart)
    charts.sort(key=lambda chart: not chart.is_wide)
    return charts, details


def stage_starts(run: Run, by_tokens: bool = False) -> dict[str, float]:
    """Where each stage begins on the common axis: at the end of the stage that it starts from."""
    lengths = {s.name: s.tokens("target_tokens") or 0 if by_tokens else s.steps
               for s in run.stages}  # fmt: skip
    starts: dict[str, float] = {}
    for stage in run.stages:  # a stage comes after the one that it starts from
        before = stage.start_from
        starts[stage.name] = starts[before] + lengths[before] if before in starts else 0.0
    return starts


def _chart(
    run: Run, panel: Panel, logged: Sequence[str], starts: dict[str, float], one_line: bool
) -> Chart | None:
    series, missing = [], 0
    for place, metric in enumerate(_chosen(panel, logged)):
        stages = [stage for stage in run.stages if metric in stage.metrics]
        missing += sum(stage.not_finite.get(metric, 0) for stage in stages)
        groups = [stages] if one_line else [[stage] for stage in stages]
        for number, own in enumerate(groups):
            parts = [(starts[s.name] + s.metrics[metric][0], s.metrics[metric][1]) for s in own]
            name = panel.names[place] if panel.names else metric.removesuffix("/accuracy")
            name = name.removeprefix("val/loss/").removeprefix("eval/")
            name = name if one_line else f"{name}, {own[0].name}"
            one = series_of(
                name, place + 2 * number, parts, dots=_is_after(metric), smooth=metric != "train/lr"
            )
            series += [one] if one.segments else []
    if not series:
        return None
    marks = [Mark(starts[s.name], s.name) for s in run.stages] if len(run.stages) > 1 else []
    if "train/loss" in panel.metrics:
        marks += [Mark(starts[s.name] + one["step"], str(one.get("kind", "incident")), True)
                  for s in run.stages for one in s.incidents]  # fmt: skip
    chart = Chart(panel.title, series, "optimizer step", panel.percent, panel.is_wide, marks)
    chart.notes += _left_out(missing)
    return chart


def _left_out(values: int) -> list[str]:
    return [f"{values:,} value(s) that are no finite number are left out."] if values else []


def _panels(logged: dict[str, None]) -> Iterator[Panel]:
    """Those of the page, and one for each metric that none of them shows."""
    shown = {name for panel in PANELS for name in _chosen(panel, list(logged))}
    yield from PANELS
    for name in logged:
        if name not in shown and name not in COUNTERS:
            yield Panel(name, (name,), (name,))


def _chosen(panel: Panel, logged: Sequence[str]) -> list[str]:
    found = []
    for pattern in panel.metrics:
        start, star, end = pattern.partition("*")
        if star:
            found += [n for n in logged if n.startswith(start) and n.endswith(end) and n != start]
        elif panel.names or pattern in logged:
            found.append(pattern)
    return found


def _title(panel: Panel, place: int, metric: str) -> str:
    """Of a chart for one metric of a panel."""
    if metric in ("train/loss", "val/loss"):
        return f"{'Training' if place == 0 else 'Held-out'} loss, nats per target token"
    if metric.startswith("val/loss/"):
        return f"Held-out loss on {metric.removeprefix('val/loss/')}"
    if len(panel.metrics) == 1 and "*" not in panel.metrics[0]:
        return panel.title
    if panel.names and panel.percent:
        return panel.names[place].capitalize()
    name = panel.names[place] if panel.names else metric.split("/", 1)[1]
    return f"{panel.title}: {name.removesuffix('/accuracy')}"


def _is_after(metric: str) -> bool:
    return metric.startswith(AFTER)


def _across(stage: StageRun, metric: str, by_tokens: bool) -> np.ndarray:
    """Horizontal places of a metric's values within its stage."""
    steps = stage.metrics[metric][0]
    if not by_tokens:
        return steps
    counted, tokens = stage.metrics.get("data/target_tokens", (np.zeros(0), np.zeros(0)))
    if stage.steps > (counted[-1] + 1 if len(counted) else 0):  # not every step is logged
        counted = np.append(counted, stage.steps - 1)
        tokens = np.append(tokens, stage.tokens("target_tokens") or 0)
    # The count is that after its step; what was logged under steps done is taken one step before.
    done = steps if metric.startswith("val/loss") else steps + 1
    return np.interp(done, np.append(0, counted + 1), np.append(0.0, tokens))
