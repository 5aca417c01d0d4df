"""A chart as its template wants it: drawn curves, labels, and the numbers for the read-out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orca.report import curves
from orca.report.curves import Series


@dataclass(frozen=True)
class Mark:
    """A vertical line at ``x``: a stage begins, or something happened (``is_incident``)."""

    x: float
    text: str
    is_incident: bool = False


@dataclass
class Chart:
    """Curves over one pair of axes.

    Attributes:
        title: with the unit.
        across: what the horizontal axis counts.
        percent: values are shares, read as per cent.
        is_wide: takes the width of the page.
        notes: sentences below it.
    """

    title: str
    series: list[Series]
    across: str = "optimizer step"
    percent: bool = False
    is_wide: bool = False
    marks: list[Mark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x = curves.x_axis(self.series)
        self.y = curves.y_axis(self.series)

    @property
    def shows_raw(self) -> bool:
        """Many curves are read as smoothed ones alone."""
        return len(self.series) <= 3

    def drawn(self) -> list[dict[str, Any]]:
        """Series with their paths."""
        found = []
        for one in self.series:
            raw, smooth = curves.paths(one, self.x, self.y)
            dots = curves.dots(one, self.x, self.y) if one.dots else ""
            has_raw = self.shows_raw and one.smooth
            found.append({"series": one, "raw": raw if has_raw else "", "smooth": smooth,
                          "dots": dots})  # fmt: skip
        return found

    def x_ticks(self) -> list[tuple[str, float]]:
        return [(short_number(value), 100 * place) for value, place in self.x.ticks(6)]

    def y_ticks(self) -> list[tuple[str, float]]:
        """Texts, and how far from the top, per cent."""
        step = self.y.high - self.y.low
        return [(self.text(value, step), 100 * (1 - place)) for value, place in self.y.ticks()]

    def placed_marks(self) -> list[tuple[Mark, float]]:
        """Marks, and how far from the left, per cent."""
        return [(one, 100 * float(self.x.share(np.array(one.x)))) for one in self.marks]

    def text(self, value: float, step: float) -> str:
        if not self.percent:
            return short_number(value)
        if self.y.log:
            return f"{100 * value:.3g} %"
        return f"{100 * value:.{0 if step > 0.05 else 1}f} %"

    def data(self) -> dict[str, Any]:
        """What the page's program reads values from."""
        return {
            "x": [self.x.low, self.x.high],
            "y": [self.y.low, self.y.high],
            "log": self.y.log,
            "percent": self.percent,
            "across": self.across,
            "series": [_series_data(one) for one in self.series],
        }


def _series_data(one: Series) -> dict[str, Any]:
    parts = []
    for s in one.segments:
        part = {"x": _rounded(s.x, 7), "y": _rounded(s.mean)}
        if s.is_thinned:
            part |= {"low": _rounded(s.low), "high": _rounded(s.high)}
        parts.append(part)
    return {
        "name": one.name,
        "job": one.job,
        "colour": one.colour,
        "dots": one.dots,
        "smooth": one.smooth,
        "parts": parts,
    }


def _rounded(values: np.ndarray, digits: int = 5) -> list[float]:
    found = (float(f"{value:.{digits}g}") for value in values.tolist())
    return [int(value) if value.is_integer() else value for value in found]


def short_number(value: float) -> str:
    """At most four digits: 0.0005, 12.5k, 3M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (1 if letter != "k" else 10):
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}" if abs(value) < 1e3 else f"{value:,.0f}"


def series_of(
    name: str,
    colour: int,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    buckets: int = curves.BUCKETS,
    job: str = "",
    dots: bool = False,
    smooth: bool = True,
) -> Series:
    """A series of the parts that have points; dots are not smoothed."""
    kept = tuple(curves.segment(x, y, buckets) for x, y in parts if len(x))
    return Series(name, colour, kept, job, dots, smooth and not dots)
