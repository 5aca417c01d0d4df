"""The paper's tables with new columns beside the printed ones.

Rates are shown in per cent with their 95 % interval in brackets. A run's column is headed by the
name that :func:`column_head` makes, so that no score is without its protocol. What is said of tasks
is followed by their average, where there are several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from orca.errors import UserError
from orca.evaluation.comparison import Comparison
from orca.evaluation.paper import (
    GAINS,
    MISPRINTS,
    ORCA,
    SYSTEM_MESSAGE_IDS,
    SYSTEM_MESSAGES,
    TABLES,
    VICUNA,
    PaperTable,
    relative_gain,
)
from orca.evaluation.scores import AVERAGE, Score
from orca.evaluation.statistics import FEWEST, Interval
from orca.evaluation.table import Cell, Table


def column_head(model: str, protocol: str, system_message: int | None = None) -> str:
    """Head of a run's column, as ``smollm2 (orca)``; with the id of the system message if told."""
    return f"{model} ({protocol}{'' if system_message is None else f', message {system_message}'})"


def averages_table(benchmarks: Mapping[str, Mapping[str, Sequence[Score]]]) -> Table:
    """A benchmark a row: what the other tables say of its tasks, in short.

    Args:
        benchmarks: by name: scores by the head of their column, the same heads for all.
    """
    printed = (VICUNA, ORCA, "ChatGPT", "GPT-4")
    heads = list(next(iter(benchmarks.values())))
    head: tuple[str, ...] = ("benchmark",)  # runs first: on a telephone the rest is out of sight
    for name in heads:
        head += (name, f"{name}: no label found")
    head += ("chance", *printed, "tasks", "items")
    rows: list[tuple[Cell, ...]] = []
    for benchmark, runs in benchmarks.items():
        paper = TABLES.get(benchmark)
        tasks = _tasks(runs[heads[0]])
        averages = [_of(runs[name], AVERAGE) for name in heads]
        row: list[Cell] = [benchmark]
        for one in averages:
            row += [one.accuracy.times(100), _percent(one.format_failures)]
        row.append(_percent(averages[0].chance))
        row += [printed_cell(paper, column, AVERAGE, tasks) for column in printed]
        rows.append((*row, len(tasks), max(one.items for one in averages)))
    return Table("Averages over tasks, accuracy, %", head, tuple(rows))


def accuracy_table(runs: Mapping[str, Sequence[Score]]) -> Table:
    """Accuracy by the paper's rule on one benchmark, as Tables 8 and 11.

    Where only some of the paper's tasks were run, the paper's averages are over the same tasks. As
    in the paper, a gain over Vicuna is that of the average.

    Args:
        runs: scores (:func:`orca.evaluation.scores.score`) by the head of their column.

    Raises:
        UserError: the runs are of several benchmarks, or have other tasks than each other.
    """
    benchmark, tasks = _shape(runs)
    paper = TABLES.get(benchmark)
    printed = tuple(paper.columns) if paper else ()
    rows: list[tuple[Cell, ...]] = []
    for task in _with_average(tasks):
        scores = [_of(run, task) for run in runs.values()]
        row: list[Cell] = [task_name(paper, task), max(one.items for one in scores)]
        row += [printed_cell(paper, column, task, tasks) for column in printed]
        row += [one.accuracy.times(100) for one in scores]
        rows.append(tuple(row))
    vicuna = printed_cell(paper, VICUNA, AVERAGE, tasks)
    if vicuna is not None and len(tasks) > 1:
        orca = printed_cell(paper, ORCA, AVERAGE, tasks)
        whole = paper is not None and set(tasks) == set(paper.tasks)
        gains: dict[str, Cell] = {
            ORCA: GAINS[benchmark] if whole or orca is None else gain(orca / 100, vicuna)
        }
        for name, run in runs.items():
            own = _of(run, AVERAGE).accuracy
            bounds = (relative_gain(100 * x, vicuna) for x in (own.value, own.low, own.high))
            gains[name] = Interval(*bounds)
        cells = [gains.get(name) for name in (*printed, *runs)]
        rows.append((f"{AVERAGE}'s gain over {VICUNA}, %", None, *cells))
    head = ("task", "items", *printed, *runs)
    return Table(_title(benchmark, paper), head, tuple(rows), _notes(paper, tasks))


def detail_table(name: str, scores: Sequence[Score]) -> Table:
    """Everything about one run on one benchmark: both extractors, chance, format failures."""
    head = (
        "task",
        "items",
        "draws",
        "no answer came",
        "chance",
        "first capital",
        "spread over draws",
        "stated answer",
        "no capital found",
        "no statement found",
    )
    rows = [
        (
            task_name(TABLES.get(one.benchmark), one.task),
            one.items,
            one.draws,
            one.failed,
            _percent(one.chance),
            one.accuracy.times(100),
            None if one.spread is None else _percent(one.spread),
            one.stated.times(100),
            _percent(one.format_failures),
            _percent(one.stated_failures),
        )
        for one in (_of(scores, task) for task in _with_average(_tasks(scores)))
    ]
    return Table(f"{name} on {scores[0].benchmark}, %", head, tuple(rows))


