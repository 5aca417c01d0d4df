"""A source: one or more files in one format, read as traces by number."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from orca.errors import UserError
from orca.traces.files import open_rows
from orca.traces.formats import READERS, RowOrigin
from orca.traces.rows import Rows
from orca.traces.trace import BadRow, Trace

T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """How rows of files become the traces that a student sees.

    Args:
        format: the reader's name, a key of ``orca.traces.READERS``.
        system_message: in place of the traces' own; None keeps theirs, "" leaves them out.
        answers_only: responses are the gold answers in a sentence, without an explanation.
    """

    format: str
    system_message: str | None = None
    answers_only: bool = False

    def __post_init__(self) -> None:
        if self.format not in READERS:
            known = ", ".join(READERS)
            raise UserError(f"data.format={self.format!r} is unknown. Known: {known}")
        if not isinstance(self.system_message, str | None):
            raise UserError(
                f"data.system_message={self.system_message} must be a text; a message by its "
                "number is '${orca_system_message:5}', and the text 5 itself is '\"5\"'"
            )
        if not isinstance(self.answers_only, bool):
            raise UserError(f"data.answers_only={self.answers_only!r} must be true or false")

    @property
    def as_written(self) -> bool:
        """Whether the student sees what the rows say."""
        return (self.system_message, self.answers_only) == (None, False)

    def describe(self) -> str:
        """For fingerprints, which must be those of checkpoints that exist already."""
        own = (self.system_message, self.answers_only)
        return self.format if self.as_written else self.format + repr(own)

    def trace(self, row: Any, origin: RowOrigin) -> Trace:
        """The row as a trace; raises :class:`BadRow` when it is none."""
        trace = READERS[self.format](row, origin)
        if self.system_message is not None:
            trace = dataclasses.replace(trace, system_message=self.system_message)
        if self.answers_only:
            if trace.gold_answer is None:
                raise BadRow("no_gold_answer", "answers_only=true needs a field 'gold_answer'")
            trace = dataclasses.replace(trace, response=f"The answer is {trace.gold_answer}.")
        return trace


Files = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
"""A pattern (path, glob, URL, hub id: see :func:`open_rows`), or a mapping ``{files: pattern(s)}``
with options of :class:`Shown` for them alone, or a list of these."""


@dataclass
class _FileSet:
    """Patterns, and how the rows of their files are shown."""

    patterns: list[str]
    shown: Shown
    _rows: list[Rows] = field(default_factory=list)

    def rows_in(self, root: str | None) -> list[Rows]:
        """The files, opened once."""
        if not self._rows:
            self._rows = [rows for pattern in self.patterns for rows in open_rows(pattern, root)]
        return self._rows


class TraceSource:
    """Traces 0 … n-1 of the files that ``files`` names, in the order of the names.

    Nothing is opened before it is needed.

    Args:
        files: see :data:`Files`.
        format, system_message, answers_only: of :class:`Shown`, for files that have none of
            their own.
        root: directory for relative paths.
        teacher, sub_collection, task: used where the rows do not say.
    """

    def __init__(
        self,
        files: Files,
        format: str,
        root: str | None = None,
        teacher: str = "",
        sub_collection: str = "",
        task: str = "",
        system_message: str | None = None,
        answers_only: bool = False,
    ) -> None:
        self.root = root
        self.teacher = teacher
        self.sub_collection = sub_collection
        self.task = task
        default = Shown(format, system_message, answers_only)
        given = [files] if isinstance(files, str | Mapping) else list(files)
        self.sets = [_file_set(one, default) for one in given]

    @property
    def shown(self) -> Shown | None:
        """How all the files are shown; None where they differ."""
        ways = {one.shown for one in self.sets}
        return ways.pop() if len(ways) == 1 else None

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, number: int) -> Trace:
        """Trace ``number``; raises :class:`BadRow` when the row is not a trace."""
        rows, shown, row_number = self._place(number)
        origin = RowOrigin(
            id=f"{_stem(rows.name)}:{rows.row_number(row_number)}",
            teacher=self.teacher,
            sub_collection=self.sub_collection,
            task=self.task or _stem(rows.name),
        )
        return shown.trace(rows[row_number], origin)

    def locate(self, number: int) -> str:
        """File and 1-based row of trace ``number``, for messages."""
        rows, _, row_number = self._place(number)
        return f"{rows.name}, row {rows.row_number(row_number)}"

    def sizes(self) -> np.ndarray:
        """Bytes of text of every row, int64 [len(self)]; where the student is shown other text
        than the rows have, of what is shown (a full pass)."""
        if all(shown.as_written for _, shown in self._rows):
            return np.concatenate([rows.sizes() for rows, _ in self._rows])
        return np.array(self.values(_size, bad=0), dtype=np.int64)

    def values(self, of: Callable[[Trace], T], bad: T) -> list[T]:
        """``of(trace)`` for every trace (a full pass); ``bad`` where the row is no trace."""
        found: list[T] = []
        for number in range(len(self)):
            try:
                found.append(of(self[number]))
            except BadRow:
                found.append(bad)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Depends on what is read, its order and the reader; not on where the files lie."""
        digest = hashlib.sha256()
        before = None
        for one in self.sets:
            if one.shown != before:
                digest.update(one.shown.describe().encode())
            before = one.shown
            for rows in one.rows_in(self.root):
                digest.update(rows.fingerprint().encode())
        return digest.hexdigest()[:16]

    @cached_property
    def _rows(self) -> list[tuple[Rows, Shown]]:
        rows = [(rows, one.shown) for one in self.sets for rows in one.rows_in(self.root)]
        if not sum(len(own) for own, _ in rows):
            raise UserError(f"no rows in {', '.join(own.name for own, _ in rows)}")
        return rows

    @cached_property
    def _first(self) -> np.ndarray:
        """Number of the first row of every file, then the total."""
        return np.cumsum([0, *(len(rows) for rows, _ in self._rows)])

    def _place(self, number: int) -> tuple[Rows, Shown, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        file = int(np.searchsorted(self._first, number, side="right")) - 1
        return *self._rows[file], int(number - self._first[file])


def _size(trace: Trace) -> int:
    """Bytes of its text."""
    return sum(len(text.encode()) for text in (trace.system_message, trace.query, trace.response))


def _file_set(given: str | Mapping[str, Any], default: Shown) -> _FileSet:
    """Of one entry of :data:`Files`."""
    if isinstance(given, str):
        return _FileSet([given], default)
    own = {str(key): value for key, value in given.items()}
    patterns = own.pop("files", None)
    known = [one.name for one in dataclasses.fields(Shown)]
    if patterns is None or not set(own) <= set(known):
        raise UserError(
            f"data.parts: {dict(given)} must have files and may have {', '.join(known)}"
        )
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, Sequence) or not all(isinstance(one, str) for one in patterns):
        raise UserError(f"data.parts: files of {dict(given)} must be a pattern or a list of these")
    patterns = list(patterns)
    return _FileSet(patterns, dataclasses.replace(default, **own))


def _stem(name: str) -> str:
    return Path(name).name.split(".", 1)[0]
