"""Requests out of a query set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orca.mixture.query_set import first, read_manifest, read_queries
from orca.teacher.request import Request

COLUMNS = ("id", "system_message", "query", "collection", "task", "targets")


def read_requests(directory: Path, limit: int | None = None) -> Iterator[list[Request]]:
    """The requests of a query set in its order, in batches of up to 1,000.

    Args:
        limit: the first so many; they are a uniform sample of the set.

    Raises:
        UserError: ``directory`` is no query set, or a file of it is broken.
    """
    for batch in first(read_queries(directory), limit):
        for start in range(0, batch.num_rows, 1_000):
            rows = batch.slice(start, 1_000).select(COLUMNS).to_pylist()
            yield [Request(**{**row, "targets": tuple(row["targets"])}) for row in rows]


def count_requests(directory: Path, limit: int | None = None) -> int:
    """How many :func:`read_requests` yields."""
    queries: int = read_manifest(directory)["queries"]
    return queries if limit is None else min(limit, queries)
