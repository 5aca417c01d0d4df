"""From the answers of a run to the scores of its tasks, and to what differs between two runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from orca.errors import UserError
from orca.evaluation.item import Item, Sample
from orca.evaluation.statistics import Interval, draw_spread, macro_share

AVERAGE = "average"
"""Stands for the task in the score of a whole benchmark: its macro average."""


@dataclass(frozen=True)
class TaskGrades:
    """What became of every answer of one task, by one model under one system message.

    Attributes:
        ids: of the items, in the order of their first answers.
        chance: for each item the share of its labels that are right (0 without labels), float64
            [items].
        correct: by the paper's rule, float64 [items, draws]: 1, 0, or NaN where no answer came.
        stated: the same by the stricter extractor.
        unparsed: 1 where the paper's rule finds no label, NaN as above.
        unstated: 1 where the stricter extractor finds none, NaN as above.
        failed: number of samples for which no answer came.
    """

    benchmark: str
    task: str
    ids: tuple[str, ...]
    chance: np.ndarray
    correct: np.ndarray
    stated: np.ndarray
    unparsed: np.ndarray
    unstated: np.ndarray
    failed: int

    @property
    def answered(self) -> np.ndarray:
        """Which items have at least one answer, bool [items]."""
        return ~np.isnan(self.correct).all(axis=1)

    def values(self, name: str) -> np.ndarray:
        """Mean over the draws of ``correct``, ``stated``, … for each answered item."""
        return np.nanmean(getattr(self, name)[self.answered], axis=1)


@dataclass(frozen=True, slots=True)
class Score:
    """A row of the results; rates are shares from 0 to 1.

    Attributes:
        task: or :data:`AVERAGE`, whose rates are plain means over the tasks.
        items: with at least one answer.
        draws: answers to an item, at most.
        accuracy: by the paper's rule.
        spread: standard deviation of the accuracy over draws; None with one draw.
        stated: accuracy by the stricter extractor.
        format_failures: answers in which the paper's rule finds no label.
        stated_failures: answers in which the stricter extractor finds none.
        chance: accuracy of a guess among the labels.
        failed: number of samples for which no answer came. They count neither as right nor wrong.
    """

    benchmark: str
    task: str
    items: int
    draws: int
    accuracy: Interval
    spread: float | None
    stated: Interval
    format_failures: float
    stated_failures: float
    chance: float
    failed: int


def grade(samples: Iterable[Sample], items: Iterable[Item]) -> list[TaskGrades]:
    """The grades of a run's answers, by task in the order of the items.

    Args:
        samples: of one model, one protocol and one system message; in any order.
        items: of the benchmarks; those without a sample are left out, and so are tasks to none of
            whose items an answer came.

    Raises:
        UserError: a sample of no item, or a draw that is there twice.
    """
    known = {item.id: item for item in items}
    tasks: dict[tuple[str, str], dict[str, dict[int, Sample]]] = {
        (item.benchmark, item.task): {} for item in known.values()
    }
    draws = 1
    for sample in samples:
        if sample.item not in known:
            raise UserError(
                f"the records have an answer to {sample.item}, which is no item of the benchmarks: "
                "score them with the data they were made from"
            )
        item = known[sample.item]
        answers = tasks[item.benchmark, item.task].setdefault(sample.item, {})
        if sample.draw in answers:
            raise UserError(
                f"the records have draw {sample.draw} of {sample.item} twice: score one run and "
                "one system message at a time"
            )
        answers[sample.draw] = sample
        draws = max(draws, sample.draw + 1)
    graded = [
        _task_grades(benchmark, task, [known[id] for id in found], found, draws)
        for (benchmark, task), found in tasks.items()
        if found
    ]
    return [one for one in graded if one.answered.any()]


def _task_grades(
    benchmark: str,
    task: str,
    items: Sequence[Item],
    answers: dict[str, dict[int, Sample]],
    draws: int,
) -> TaskGrades:
    table = np.full((4, len(items), draws), np.nan)
    failed = 0
    for row, item in enumerate(items):
        for draw, sample in answers[item.id].items():
            if sample.finish_reason == "failed":
                failed += 1
                continue
            table[:, row, draw] = (
                sample.correct,
                sample.stated_correct,
                not sample.first_capital,
                not sample.stated,
            )
    correct, stated, unparsed, unstated = table
    return TaskGrades(
        benchmark=benchmark,
        task=task,
        ids=tuple(item.id for item in items),
        chance=np.array([len(i.gold) / len(i.labels) if i.labels else 0.0 for i in items]),
        correct=correct,
        stated=stated,
        unparsed=unparsed,
        unstated=unstated,
        failed=failed,
    )


def score(grades: Sequence[TaskGrades], seed: int = 0) -> list[Score]:
    """Scores of one benchmark's tasks in their order, and last their macro average."""
    scores = [_score(one.task, [one], seed) for one in grades]
    return [*scores, _score(AVERAGE, grades, seed)]


def _score(task: str, grades: Sequence[TaskGrades], seed: int) -> Score:
    def mean(name: str) -> float:
        return float(np.mean([one.values(name).mean() for one in grades]))

    draws = max(one.correct.shape[1] for one in grades)
    return Score(
        benchmark=grades[0].benchmark,
        task=task,
        items=sum(int(one.answered.sum()) for one in grades),
        draws=draws,
        accuracy=macro_share([one.values("correct") for one in grades], draws, seed),
        spread=draw_spread([one.correct for one in grades]),
        stated=macro_share([one.values("stated") for one in grades], draws, seed),
        format_failures=mean("unparsed"),
        stated_failures=mean("unstated"),
        chance=float(np.mean([one.chance[one.answered].mean() for one in grades])),
        failed=sum(one.failed for one in grades),
    )