def system_message_table(runs: Mapping[str, Sequence[Score]]) -> Table:
    """AGIEval by system message, as Table 9.

    Args:
        runs: scores by the head of their column, which names the system message.

    Raises:
        UserError: as :func:`accuracy_table`.
    """
    benchmark, tasks = _shape(runs)
    paper = SYSTEM_MESSAGES if benchmark == "agieval" else None
    printed = {name: f"{ORCA}, {name} ({id})" for id, name in SYSTEM_MESSAGE_IDS.items()}
    printed = printed if paper else {}
    rows: list[tuple[Cell, ...]] = []
    for task in _with_average(tasks):
        cells: list[Cell] = [printed_cell(paper, column, task, tasks) for column in printed]
        new: list[Cell] = [_of(run, task).accuracy.times(100) for run in runs.values()]
        rows.append((task_name(TABLES.get(benchmark), task), *cells, *new))
    notes = _notes(paper, tasks)
    if len(runs) > 1:
        best = mean(max(_of(run, task).accuracy.value for run in runs.values()) for task in tasks)
        notes += (
            f"With the best message for each task the average is {100 * best:.1f}, which is "
            "optimistic: the message was chosen by the same answers.",
        )
    if paper:
        gap = MISPRINTS[1]
        notes += (
            f"The paper says that its best message for each task is {gap.printed} points behind "
            f"ChatGPT; its cells give {gap.computed}.",
        )
    title = f"{benchmark} by system message, %" + (f" ({paper.source})" if paper else "")
    return Table(title, ("task", *printed.values(), *runs), tuple(rows), notes)


def comparison_table(first: str, second: str, comparisons: Sequence[Comparison]) -> Table:
    """Two runs on the items that both have answered; the names are heads of columns."""
    head = (
        "task",
        "items",
        first,
        second,
        "difference, points",
        "p (bootstrap)",
        "won",
        "lost",
        "p (McNemar)",
    )
    rows = [
        (
            task_name(TABLES.get(one.benchmark), one.task),
            one.items,
            _percent(one.first),
            _percent(one.second),
            one.difference.times(100),
            None if one.p_value is None else _p_value(one.p_value),
            len(one.won),
            len(one.lost),
            None if one.mcnemar is None else _p_value(one.mcnemar),
        )
        for one in (comparisons if len(comparisons) > 2 else comparisons[:1])
    ]
    whole = comparisons[-1]
    notes = [f"Compared are the {whole.items:,} items that both runs have answered."]
    if whole.unpaired:
        notes.append(f"{whole.unpaired:,} items have an answer in one run only and are left out.")
    if any(one.p_value is None for one in comparisons):
        notes.append(f"Fewer than {FEWEST} items have no bootstrap p-value: it would be too small.")
    title = f"{first} beside {second} on {whole.benchmark}, %"
    return Table(title, head, tuple(rows), tuple(notes))


def _shape(runs: Mapping[str, Sequence[Score]]) -> tuple[str, list[str]]:
    """Benchmark of the runs, and their tasks: the paper's in its order, then others."""
    found = {one.benchmark for run in runs.values() for one in run}
    sets = [_tasks(run) for run in runs.values()]
    if len(found) != 1 or any(sorted(one) != sorted(sets[0]) for one in sets):
        raise UserError(
            f"the runs {', '.join(runs)} do not have the same tasks of one benchmark: they do not "
            "fit into one table"
        )
    benchmark = found.pop()
    known = list(TABLES[benchmark].tasks) if benchmark in TABLES else []
    first = [task for task in known if task in sets[0]]
    return benchmark, first + [task for task in sets[0] if task not in known]


def _tasks(scores: Sequence[Score]) -> list[str]:
    return [one.task for one in scores if one.task != AVERAGE]


def _with_average(tasks: Sequence[str]) -> tuple[str, ...]:
    return (*tasks, AVERAGE) if len(tasks) > 1 else tuple(tasks)


def _of(scores: Sequence[Score], task: str) -> Score:
    return next(one for one in scores if one.task == task)


def printed_cell(
    paper: PaperTable | None, column: str, task: str, tasks: Sequence[str]
) -> float | None:
    """Of the paper, also for the average over ``tasks``; None where it has none."""
    if paper is None:
        return None
    return paper.average(column, tasks) if task == AVERAGE else paper.cell(column, task)


def gain(value: float, printed: float | None) -> float | None:
    """Per cent by which a share is above a printed percentage."""
    return None if printed is None else round(relative_gain(100 * value, printed), 1)


def _title(benchmark: str, paper: PaperTable | None) -> str:
    return f"{benchmark}, accuracy, %" + (f" ({paper.source})" if paper else "")


def task_name(paper: PaperTable | None, task: str) -> str:
    """As the paper calls it, where it has it."""
    return paper.tasks.get(task, task) if paper else task


def _notes(paper: PaperTable | None, tasks: Sequence[str]) -> tuple[str, ...]:
    if paper is None or set(tasks) == set(paper.tasks):
        return ()
    return (
        f"{len(tasks)} tasks, where {paper.source} has {len(paper.tasks)}: the paper's averages "
        "here are over the tasks shown.",
    )


def _percent(share: float) -> float:
    return round(100 * share, 1)


def _p_value(value: float) -> float:
    return float(f"{value:.2g}")
