"""DuckDB as this room uses it: bounded memory, spilling to disk, no extensions from the network."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from orca.errors import UserError

WHITE = "'" + "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + "'"
"""What Python calls white space, as a SQL literal for ``trim``."""


@contextmanager
def engine(
    spill: Path, memory_gib: float = 2.0, database: Path | None = None, ordered: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that holds at most ``memory_gib`` and puts what is more into ``spill``.

    Args:
        database: file for tables; None: in memory.
        ordered: rows come in the order of the file.
    """
    connection = duckdb.connect(
        str(database or ":memory:"),
        config={
            "memory_limit": f"{memory_gib}GiB",
            "temp_directory": str(spill),
            "preserve_insertion_order": ordered,
            "autoinstall_known_extensions": False,
        },
    )
    connection.execute("SET enable_progress_bar = false")
    try:
        yield connection
    finally:
        connection.close()


def unreadable(name: str, kind: str, error: duckdb.Error) -> UserError:
    """What to tell of a file that DuckDB could not read."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return UserError(f"{name}: DuckDB needs more memory: raise memory_gib ({error})")
    if re.search(r"\bwrit(e|ing)\b|No space|too large", str(error), re.IGNORECASE):
        return UserError(f"{name}: what was read cannot be written ({error}). Is the disk full?")
    return UserError(f"{name}: cannot be read as {kind} ({error}). Is it whole?")


def read(connection: duckdb.DuckDBPyConnection, sql: str, rows: int) -> pa.RecordBatchReader:
    """The result of a query, ``rows`` at a time."""
    return connection.sql(sql).to_arrow_reader(rows)


def blank(text: str) -> str:
    """SQL that says whether the SQL expression ``text`` is null, empty or white space alone."""
    # Trimming copies the text: only for one that begins with white space.
    return (
        f"CASE WHEN coalesce({text}, '') = '' THEN true "
        f"WHEN contains({WHITE}, left({text}, 1)) THEN trim({text}, {WHITE}) = '' ELSE false END"
    )


def parquet(*paths: str | Path, options: str = "") -> str:
    """SQL that reads these files: not patterns, and no columns out of their directories' names."""
    return f"read_parquet([{', '.join(map(exactly, paths))}], hive_partitioning = false{options})"


def exactly(path: str | Path) -> str:
    """The path as a SQL string that DuckDB does not take for a pattern."""
    return literal(glob.escape(str(path)))


def literal(text: str) -> str:
    """``text`` as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def column(name: str) -> str:
    """``name`` as a SQL column."""
    return '"' + name.replace('"', '""') + '"'
