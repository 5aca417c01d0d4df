"""What the arms of `experiment=replication_small` say of the paper's claims (docs/replication.md).

A claim is decided only where two sources of chance both leave it no doubt: which questions were
asked (a paired test over items on the mean over seeds, adjusted for all claims), and which seeds
were drawn (Welch's t interval over the accuracies of the seeds).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orca.evaluation.comparison import compare
from orca.evaluation.scores import TaskGrades
from orca.evaluation.statistics import Interval
from orca.evaluation.table import Cell, Table
from orca.report.sweep import t_quantile

Arms = Mapping[str, Mapping[str, Sequence[TaskGrades]]]
"""What was graded, by arm and benchmark; an arm's seeds are its draws."""

SEEDS = 3

MARGIN = 5.0
"""Points of accuracy that "costs nothing" may cost."""


@dataclass(frozen=True)
class Claim:
    """The first arm is better than the second, or costs no more than ``MARGIN``."""

    first: str
    second: str
    meaning: str
    costs_nothing: bool = False


CLAIMS = (
    Claim("progressive", "stage2_only", "Two stages beat stage 2 alone at equal target tokens"),
    Claim("progressive", "stage1_only", "Two stages beat stage 1 alone at equal target tokens"),
    Claim("progressive", "mixed", "The order of the stages matters: two stages beat one shuffle"),
    Claim("mixed", "answers", "Explanations beat answers at as many tokens read"),
    Claim("mixed_few", "answers", "Explanations beat answers at as many target tokens"),
    Claim("cot_rationales", "cot_answers", "Human rationales beat answers, the same queries"),
    Claim("progressive", "no_system_message", "System messages help"),
    Claim("no_system_message", "by_length", "Shuffling beats short to long"),
    Claim("no_system_message", "by_difficulty", "Shuffling beats easy to hard"),
    Claim("progressive", "contaminated", "Isolated examples beat packs without boundaries"),
    Claim("progressive", "unpacked", "Packing costs nothing", costs_nothing=True),
)


def claims_table(arms: Arms, benchmark: str) -> Table:
    """What a benchmark says of every claim.

    One family of tests, claims whose arms have not been asked yet among them: what is decided now
    is not undone by a test that comes later. "Costs nothing" is decided by intervals, outside.
    """
    found = {
        claim: compare(arms[claim.first][benchmark], arms[claim.second][benchmark])[-1]
        for claim in CLAIMS
        if all(is_complete(arms.get(arm, {}).get(benchmark)) for arm in (claim.first, claim.second))
    }
    family = [claim for claim in CLAIMS if not claim.costs_nothing]
    adjusted = holm([found[claim].p_value if claim in found else 1.0 for claim in family])
    p_values = dict(zip(family, adjusted, strict=True))
    rows: list[tuple[Cell, ...]] = []
    for claim in CLAIMS:
        head = (claim.meaning, f"{claim.first} − {claim.second}")
        if claim not in found:
            rows.append((*head, None, None, "", "not asked yet"))
            continue
        points, p_value = found[claim].difference.times(100), p_values.get(claim)
        seeds = over_seeds(
            *(accuracies(arms[arm][benchmark]) for arm in (claim.first, claim.second))
        )
        shown = "too few items" if p_value is None else f"{p_value:.2g}"
        said = verdict(points, p_value, seeds, claim.costs_nothing)
        rows.append((*head, points, seeds, "" if claim.costs_nothing else shown, said))
    items = max((one.items for one in found.values()), default=0)
    return Table(
        f"Claims, by the {items} items of {benchmark}",
        ("claim", "difference", "points, over items", "over seeds", "p (items, Holm)", "verdict"),
        tuple(rows),
    )


def is_complete(tasks: Sequence[TaskGrades] | None) -> bool:
    """Whether all seeds of an arm have been asked."""
    return bool(tasks) and all(one.correct.shape[1] == SEEDS for one in tasks or ()) and bool(
        np.isfinite(accuracies(tasks or ())).all()
    )  # fmt: skip


def accuracies(tasks: Sequence[TaskGrades]) -> np.ndarray:
    """Macro averages by seed, per cent, float64 [seeds]; NaN of a seed that was not asked."""
    seeds = [
        [np.mean(own[~np.isnan(own)]) if not np.isnan(own).all() else np.nan for own in one.T]
        for one in (task.correct for task in tasks)
    ]
    return 100 * np.mean(seeds, axis=0)


def over_seeds(first: np.ndarray, second: np.ndarray) -> Interval:
    """Difference of the means with Welch's 95 % t interval: what other seeds would give.

    Seeds of the same number share nothing where the data differ, so they are not paired.

    Args:
        first, second: a value of each seed, at least two.
    """
    difference = float(first.mean() - second.mean())
    parts = [float(np.var(own, ddof=1)) / len(own) for own in (first, second)]
    if not any(parts):
        return Interval(difference, difference, difference)
    squares = [part**2 / (len(own) - 1) for part, own in zip(parts, (first, second), strict=True)]
    half = t_quantile(sum(parts) ** 2 / sum(squares)) * math.sqrt(sum(parts))
    return Interval(difference, difference - half, difference + half)


def verdict(
    points: Interval, p_value: float | None, seeds: Interval, costs_nothing: bool = False
) -> str:
    """``holds``, ``does not hold`` (the opposite does), or ``cannot tell``.

    Args:
        points: first arm less second, with its interval over items.
        p_value: over items, adjusted; None of too few items.
        seeds: the difference with its interval over seeds.
        costs_nothing: the claim is that the difference is above −MARGIN; its opposite, below.
    """
    if costs_nothing:
        if min(points.low, seeds.low) > -MARGIN:
            return "holds"
        return "does not hold" if max(points.high, seeds.high) < -MARGIN else "cannot tell"
    if p_value is None or p_value >= 0.05 or seeds.low <= 0 <= seeds.high:
        return "cannot tell"
    return "holds" if points.value > 0 else "does not hold"


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted for several tests of one family (Holm, 1979); None stays None."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = highest
    return adjusted
