"""Two runs on the same items: which is better, how sure that is, and which items changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orca.errors import UserError
from orca.evaluation.scores import AVERAGE, TaskGrades
from orca.evaluation.statistics import Interval, mcnemar, paired_difference


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first run beside the second, by the paper's rule, on the items both have answered.

    Attributes:
        task: or ``average``, over all tasks.
        items: compared; ``unpaired`` have an answer in one run only and are left out: of the
            average, also those of tasks that one run has not.
        first, second: accuracy on the compared items; of the average, the macro average.
        difference: first less second, paired by item.
        p_value: that the difference is 0, by the bootstrap over items; None of too few.
        mcnemar: exact p-value of the items won and lost (each counts the same, also in the
            average); None where a run has several draws.
        won, lost: ids of the items that the first run has right more, or less, often.
    """

    benchmark: str
    task: str
    items: int
    unpaired: int
    first: float
    second: float
    difference: Interval
    p_value: float | None
    mcnemar: float | None
    won: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True)
class _Pairs:
    """The items of one task that both runs have answered, and their values, float64 [items]."""

    task: str
    ids: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray
    unpaired: int


def compare(
    first: Sequence[TaskGrades], second: Sequence[TaskGrades], seed: int = 0
) -> list[Comparison]:
    """The tasks of one benchmark that both runs have, in the first's order, and their average.

    Raises:
        UserError: the runs have no answered item in common.
    """
    others = {one.task: one for one in second}
    pairs = [_pair(one, others[one.task]) for one in first if one.task in others]
    pairs = [one for one in pairs if one.ids]
    if not pairs:
        raise UserError(
            "the two runs have no answered item in common: compare runs of the same benchmark "
            "and slice"
        )
    benchmark = first[0].benchmark
    alone = len(
        {id for one in first for id in _by_id(one)} ^ {id for one in second for id in _by_id(one)}
    )
    single = all(one.correct.shape[1] == 1 for one in (*first, *second))
    return [
        *(_comparison(benchmark, one.task, [one], one.unpaired, single, seed) for one in pairs),
        _comparison(benchmark, AVERAGE, pairs, alone, single, seed),
    ]


def _pair(first: TaskGrades, second: TaskGrades) -> _Pairs:
    mine, theirs = _by_id(first), _by_id(second)
    ids = tuple(id for id in mine if id in theirs)
    return _Pairs(
        first.task,
        ids,
        np.array([mine[id] for id in ids]),
        np.array([theirs[id] for id in ids]),
        len(mine.keys() ^ theirs.keys()),
    )


def _by_id(grades: TaskGrades) -> dict[str, float]:
    ids = [id for id, answered in zip(grades.ids, grades.answered, strict=True) if answered]
    return dict(zip(ids, grades.values("correct").tolist(), strict=True))


def _comparison(
    benchmark: str, task: str, pairs: Sequence[_Pairs], unpaired: int, single: bool, seed: int
) -> Comparison:
    difference, p_value = paired_difference([one.first - one.second for one in pairs], seed)
    changes = [
        (id, a - b)
        for one in pairs
        for id, a, b in zip(one.ids, one.first.tolist(), one.second.tolist(), strict=True)
    ]
    won = tuple(id for id, change in changes if change > 0)
    lost = tuple(id for id, change in changes if change < 0)
    return Comparison(
        benchmark=benchmark,
        task=task,
        items=len(changes),
        unpaired=unpaired,
        first=float(np.mean([one.first.mean() for one in pairs])),
        second=float(np.mean([one.second.mean() for one in pairs])),
        difference=difference,
        p_value=p_value,
        mcnemar=mcnemar(len(won), len(lost)) if single else None,
        won=won,
        lost=lost,
    )
