"""The report as Markdown, JSON and one HTML page that loads nothing.

Prompts and answers are text of others: the template escapes every value. What is computed here for
it are numbers and SVG paths made of numbers.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from orca.evaluation.paper import ORCA, TABLES, VICUNA
from orca.evaluation.results import Results, as_json
from orca.evaluation.scores import AVERAGE, Score
from orca.evaluation.tables import printed_cell, task_name
from orca.page import environment

BESIDE = (VICUNA, ORCA, "ChatGPT", "GPT-4")
"""Columns of the paper that stand in charts; all stand in tables."""
RADIUS = 150  # of the radar chart, in SVG units


@dataclass(frozen=True)
class Bar:
    """A run's accuracy on a task and its interval, per cent."""

    run: str
    value: float
    low: float
    high: float
    colour: int


@dataclass(frozen=True)
class Mark:
    """An accuracy to compare bars with, per cent: of one of the paper's models, or chance."""

    model: str
    value: float
    colour: int


@dataclass(frozen=True)
class Row:
    """A task, or the average over tasks, which has no number."""

    number: int | None
    name: str
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Polygon:
    """Of the radar chart: a corner for each task, in SVG units."""

    model: str
    colour: int
    points: tuple[tuple[float, float], ...]
    is_run: bool


@dataclass(frozen=True)
class Chart:
    """Accuracies on a benchmark.

    Attributes:
        runs, models: what has bars, and what has marks, with its colour.
        radar: empty below 3 tasks.
        spokes: number of a task and the end of its spoke.
    """

    benchmark: str
    runs: tuple[tuple[str, int], ...]
    models: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]
    radar: tuple[Polygon, ...]
    spokes: tuple[tuple[int, float, float], ...]


def save_results(results: Results, out: Path) -> None:
    """Write ``report.md``, ``report.json`` and ``report.html``."""
    (out / "report.md").write_text(report_markdown(results), encoding="utf-8")
    text = json.dumps(as_json(results), indent=1, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    (out / "report.html").write_text(report_html(results), encoding="utf-8")


def report_markdown(results: Results) -> str:
    """Tables first, then everything that was asked."""
    about = "\n".join(f"- {name}: {value}" for name, value in _header(results).items())
    parts = [f"# {results.name}", about, results.text(), "## In detail"]
    parts += [table.markdown() for table in results.details]
    facts = json.dumps(results.facts, indent=1, ensure_ascii=False)
    parts += ["## What was asked", f"```json\n{facts}\n```"]
    return "\n\n".join(filter(None, parts)) + "\n"


def report_html(results: Results) -> str:
    """The whole page."""
    return (
        environment(Path(__file__).parent)
        .get_template("report.html.j2")
        .render(
            results=results,
            header=_header(results),
            charts=[chart(name, runs) for name, runs in results.scores.items()],
            examples=[
                (name, list(own))
                for name, own in groupby(results.examples, lambda one: one.benchmark)
            ],
            facts=json.dumps(results.facts, indent=1, ensure_ascii=False),
            radius=RADIUS,
        )
    )


def _header(results: Results) -> dict[str, str]:
    """Model, protocol, how much was asked, and when; the fingerprints stand below the tables."""
    facts = {name: results.facts[name] for name in ("model", "protocol") if name in results.facts}
    return {name: _said(value) for name, value in facts.items()} | dict(results.about)


def _said(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(f"{name.replace('_', ' ')} {own}" for name, own in value.items())


def chart(benchmark: str, runs: Mapping[str, Sequence[Score]]) -> Chart:
    """Bars and radar of the runs beside the paper's models."""
    paper = TABLES.get(benchmark)
    first = next(iter(runs.values()))
    tasks = [one.task for one in first if one.task != AVERAGE]
    colours = {run: 5 + place % 4 for place, run in enumerate(runs)}
    beside = {model: 1 + place for place, model in enumerate(BESIDE)} if paper else {}
    rows = []
    for place, score in enumerate(first if len(tasks) > 1 else first[:1]):
        own = [(run, scores[place].accuracy.times(100)) for run, scores in runs.items()]
        bars = (Bar(run, one.value, one.low, one.high, colours[run]) for run, one in own)
        marks = [Mark("chance", 100 * score.chance, 0)]
        for model, colour in beside.items():
            cell = printed_cell(paper, model, score.task, tasks)
            marks += [] if cell is None else [Mark(model, cell, colour)]
        number = None if score.task == AVERAGE else place + 1
        rows.append(Row(number, task_name(paper, score.task), tuple(bars), tuple(marks)))
    several = len(tasks) > 2
    return Chart(
        benchmark,
        tuple(colours.items()),
        (("chance", 0), *beside.items()),
        tuple(rows),
        tuple(_polygons(rows[: len(tasks)])) if several else (),
        tuple((i + 1, *_point(i, len(tasks), 100)) for i in range(len(tasks))) if several else (),
    )


def _polygons(rows: Sequence[Row]) -> Iterator[Polygon]:
    """Of all that have a value on every task; chance has none, for it would hide the rest."""
    values: dict[tuple[str, int, bool], list[float]] = defaultdict(list)
    for row in rows:
        for mark in row.marks[1:]:
            values[mark.model, mark.colour, False].append(mark.value)
        for bar in row.bars:
            values[bar.run, bar.colour, True].append(bar.value)
    for (model, colour, is_run), own in values.items():
        if len(own) == len(rows):
            points = tuple(_point(i, len(own), value) for i, value in enumerate(own))
            yield Polygon(model, colour, points, is_run)


def _point(place: int, of: int, value: float) -> tuple[float, float]:
    """Of the radar chart: from the top, clockwise."""
    angle = 2 * math.pi * place / of - math.pi / 2
    radius = RADIUS * value / 100
    return round(radius * math.cos(angle), 1), round(radius * math.sin(angle), 1)
