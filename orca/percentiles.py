"""Percentiles of counted whole numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def percentiles(
    histogram: Mapping[int, int], points: tuple[int, ...] = (0, 5, 25, 50, 75, 95, 100)
) -> dict[str, int]:
    """Exact nearest-rank percentiles of a histogram of whole numbers, by name (p0 is the least)."""
    if not histogram:
        return {f"p{point}": 0 for point in points}
    values = np.array(sorted(histogram))
    reached = np.cumsum([histogram[value] for value in values.tolist()])
    places = [max(1, -(-point * int(reached[-1]) // 100)) for point in points]
    return {
        f"p{point}": int(values[np.searchsorted(reached, place)])
        for point, place in zip(points, places, strict=True)
    }
