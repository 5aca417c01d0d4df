"""Parquet → small Arrow batches in the cache, once; single rows are read from these.

A shuffle reads rows at random, and `pyarrow` reads Parquet by row groups alone: usually a million
rows each. So a file is decoded once, row groups side by side, into Arrow files of small batches,
and a row costs one read of its batch. Reads, and not a memory map: the pages of a map that is
walked at random count as the process's memory, until that is the size of the file.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orca.errors import UserError
from orca.traces.rows import text_sizes
from orca.traces.trace import BadRow

BATCH = 32
"""Rows of a batch. From memory, 16 to 256 cost about the same time; a disk reads less for nothing
when they are few."""
DECODED = 4096
"""Rows that a thread decodes at once."""
MOST_THREADS = 8  # a thread holds some 100 MB
STARTS = "starts.npy"


def convert_parquet(file: Path, directory: Path) -> None:
    """Write the rows of ``file`` into the new directory, as Arrow files ``0.arrow``, ``1.arrow``, …
    and the number of every batch's first row (``starts.npy``).

    Raises:
        UserError: the disk is too small.
        OSError, pa.ArrowException: the file cannot be decoded.
    """
    directory.mkdir(exist_ok=True)
    with pq.ParquetFile(file) as parquet:
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        schema = _plain(parquet.schema_arrow)
    if len(set(schema.names)) < len(schema.names):
        raise UserError(f"{file} has several columns of one name ({', '.join(schema.names)})")
    needed = sum(group.total_byte_size for group in groups)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise _disk_full(file, directory, f"about {needed / 1e9:.1f} GB, {free / 1e9:.1f} are free")
    threads = min(os.cpu_count() or 1, MOST_THREADS, max(1, len(groups)))
    parts = [part.tolist() for part in np.array_split(np.arange(len(groups)), threads)]

    def convert(part: int) -> list[int]:
        return _convert_groups(file, parts[part], schema, directory / f"{part}.arrow")

    try:
        with ThreadPoolExecutor(threads) as pool:
            lengths = [length for part in pool.map(convert, range(threads)) for length in part]
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # The file says how long its compressed texts are, but not how often one is repeated.
        raise _disk_full(file, directory, "more than is free") from None
    np.save(directory / STARTS, np.cumsum([0, *lengths]))


def _convert_groups(file: Path, groups: list[int], schema: pa.Schema, target: Path) -> list[int]:
    """Write row groups to ``target``; returns the rows of every batch."""
    lengths: list[int] = []
    # Buffered: without it a reader holds the compressed columns of a whole row group.
    with (
        pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as parquet,
        pa.BufferedOutputStream(pa.OSFile(str(target), "wb"), 1 << 20) as sink,
        pa.ipc.new_file(sink, schema) as writer,
        ThreadPoolExecutor(1) as writing,  # while the next rows are decoded
    ):
        written: Future[None] | None = None
        for batch in parquet.iter_batches(DECODED, row_groups=groups, use_threads=False):
            table = pa.Table.from_batches([batch]).cast(schema)
            if written is not None:
                written.result()
            written = writing.submit(writer.write_table, table, BATCH)
            whole, rest = divmod(len(table), BATCH)
            lengths += [BATCH] * whole + [rest] * (rest > 0)
        if written is not None:
            written.result()
    return lengths


def _plain(schema: pa.Schema) -> pa.Schema:
    """Categories as what they stand for: an Arrow file has room for one dictionary a column."""
    return pa.schema(
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in schema
    )


def _disk_full(file: Path, directory: Path, needed: str) -> UserError:
    return UserError(
        f"{file}: its plain copy in {directory.parent} needs {needed}. Make room there, or set the "
        "environment variable ORCA_CACHE to a directory on a larger disk"
    )


class ParquetRows:
    """Rows of a Parquet file that :func:`convert_parquet` has converted into ``directory``."""

    def __init__(self, name: str, directory: Path, fingerprint: str) -> None:
        self.name = name
        self.directory = directory
        self._fingerprint = fingerprint
        self._starts = np.load(directory / STARTS)
        self._parts: list[Any] = []
        self._last: tuple[int, Any] | None = None  # the batch that was read last, and its number
        self._open()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        at = int(np.searchsorted(self._starts, number, side="right")) - 1
        if self._last is None or self._last[0] != at:
            self._last = at, self._batch(at)
        try:
            return self._last[1].slice(int(number - self._starts[at]), 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise BadRow("invalid_utf8", f"a text field is not UTF-8 ({error.reason})") from None

    def row_number(self, number: int) -> int:
        return number + 1

    def sizes(self) -> np.ndarray:
        batches, step = len(self._starts) - 1, DECODED // BATCH
        tables = (
            pa.Table.from_batches([self._batch(at) for at in range(i, min(i + step, batches))])
            for i in range(0, batches, step)
        )
        return np.concatenate([np.empty(0, dtype=np.int64), *map(text_sizes, tables)])

    def fingerprint(self) -> str:
        return self._fingerprint

    def _open(self) -> None:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        self._parts = [
            pa.ipc.open_file(pa.OSFile(str(self.directory / f"{part}.arrow")), options=options)
            for part in range(len(list(self.directory.glob("*.arrow"))))
        ]
        counts = [part.num_record_batches for part in self._parts]
        self._first_batches = np.cumsum([0, *counts])

    def _batch(self, at: int) -> pa.RecordBatch:
        part = int(np.searchsorted(self._first_batches, at, side="right")) - 1
        return self._parts[part].get_batch(int(at - self._first_batches[part]))

    def __getstate__(self) -> dict[str, Any]:
        # Open files cannot travel to a worker process.
        return {**self.__dict__, "_parts": [], "_last": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
