"""Intervals and tests for scores of benchmarks, on plain arrays.

All intervals are 95 % percentile bootstrap intervals (Efron and Tibshirani, An Introduction to the
Bootstrap, chapter 13): items are drawn again with replacement within their task, and what is
reported is computed from each such resample. Several answers to one item stay together: the item
is what was sampled from the benchmark's subject, not the answer, so an item has one value, its mean
over the draws.

The price of so plain a method is paid by small tasks. Of accuracies of 0.1 to 0.9 an interval from
30 items or more covers 94 to 97 % (exact sums over binomial outcomes), from 20 items 88 % of an
accuracy of 0.1 or 0.9, and from 10 items 65 %. Where all items are right, or all wrong, it has no
width at all.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
_COUNTS_AT_ONCE = 2_000_000  # 16 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        return Interval(self.value * factor, self.low * factor, self.high * factor)


def resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means over bootstrap resamples of the rows: float64 [resamples, columns].

    How often each row is drawn is multinomial, and equal rows can be drawn as one. Accuracies have
    few different values, so this costs about as little as drawing a binomial number.

    Args:
        values: [items] or [items, columns]; the columns of an item stay together.
    """
    rows = values.reshape(len(values), -1).astype(np.float64)
    different, counts = np.unique(rows, axis=0, return_counts=True)
    at_once = max(1, _COUNTS_AT_ONCE // len(different))
    blocks = [
        rng.multinomial(len(rows), counts / len(rows), size=min(at_once, resamples - start))
        for start in range(0, resamples, at_once)
    ]
    return np.concatenate([block @ different for block in blocks]) / len(rows)


def macro_average(tasks: Sequence[np.ndarray], seed: int = 0) -> Interval:
    """Mean of the tasks' means, each task counting the same, as in the paper.

    Args:
        tasks: for each task the values of its items, [items]. One task: its mean.
    """
    rng = np.random.default_rng(seed)
    means = [resampled_means(values, RESAMPLES, rng)[:, 0] for values in tasks]
    return _interval(_mean([float(np.mean(values)) for values in tasks]), np.mean(means, axis=0))


def macro_ratio(sets: Sequence[np.ndarray], seed: int = 0) -> Interval:
    """Mean over sets of (total of the candidate / total of the reference), of judged answers.

    Args:
        sets: for each set [items, 2]: the candidate's and the reference's score of an answer.
    """
    rng = np.random.default_rng(seed)
    ratios = []
    for scores in sets:
        means = resampled_means(scores, RESAMPLES, rng)
        with np.errstate(divide="ignore", invalid="ignore"):  # all of a small resample may be 0
            ratios.append(means[:, 0] / means[:, 1])
    value = _mean([float(scores[:, 0].sum() / scores[:, 1].sum()) for scores in sets])
    return _interval(value, np.mean(ratios, axis=0))


def draw_spread(tasks: Sequence[np.ndarray]) -> float | None:
    """Standard deviation of the macro average over draws; None with fewer than two draws.

    It says how far one run may be from another with other seeds, on the same items.

    Args:
        tasks: for each task [items, draws], NaN where no answer came.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw without answers stays NaN
        averages = np.mean([np.nanmean(scores, axis=0) for scores in tasks], axis=0)
    averages = averages[~np.isnan(averages)]
    return float(np.std(averages, ddof=1)) if len(averages) > 1 else None


def paired_difference(tasks: Sequence[np.ndarray], seed: int = 0) -> tuple[Interval, float]:
    """Macro average of the differences of two runs, and its two-sided bootstrap p-value.

    The p-value is twice the smaller share of resamples on one side of 0, and never below
    2 / (RESAMPLES + 1).

    Args:
        tasks: for each task [items] the value of an item in one run less that in the other.
    """
    rng = np.random.default_rng(seed)
    means = np.mean([resampled_means(values, RESAMPLES, rng)[:, 0] for values in tasks], axis=0)
    value = _mean([float(np.mean(values)) for values in tasks])
    # Sums of 1/n that cancel do so up to rounding.
    sides = np.count_nonzero(means <= 1e-12), np.count_nonzero(means >= -1e-12)
    p_value = min(1.0, 2 * (1 + min(sides)) / (RESAMPLES + 1))
    return _interval(value, means), p_value


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p-value of McNemar's test: are as many items won as lost?

    The items that only one run has right are coin tosses when the runs are equally good.

    Args:
        won, lost: items that only the one run, or only the other, has right.
    """
    tosses = won + lost
    tail = sum(math.comb(tosses, heads) for heads in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**tosses)


def _interval(value: float, means: np.ndarray) -> Interval:
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
