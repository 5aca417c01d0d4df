"""What is drawn is what was logged, however long it is."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca.report import curves
from orca.report.chart import Chart, short_number
from orca.report.curves import BUCKETS, HEIGHT, WIDTH, Axis, Series, paths, segment, smoothed


def test_a_long_curve_keeps_its_extremes_its_mean_and_its_order() -> None:
    x = np.arange(100_000)
    y = np.random.default_rng(0).normal(2, 0.1, 100_000)
    y[70_123], y[31_007] = 50.0, -50.0
    thin = segment(x, y)
    assert len(thin.x) == BUCKETS and thin.is_thinned
    assert thin.high.max() == 50.0 and thin.low.min() == -50.0
    assert abs(thin.x[thin.high.argmax()] - 70_123) < 100_000 / BUCKETS
    assert thin.mean.mean() == pytest.approx(y.mean())
    assert (np.diff(thin.x) > 0).all()
    raw, smooth = paths(Series("one", 0, (thin,)), Axis(0, 1e5), Axis(-50, 50))
    assert raw.count("L") + 1 == 2 * BUCKETS and smooth.count("L") + 1 == BUCKETS


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2_000), st.integers(1, 300))
def test_thinning_never_loses_an_extreme(values: list[float], buckets: int) -> None:
    y = np.array(values)
    thin = segment(np.arange(len(y)), y, buckets)
    assert len(thin.x) <= max(buckets, 1)
    assert (thin.low.min(), thin.high.max()) == (y.min(), y.max())


@pytest.mark.parametrize("per_cent", [0, 4, 30, 100])
def test_smoothing_is_a_centred_mean_that_is_shorter_at_the_ends(per_cent: float) -> None:
    y = np.random.default_rng(1).normal(size=101)
    half = int(101 * per_cent / 200)
    wanted = [y[max(0, i - half) : i + half + 1].mean() for i in range(101)]
    assert smoothed(y, per_cent) == pytest.approx(wanted)


def test_points_are_where_the_axes_say() -> None:
    one = Series(
        "one", 0, (segment(np.array([0, 5, 10]), np.array([0.0, 1.0, 4.0])),), smooth=False
    )
    raw, smooth = paths(one, Axis(0, 10), Axis(0, 4))
    assert raw == smooth
    found = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", smooth)]
    assert found == [(0, HEIGHT), (WIDTH / 2, HEIGHT * 0.75), (WIDTH, 0)]


def test_a_tick_above_the_axis_by_rounding_is_drawn_at_its_end() -> None:
    axis = Axis(0.0, 0.3)
    value, place = axis.ticks(3)[-1]
    assert value > axis.high and place == 1.0, "3 · 0.1 is more than 0.3"


@given(
    st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=1, max_size=50),
    st.booleans(),
)
def test_every_value_lies_inside_the_plot_and_ticks_are_few(
    values: list[float], dots: bool
) -> None:
    y = np.array(values)
    chart = Chart("a chart", [Series("one", 0, (segment(np.arange(len(y)), y),), dots=dots)])
    assert (chart.y.low <= y).all() and (y <= chart.y.high).all()
    assert len(chart.y_ticks()) <= 7 and all(0 <= top <= 100 for _, top in chart.y_ticks())
    assert "nan" not in chart.drawn()[0]["smooth"]


def test_a_wild_curve_has_a_logarithmic_axis() -> None:
    wild = Series("one", 0, (segment(np.arange(5), np.array([1.0, 1, 1, 1, 5_000])),))
    axis = curves.y_axis([wild])
    assert axis.log and [value for value, _ in axis.ticks()] == [1, 10, 100, 1000]
    assert not curves.y_axis([Series("one", 0, (segment(np.arange(2), np.array([1.0, 9])),))]).log


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0005, "0.0005"), (1_500, "1,500"), (12_500, "12.5k"), (3e6, "3M"), (2e9, "2B")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short_number(value) == text
