"""Rows of a file by number, without reading the file from end to end first.

Line files (JSONL, TSV) are memory-mapped with an index of line starts and parsed row by row, so
that one bad line is one bad row and its number is known.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orca.traces.trace import BadRow


class Rows(Protocol):
    """Rows of one file: ``name`` for messages, length, row by 0-based number, sizes in bytes."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Mapping[str, Any]: ...

    def row_number(self, number: int) -> int:
        """The 1-based row (or line) that a user finds in the file."""
        ...

    def sizes(self) -> np.ndarray:
        """Bytes of text of every row, int64 [rows]: a length that costs no tokenisation."""
        ...

    def fingerprint(self) -> str:
        """Changes when the content changes; does not depend on where the file lies."""
        ...


class LineRows:
    """A memory-mapped text file, one row a line; blank lines are no rows."""

    def __init__(self, name: str, path: Path, parse: Callable[[str], Mapping[str, Any]]) -> None:
        self.name = name
        self.path = path
        self.parse = parse
        self._bytes: mmap.mmap | bytes | None = None
        self._starts, self._ends, self._lines = _line_bounds(self._map())

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        line = self._map()[self._starts[number] : self._ends[number]]
        if number == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")  # the byte order mark of some editors
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRow("invalid_utf8", f"not UTF-8 at byte {error.start} of the line") from None
        return self.parse(text)

    def row_number(self, number: int) -> int:
        return int(self._lines[number])

    def sizes(self) -> np.ndarray:
        return self._ends - self._starts

    def fingerprint(self) -> str:
        return file_fingerprint(self.path)

    def _map(self) -> mmap.mmap | bytes:
        if self._bytes is None:
            if self.path.stat().st_size == 0:
                self._bytes = b""  # an empty file cannot be mapped
            else:
                with self.path.open("rb") as file:
                    self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._bytes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bytes": None}  # a map cannot travel to a worker process


class ListRows:
    """Rows of a JSON array, held in memory (such files are small)."""

    def __init__(self, name: str, rows: list[Any], fingerprint: str) -> None:
        self.name = name
        self._rows = rows
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        row = self._rows[number]
        if not isinstance(row, dict):
            raise BadRow("wrong_type", f"the row is {type(row).__name__}, not an object")
        return row

    def row_number(self, number: int) -> int:
        return number + 1

    def sizes(self) -> np.ndarray:
        return np.array([len(json.dumps(row)) for row in self._rows], dtype=np.int64)

    def fingerprint(self) -> str:
        return self._fingerprint


class ArrowRows:
    """Rows of a memory-mapped Arrow table, wrapped by `datasets`."""

    def __init__(self, name: str, dataset: Any, fingerprint: str) -> None:
        self.name = name
        self._dataset = dataset
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        try:
            return self._dataset[int(number)]
        except UnicodeDecodeError as error:
            raise BadRow("invalid_utf8", f"a text field is not UTF-8 ({error.reason})") from None

    def row_number(self, number: int) -> int:
        return number + 1

    def sizes(self) -> np.ndarray:
        tables = map(pa.Table.from_batches, ([b] for b in self._dataset.data.to_batches(1 << 16)))
        return np.concatenate([np.empty(0, dtype=np.int64), *map(text_sizes, tables)])

    def fingerprint(self) -> str:
        return self._fingerprint


def text_sizes(table: pa.Table) -> np.ndarray:
    """Bytes of text of every row, int64 [rows]."""
    if any(pa.types.is_nested(column.type) for column in table.columns):
        return np.array([_text_size(row) for row in table.to_pylist()], dtype=np.int64)
    total = np.zeros(len(table), dtype=np.int64)
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            total += pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)
    return total


def _text_size(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    parts = value.values() if isinstance(value, dict) else value
    return sum(map(_text_size, parts)) if isinstance(parts, Iterable) else 0


def parse_json(line: str) -> Mapping[str, Any]:
    """The JSON object of a line; raises :class:`BadRow`."""
    try:
        row = json.loads(line)
    except RecursionError:
        raise BadRow("not_json", "the JSON object is nested too deeply") from None
    except ValueError as error:
        raise BadRow("not_json", f"not a JSON object ({error}); the line may be cut off") from None
    if not isinstance(row, dict):
        raise BadRow("not_json", f"the line holds {type(row).__name__}, not a JSON object")
    return row


def parse_tsv(line: str) -> Mapping[str, Any]:
    """Question, answer and rationale of a tab-separated line; raises :class:`BadRow`."""
    columns = line.rstrip("\r\n").split("\t")
    if len(columns) != 3:
        raise BadRow(
            "wrong_columns",
            f"{len(columns)} columns where question, answer and rationale are expected",
        )
    return dict(zip(("question", "answer", "rationale"), columns, strict=True))


def _line_bounds(data: mmap.mmap | bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, end and 1-based number of every line that is not blank, int64 [rows] each."""
    ends: list[np.ndarray] = []
    step = 1 << 26
    for offset in range(0, len(data), step):
        block = np.frombuffer(data[offset : offset + step], dtype=np.uint8)
        ends.append(np.flatnonzero(block == 10).astype(np.int64) + offset)
    if len(data) and data[len(data) - 1 : len(data)] != b"\n":
        ends.append(np.array([len(data)], dtype=np.int64))
    end = np.concatenate(ends) if ends else np.empty(0, dtype=np.int64)
    start = np.concatenate([np.zeros(1, dtype=np.int64), end[:-1] + 1]) if len(end) else end
    keep = end > start
    for number in np.flatnonzero(keep):
        # Only a line that begins with white space can be blank; most files have none.
        if data[start[number]] <= 32:
            keep[number] = data[start[number] : end[number]].strip() != b""
    return start[keep], end[keep], np.flatnonzero(keep) + 1


def file_fingerprint(path: Path) -> str:
    """sha256 of the size and the content; of 256 blocks spread over it when it is over 64 MiB.

    A change of some bytes in the middle of a very large file can go unnoticed: the price for a
    start that does not wait for a pass over the data.
    """
    size, block = path.stat().st_size, 1 << 16
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= 1 << 26:
            digest.update(file.read())
        else:
            for start in np.linspace(0, size - block, 256, dtype=np.int64):
                file.seek(int(start))
                digest.update(file.read(block))
    return digest.hexdigest()[:16]
