"""One pass over a collection's candidates: which task each belongs to, and which cannot be used.

The result is two bytes a candidate, whatever the texts weigh: sampling needs no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orca.errors import UserError
from orca.mixture.engine import blank, column, literal, parquet, read, unreadable
from orca.mixture.pool import NOT_SUITED, PoolFile

TEMPLATE_TYPES = ("zs", "zs_opt", "zs_noopt", "fs_opt", "fs_noopt")
NOT_SAMPLED = np.int16(-1)
"""Code of a row that cannot be drawn: few-shot, of an excluded task, or bad."""
LISTED = 20
"""Bad rows that are named; all are counted."""
ROWS_AT_ONCE = 1 << 17

TaskRule = Callable[[str], str | None]
"""Why a task is left out: ``excluded`` or ``unknown``; None: it is sampled."""


@dataclass
class Scan:
    """What a collection holds.

    Attributes:
        tasks: names, sorted.
        counts: candidates of every task, int64 [tasks].
        codes: place in ``tasks`` of every row of every file, -1 where it cannot be drawn;
            int16 [rows]. Files follow each other in the order of their names.
        first: number of the first row of every file, then the total, int64 [files + 1].
        few_shot: rows with exemplars, of every task that has some.
        excluded: rows of every task that is left out.
        bad: rows that are no queries, by reason.
        bad_examples: some of them, each as a sentence with file and row.
    """

    files: list[PoolFile]
    tasks: list[str] = field(default_factory=list)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    codes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int16))
    first: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    few_shot: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    bad_examples: list[str] = field(default_factory=list)

    def rows(self, task: int) -> np.ndarray:
        """Rows of the collection that are candidates of ``task``, ascending, int64."""
        return np.flatnonzero(self.codes == task)


def scan(
    files: list[PoolFile],
    rule: TaskRule,
    on_bad_row: str,
    connection: duckdb.DuckDBPyConnection,
) -> Scan:
    """Read task, template type and emptiness of every candidate.

    Raises:
        UserError: a file is broken; with ``on_bad_row='fail'`` also the first row that is no query,
            and the first task that is unknown.
    """
    found = Scan(files)
    places: dict[str, int] = {}  # in order of appearance; sorted at the end
    parts: list[np.ndarray] = []
    for file in files:
        codes = np.full(_num_rows(file, connection), NOT_SAMPLED)
        for batch in _verdicts(file, connection):
            kept = _sort_out(batch, file, found, rule, on_bad_row)
            names = kept["task"].dictionary_encode()
            own = [places.setdefault(name, len(places)) for name in names.dictionary.to_pylist()]
            _check_places(places, file)
            at = kept["place"].to_numpy(zero_copy_only=False)
            codes[at] = np.array(own, dtype=np.int16)[names.indices.to_numpy()] if own else -1
        parts.append(codes)
    found.first = np.cumsum([0, *map(len, parts)])
    _finish(found, places, parts)
    return found


def _finish(found: Scan, places: dict[str, int], parts: list[np.ndarray]) -> None:
    found.tasks = sorted(places)
    rank = np.empty(len(places) + 1, dtype=np.int16)
    rank[-1] = NOT_SAMPLED  # what the code -1 points at
    rank[[places[task] for task in found.tasks]] = np.arange(len(places))
    found.codes = np.empty(found.first[-1], dtype=np.int16)
    for part, start in zip(parts, found.first, strict=False):
        found.codes[start : start + len(part)] = rank[part]
    found.counts = np.zeros(len(places), dtype=np.int64)
    for start in range(0, len(found.codes), ROWS_AT_ONCE):  # bincount makes 64 bits of each
        codes = found.codes[start : start + ROWS_AT_ONCE]
        found.counts += np.bincount(codes[codes >= 0], minlength=len(places))


def _num_rows(file: PoolFile, connection: duckdb.DuckDBPyConnection) -> int:
    sql = f"SELECT count(*) FROM {parquet(file.path)}"
    try:
        (count,) = connection.execute(sql).fetchall()[0]
    except duckdb.Error as error:
        raise unreadable(file.name, "Parquet", error) from None
    return int(count)


def select(file: PoolFile) -> str:
    """SQL of the pool's columns of a file, and ``place``: the 0-based row in the Parquet."""
    columns = [f"{sql} AS {column(name)}" for name, sql in file.columns.items()]
    source = parquet(file.path, options=", file_row_number = true")
    return f"SELECT {', '.join((*columns, 'file_row_number AS place'))} FROM {source}"


