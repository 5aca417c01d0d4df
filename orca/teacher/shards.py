"""Finished responses as Parquet files of traces, which `data=local data.format=trace` reads.

The files follow from the ledger alone: the replies in the order in which they came, so many to a
file. A file that is whole is never written again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orca.teacher.ledger import Ledger

ROWS_PER_FILE = 10_000
TRACES = pa.schema(
    {
        "id": pa.string(),
        "system_message": pa.string(),
        "query": pa.string(),
        "response": pa.string(),
        "teacher": pa.string(),
        "sub_collection": pa.string(),
        "task": pa.string(),
        "gold_answer": pa.string(),
        "model": pa.string(),
        "finish_reason": pa.string(),
    }
)
REJECTED = TRACES.append(pa.field("gate", pa.string())).append(pa.field("reason", pa.string()))
ACCEPTED = "outcome = 'finished' AND gate = ''"
SET_ASIDE = "outcome IN ('length', 'content_filter') OR gate <> ''"


def write_traces(ledger: Ledger, teacher: str, out: Path) -> int:
    """Write ``traces/part-00000.parquet``, … of what is accepted; returns how many traces."""
    return _write(ledger.rows(ACCEPTED), teacher, out / "traces", TRACES)


def write_rejected(ledger: Ledger, teacher: str, out: Path) -> int:
    """Write ``rejected/…``: responses that a gate rejected, were cut or filtered, and why."""
    return _write(ledger.rows(SET_ASIDE), teacher, out / "rejected", REJECTED)


def _write(rows: Iterator[dict[str, Any]], teacher: str, directory: Path, schema: pa.Schema) -> int:
    directory.mkdir(exist_ok=True)
    total = 0
    for number in range(1 << 30):
        part = [_trace(row, teacher) for row in islice(rows, ROWS_PER_FILE)]
        if not part:
            return total
        total += len(part)
        path = directory / f"part-{number:05d}.parquet"
        if path.exists() and pq.read_metadata(path).num_rows == ROWS_PER_FILE == len(part):
            continue
        partial = path.with_suffix(".partial")
        pq.write_table(pa.Table.from_pylist(part, schema), partial, compression="zstd")
        os.replace(partial, path)
    raise AssertionError("more files than can be")


def _trace(row: dict[str, Any], teacher: str) -> dict[str, Any]:
    targets = json.loads(row["targets"])
    return {
        "id": row["query"],
        "system_message": row["system_message"],
        "query": row["text"],
        "response": row["response"],
        "teacher": teacher,
        "sub_collection": row["collection"],
        "task": row["task"],
        "gold_answer": targets[0] if targets else None,
        "model": row["model"],
        "finish_reason": row["finish_reason"],
        "gate": row["gate"] or row["outcome"],
        "reason": row["reason"],
    }
