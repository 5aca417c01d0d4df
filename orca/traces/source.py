"""A source: one or more files in one format, read as traces by number."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from orca.errors import UserError
from orca.traces.files import open_rows
from orca.traces.formats import READERS, RowOrigin
from orca.traces.rows import Rows
from orca.traces.trace import BadRow, Trace

BAD = object()
"""Stands for the values of a row that is no trace."""


class TraceSource:
    """Traces 0 … n-1 of the files that ``files`` names, in the order of the names.

    Nothing is opened before it is needed.

    Args:
        files: one pattern or a list: paths, globs, URLs, hub ids (see :func:`open_rows`).
        format: the reader's name, a key of ``orca.traces.READERS``.
        root: directory for relative paths.
        teacher, sub_collection, task: used where the rows do not say.
        system_message: in place of the traces' own; None keeps theirs, "" leaves them out.
        answers_only: responses are the gold answers in a sentence, without an explanation.
    """

    def __init__(
        self,
        files: str | Sequence[str],
        format: str,
        root: str | None = None,
        teacher: str = "",
        sub_collection: str = "",
        task: str = "",
        system_message: str | None = None,
        answers_only: bool = False,
    ) -> None:
        if format not in READERS:
            raise UserError(f"data.format={format!r} is unknown. Known: {', '.join(READERS)}")
        self.patterns = [files] if isinstance(files, str) else list(files)
        self.format = format
        self.root = root
        self.teacher = teacher
        self.sub_collection = sub_collection
        self.task = task
        self.system_message = system_message
        self.answers_only = answers_only

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, number: int) -> Trace:
        """Trace ``number``; raises :class:`BadRow` when the row is not a trace."""
        rows, row_number = self._place(number)
        origin = RowOrigin(
            id=f"{_stem(rows.name)}:{rows.row_number(row_number)}",
            teacher=self.teacher,
            sub_collection=self.sub_collection,
            task=self.task or _stem(rows.name),
        )
        return self._shown(READERS[self.format](rows[row_number], origin))

    def _shown(self, trace: Trace) -> Trace:
        if self.system_message is not None:
            trace = dataclasses.replace(trace, system_message=self.system_message)
        if self.answers_only:
            if trace.gold_answer is None:
                raise BadRow("no_gold_answer", "data.answers_only=true needs a field 'gold_answer'")
            trace = dataclasses.replace(trace, response=f"The answer is {trace.gold_answer}.")
        return trace

    def locate(self, number: int) -> str:
        """File and 1-based row of trace ``number``, for messages."""
        rows, row_number = self._place(number)
        return f"{rows.name}, row {rows.row_number(row_number)}"

    def sizes(self) -> np.ndarray:
        """Bytes of text of every row, int64 [len(self)]."""
        return np.concatenate([rows.sizes() for rows in self._rows])

    def values(self, field: str) -> list[object]:
        """``field`` of every trace (a full pass); :data:`BAD` where the row is no trace."""
        found: list[object] = []
        for number in range(len(self)):
            try:
                found.append(getattr(self[number], field))
            except BadRow:
                found.append(BAD)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Depends on what is read, its order and the reader; not on where the files lie."""
        digest = hashlib.sha256(self.format.encode())
        if self.system_message is not None or self.answers_only:
            digest.update(repr((self.system_message, self.answers_only)).encode())
        for rows in self._rows:
            digest.update(rows.fingerprint().encode())
        return digest.hexdigest()[:16]

    @cached_property
    def _rows(self) -> list[Rows]:
        rows = [one for pattern in self.patterns for one in open_rows(pattern, self.root)]
        if not sum(map(len, rows)):
            raise UserError(f"no rows in {', '.join(one.name for one in rows)}")
        return rows

    @cached_property
    def _first(self) -> np.ndarray:
        """Number of the first row of every file, then the total."""
        return np.cumsum([0, *map(len, self._rows)])

    def _place(self, number: int) -> tuple[Rows, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        file = int(np.searchsorted(self._first, number, side="right")) - 1
        return self._rows[file], int(number - self._first[file])


def _stem(name: str) -> str:
    return Path(name).name.split(".", 1)[0]
