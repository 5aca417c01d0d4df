"""Requests out of a query set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orca.mixture.query_set import read_manifest, read_queries
from orca.teacher.request import Request

COLUMNS = ("id", "system_message", "query", "collection", "task", "targets")


def read_requests(directory: Path, limit: int | None = None) -> Iterator[list[Request]]:
    """The requests of a query set in its order, in batches of up to 1,000.

    Args:
        limit: the first so many; they are a uniform sample of the set.

    Raises:
        UserError: ``directory`` is no query set, or a file of it is broken.
    """
    left = read_manifest(directory)["queries"] if limit is None else limit
    for batch in read_queries(directory):
        for start in range(0, batch.num_rows, 1_000):
            rows = batch.slice(start, min(1_000, left)).select(COLUMNS).to_pylist()
            left -= len(rows)
            if rows:
                yield [Request(**{**row, "targets": tuple(row["targets"])}) for row in rows]
