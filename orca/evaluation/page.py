"""The report as Markdown, JSON and one HTML page that loads nothing.

Prompts and answers are text of others: the template escapes every value. What is computed here for
it are numbers and SVG paths made of numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from orca.evaluation.paper import TABLES
from orca.evaluation.results import Results, as_json
from orca.evaluation.scores import AVERAGE, Score

RADIUS = 150  # of the radar chart, in SVG units
SHOWN = 1_500  # characters of a prompt or an answer


@dataclass(frozen=True)
class Bar:
    """A model's accuracy on a task, per cent; low and high are of its interval, if it has one."""

    model: str
    value: float
    low: float | None
    high: float | None
    colour: int


@dataclass(frozen=True)
class Chart:
    """Accuracies on a benchmark.

    Attributes:
        rows: name of a task and its bars.
        radar: models with their colour and the SVG path of their polygon; empty below 3 tasks.
        spokes: names of tasks with the end of their spoke and where their label is anchored.
    """

    benchmark: str
    models: tuple[tuple[str, int], ...]
    rows: tuple[tuple[str, tuple[Bar, ...]], ...]
    radar: tuple[tuple[str, int, str], ...]
    spokes: tuple[tuple[str, float, float, str], ...]


def save_results(results: Results, out: Path) -> None:
    """Write ``report.md``, ``report.json`` and ``report.html``."""
    (out / "report.md").write_text(report_markdown(results), encoding="utf-8")
    text = json.dumps(as_json(results), indent=1, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    (out / "report.html").write_text(report_html(results), encoding="utf-8")


def report_markdown(results: Results) -> str:
    """Tables first, then everything that was asked."""
    parts = [f"# {results.name}", results.text(), "## In detail"]
    parts += [table.markdown() for table in results.details]
    facts = json.dumps(results.facts, indent=1, ensure_ascii=False)
    parts += ["## What was asked", f"```json\n{facts}\n```"]
    return "\n\n".join(parts) + "\n"


def report_html(results: Results) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = _short
    return environment.get_template("report.html.j2").render(
        results=results,
        charts=[chart(name, runs) for name, runs in results.scores.items()],
        facts=json.dumps(results.facts, indent=1, ensure_ascii=False),
        radius=RADIUS,
    )


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} … ({len(text):,} characters)"


def chart(benchmark: str, runs: Mapping[str, Sequence[Score]]) -> Chart:
    """Bars and radar of the runs beside the paper's models."""
    paper = TABLES.get(benchmark)
    printed = tuple(paper.columns) if paper else ()
    models = (*printed, *runs)
    colours = {model: place % 8 for place, model in enumerate(models)}
    tasks = [one.task for one in next(iter(runs.values()))]
    real = [task for task in tasks if task != AVERAGE]
    rows, polygons = [], dict[str, list[float]]()
    for task in tasks:
        bars = []
        for model in printed:
            assert paper is not None
            cell = paper.average(model, real) if task == AVERAGE else paper.cell(model, task)
            if cell is not None:
                bars.append(Bar(model, cell, None, None, colours[model]))
        for model, scores in runs.items():
            (own,) = (one.accuracy.times(100) for one in scores if one.task == task)
            bars.append(Bar(model, own.value, own.low, own.high, colours[model]))
        rows.append((paper.tasks.get(task, task) if paper else task, tuple(bars)))
        if task != AVERAGE:
            for bar in bars:
                polygons.setdefault(bar.model, []).append(bar.value)
    whole = {model: values for model, values in polygons.items() if len(values) == len(real)}
    radar = () if len(real) < 3 else tuple((m, colours[m], _path(v)) for m, v in whole.items())
    names = [paper.tasks.get(task, task) if paper else task for task in real]
    return Chart(
        benchmark,
        tuple(colours.items()),
        tuple(rows),
        radar,
        _spokes(names) if radar else (),
    )


def _point(place: int, of: int, radius: float) -> tuple[float, float]:
    angle = 2 * math.pi * place / of - math.pi / 2
    return round(radius * math.cos(angle), 1), round(radius * math.sin(angle), 1)


def _path(values: Sequence[float]) -> str:
    points = [_point(i, len(values), RADIUS * v / 100) for i, v in enumerate(values)]
    return "M" + " L".join(f"{x},{y}" for x, y in points) + " Z"


def _spokes(names: Sequence[str]) -> tuple[tuple[str, float, float, str], ...]:
    spokes = []
    for i, name in enumerate(names):
        x, y = _point(i, len(names), RADIUS)
        anchor = "middle" if abs(x) < 5 else "start" if x > 0 else "end"
        spokes.append((name, x, y, anchor))
    return tuple(spokes)


def log_results(results: Results, logger: Any) -> None:
    """Send scores (``eval/<benchmark>/<task>``) and every table to a W&B logger."""
    logger.log_metrics(
        {
            f"eval/{benchmark}/{one.task}": one.accuracy.value
            for benchmark, runs in results.scores.items()
            for one in next(iter(runs.values()))
        }
    )
    for table in (*results.tables, *results.details):
        columns, rows = table.values()
        logger.log_table(f"eval/{table.title}", columns=columns, data=rows)
    logger.finalize("success")