def _verdicts(file: PoolFile, connection: duckdb.DuckDBPyConnection) -> Iterator[pa.RecordBatch]:
    """(place, row, task, verdict) of every row; the verdict is null where it can be drawn."""
    known, names = ", ".join(map(literal, TEMPLATE_TYPES)), ", ".join(TEMPLATE_TYPES)
    sql = f"""
        SELECT place, "row", task, CASE
          WHEN problem IS NOT NULL THEN problem
          WHEN template_type IS NULL THEN 'missing_template_type: no template type'
          WHEN template_type NOT IN ({known})
            THEN 'unknown_template_type: template type ' || template_type || ', known are {names}'
          WHEN starts_with(template_type, 'fs') THEN 'few_shot: '
          WHEN {blank("task")} THEN 'missing_task: no task name'
          WHEN {blank("query")} THEN 'empty_query: no query'
          WHEN {blank("targets[1]")} AND {blank("array_to_string(targets, '')")}
            THEN 'missing_target: no gold target'
        END AS verdict
        FROM ({select(file)})"""
    try:
        yield from read(connection, sql, ROWS_AT_ONCE)
    except duckdb.Error as error:
        raise unreadable(file.name, "Parquet", error) from None


def _sort_out(
    batch: pa.RecordBatch, file: PoolFile, found: Scan, rule: TaskRule, on_bad_row: str
) -> pa.RecordBatch:
    """The rows that can be drawn; the others are counted, or stop the program."""
    verdicts = batch["verdict"]
    if verdicts.null_count < len(batch):
        few_shot = pc.fill_null(pc.equal(verdicts, "few_shot: "), False)
        found.few_shot.update(batch.filter(few_shot)["task"].to_pylist())
        bad = pc.and_(pc.is_valid(verdicts), pc.invert(few_shot))
        for row in batch.filter(bad).select(["row", "verdict"]).to_pylist():
            _bad_row(found, file, row["row"], row["verdict"], on_bad_row)
        batch = batch.filter(pc.is_null(verdicts))
    for task in pc.unique(batch["task"]).to_pylist():
        reason = rule(task)
        if reason is None:
            continue
        of_task = pc.equal(batch["task"], task)
        if reason == "unknown":
            text = f"unknown_task: {task!r} is no task of this collection"
            for row in batch.filter(of_task)["row"].to_pylist():
                _bad_row(found, file, row, text, on_bad_row)
        else:
            found.excluded[task] += pc.sum(of_task).as_py()
        batch = batch.filter(pc.invert(of_task))
    return batch


def _bad_row(found: Scan, file: PoolFile, row: int, verdict: str, on_bad_row: str) -> None:
    reason, _, sentence = verdict.partition(": ")
    where = f"{file.name}, row {row}: {sentence}"
    if on_bad_row == "fail" and reason != NOT_SUITED:
        raise UserError(f"{where}. mixture.on_bad_row=skip counts such rows and goes on")
    found.bad[reason] += 1
    if len(found.bad_examples) < LISTED:
        found.bad_examples.append(f"{reason}: {where}")


def _check_places(places: dict[str, int], file: PoolFile) -> None:
    if len(places) > np.iinfo(np.int16).max:
        raise UserError(
            f"{file.name}: more than {np.iinfo(np.int16).max:,} tasks; is it the task's column?"
        )
