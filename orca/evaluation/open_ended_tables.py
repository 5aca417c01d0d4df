"""Table 7 with new columns: open-ended answers, judged beside a reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from orca.errors import UserError
from orca.evaluation.paper import (
    MISPRINTS,
    OPEN_ENDED,
    OPEN_ENDED_AVERAGES,
    ORCA,
    VICUNA,
    OpenEnded,
    relative_gain,
)
from orca.evaluation.scores import AVERAGE
from orca.evaluation.statistics import macro_ratio
from orca.evaluation.table import Cell, Table
from orca.evaluation.tables import gain


@dataclass(frozen=True)
class Judged:
    """The judge's scores of a model's answers to one set of prompts.

    Attributes:
        reference: the model whose answers were judged beside them.
        scores: float64 [items, 2]: of the candidate, of the reference.
        unparsed: reviews without two scores; their items are not in ``scores``.
        failed: reviews that did not come, after all attempts; nor are theirs.
    """

    benchmark: str
    reference: str
    scores: np.ndarray
    unparsed: int = 0
    failed: int = 0


def open_ended_table(runs: Mapping[str, Sequence[Judged]], seed: int = 0) -> Table:
    """Scores given by a judge in per cent of the reference's, as Table 7.

    A run's average for a reference is over the sets it has; so is the paper's beside it.

    Args:
        runs: by the head of their column.

    Raises:
        UserError: the runs have other sets or references than each other.
    """
    pairs = [[(one.benchmark, one.reference) for one in run] for run in runs.values()]
    if any(sorted(one) != sorted(pairs[0]) for one in pairs):
        raise UserError("runs with other sets of prompts or references do not fit into one table")
    head: tuple[str, ...] = ("set", "reference", VICUNA, ORCA, f"{ORCA}: gain over {VICUNA}, %")
    for name in runs:
        head += (name, f"{name}: gain over {VICUNA}, %", f"{name}: unparsed reviews")
    rows = [_judged_row(runs, [pair], pair[0], pair[1], seed) for pair in pairs[0]]
    for reference in dict.fromkeys(reference for _, reference in pairs[0]):
        own = [pair for pair in pairs[0] if pair[1] == reference]
        if len(own) > 1:
            rows.append(_judged_row(runs, own, AVERAGE, reference, seed))
    gain = MISPRINTS[0]
    note = (
        f"The paper prints a gain of {gain.printed} for the average with GPT-4 as reference; its "
        f"cells give {gain.computed}."
    )
    return Table("Open-ended, % of the reference's score (Table 7)", head, tuple(rows), (note,))


def _judged_row(
    runs: Mapping[str, Sequence[Judged]],
    pairs: Sequence[tuple[str, str]],
    name: str,
    reference: str,
    seed: int,
) -> tuple[Cell, ...]:
    paper = _open_ended(pairs, reference)
    row: list[Cell] = [name, reference]
    row += [paper.vicuna, paper.orca, paper.gain] if paper else [None, None, None]
    for run in runs.values():
        judged = [one for one in run if (one.benchmark, one.reference) in pairs]
        ratio = macro_ratio([one.scores for one in judged], seed)
        row += [
            ratio.times(100),
            gain(ratio.value, paper.vicuna if paper else None),
            sum(one.unparsed for one in judged),
        ]
    return tuple(row)


def _open_ended(pairs: Sequence[tuple[str, str]], reference: str) -> OpenEnded | None:
    """The paper's row for a set, or for the average over several; None where it has not all."""
    found = [one for one in OPEN_ENDED if (one.benchmark, one.reference) in pairs]
    if not found or len(found) < len(pairs):
        return None
    if len(found) == 1:
        return found[0]
    if len(found) == sum(one.reference == reference for one in OPEN_ENDED):
        return next(one for one in OPEN_ENDED_AVERAGES if one.reference == reference)
    vicuna, orca = mean(one.vicuna for one in found), mean(one.orca for one in found)
    gain = round(relative_gain(orca, vicuna), 1)
    return OpenEnded(AVERAGE, reference, round(vicuna, 1), round(orca, 1), gain)
