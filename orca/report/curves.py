"""Curves as SVG paths made of numbers, thin enough for a page and true to their extremes.

A curve of more than :data:`BUCKETS` points becomes as many buckets of equal numbers of points. A
bucket keeps its mean, least and greatest value: a spike of one step in 100,000 is still seen, and
smoothing, which goes over the means, is not drawn to the spikes.

The plane of a plot is :data:`WIDTH` × :data:`HEIGHT` units, which the page stretches to the place
there is; lines keep their width. Labels are not part of the drawing and so keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

BUCKETS = 500
WIDTH, HEIGHT = 1000, 300
SMOOTHING = 4.0
"""Per cent of a segment's points that a point of a smoothed curve is the mean of, at first."""


@dataclass(frozen=True)
class Segment:
    """An unbroken part of a curve: of one stage.

    Attributes:
        x, mean: float64 [buckets].
        low, high: float64 [buckets]; the means themselves where nothing was thinned.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def is_thinned(self) -> bool:
        return self.low is not self.mean


@dataclass(frozen=True)
class Series:
    """A curve with its name and the number of its colour.

    Attributes:
        job: what a legend shows or hides it by.
        dots: few values, each to be seen.
        smooth: what it shows is noisy.
    """

    name: str
    colour: int
    segments: tuple[Segment, ...]
    job: str = ""
    dots: bool = False
    smooth: bool = True


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``, on a logarithmic scale or not."""

    low: float
    high: float
    log: bool = False

    def share(self, values: np.ndarray) -> np.ndarray:
        """Where values lie between the ends: 0 to 1."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            return (np.log10(values) - low) / (high - low)
        return (values - self.low) / (self.high - self.low)

    def ticks(self, most: int = 5) -> list[tuple[float, float]]:
        """Round values, and where they lie: 0 to 1."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = max(1, -(-(last - first + 1) // most))
            values = [10.0**power for power in range(first, last + 1, every)]
        else:
            step = _round_step((self.high - self.low) / most)
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            values = [place * step for place in range(first, last + 1)]
        # The last one may lie above the axis by the rounding of its step.
        places = np.clip(self.share(np.array(values)), 0.0, 1.0)
        return list(zip(values, places.tolist(), strict=True))


def segment(x: np.ndarray, y: np.ndarray, buckets: int = BUCKETS) -> Segment:
    """A segment of at most ``buckets`` buckets.

    Args:
        x, y: [points], finite, at least one.
    """
    if len(x) <= buckets:
        return Segment(x.astype(float), y, y, y)
    starts = np.linspace(0, len(x), buckets, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, len(x)))
    return Segment(
        np.add.reduceat(x, starts) / sizes,
        np.add.reduceat(y, starts) / sizes,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts),
    )


def smoothed(values: np.ndarray, per_cent: float = SMOOTHING) -> np.ndarray:
    """Centred running mean over ``per_cent`` of the values; fewer at the ends.

    orca/report/report.js.j2 does the same when a reader chooses another share.
    """
    half = int(len(values) * per_cent / 200)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def x_axis(series: Iterable[Series]) -> Axis:
    ends = [(s.x[0], s.x[-1]) for one in series for s in one.segments]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    return Axis(float(low), float(high) if high > low else float(low) + 1)


def y_axis(series: Sequence[Series]) -> Axis:
    """With room for all values, from 0 where that costs little, logarithmic for wild ones."""
    low = float(min(s.low.min() for one in series for s in one.segments))
    high = float(max(s.high.max() for one in series for s in one.segments))
    middle = float(np.median(np.concatenate([s.mean for one in series for s in one.segments])))
    if low > 1e-9 * high > 0 and high > 40 * middle:
        return Axis(low / 1.2, high * 1.2, log=True)
    if high <= low:
        room = abs(high) * 0.1 or 1.0
        return Axis(low - room if low else 0.0, high + room)
    if 0 <= low < 0.45 * high:
        return Axis(0.0, high * 1.05)
    room = 0.06 * (high - low)
    return Axis(low - room if low < 0 or low > room else 0.0, high + room)


def paths(one: Series, x: Axis, y: Axis) -> tuple[str, str]:
    """Path data of the curve as it was logged (thinned: from least to greatest), and smoothed."""
    raw, smooth = [], []
    for s in one.segments:
        across = np.repeat(s.x, 2) if s.is_thinned else s.x
        along = np.column_stack([s.low, s.high]).ravel() if s.is_thinned else s.mean
        raw.append(_path(across, along, x, y))
        smooth.append(_path(s.x, smoothed(s.mean) if one.smooth else s.mean, x, y))
    return "".join(raw), "".join(smooth)


def dots(one: Series, x: Axis, y: Axis) -> str:
    """Path data of a dot at each point: lines of no length, with round ends."""
    across, along = (np.concatenate(parts) for parts in zip(
        *((s.x, s.mean) for s in one.segments), strict=True))  # fmt: skip
    return "".join(f"M{a:.1f} {b:.1f}h0" for a, b in _places(across, along, x, y))


def _path(across: np.ndarray, along: np.ndarray, x: Axis, y: Axis) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in _places(across, along, x, y))


def _places(across: np.ndarray, along: np.ndarray, x: Axis, y: Axis) -> Iterable[tuple[float, ...]]:
    places = np.column_stack([WIDTH * x.share(across), HEIGHT * (1 - y.share(along))])
    return map(tuple, places.tolist())


def _round_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, at least ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= least * (1 - 1e-9))
