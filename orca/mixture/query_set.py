"""A query set on disk: a directory of Parquet files and a manifest."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orca.errors import UserError
from orca.mixture.query import QUERY_SCHEMA

MANIFEST = "_manifest.json"
"""Readers of Parquet directories pass over names that begin with an underscore."""
ROWS_PER_FILE = 50_000
ROWS_PER_GROUP = 10_000


def write_query_set(
    directory: Path, batches: Iterable[pa.RecordBatch], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the queries as ``part-00000.parquet``, …, and the manifest, which is returned.

    The same queries give the same bytes.

    Args:
        facts: what the manifest says beside counts and hashes: seed, configuration, versions.
    """
    directory.mkdir(parents=True)
    metadata = {"orca": json.dumps(dict(facts), ensure_ascii=False, sort_keys=True)}
    schema = QUERY_SCHEMA.with_metadata(metadata)
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    files = []
    for number, rows in enumerate(_files(batches)):
        path = directory / f"part-{number:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in rows:
                writer.write_table(table.cast(schema), row_group_size=ROWS_PER_GROUP)
                counts.update(table["collection"].to_pylist())
                for name in ("id", "system_message", "query"):
                    digest.update("\x1f".join(table[name].to_pylist()).encode())
        data = path.read_bytes()
        rows_written = pq.read_metadata(path).num_rows
        files.append(
            {
                "name": path.name,
                "rows": rows_written,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    manifest = {
        "format": 1,
        "queries": sum(counts.values()),
        "collections": dict(sorted(counts.items())),
        "content_sha256": digest.hexdigest(),  # of ids, system messages and queries, in order
        **facts,
        "files": files,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (directory / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def _files(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.Table]]:
    """The tables of each file: row groups of ``ROWS_PER_GROUP``, whatever the batches' sizes."""
    tables: list[pa.Table] = []
    empty = True
    for table in _groups(batches):
        empty = False
        tables.append(table)
        if len(tables) == ROWS_PER_FILE // ROWS_PER_GROUP:
            yield tables
            tables = []
    if tables or empty:
        yield tables  # a set without queries is one file without rows


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    rest = QUERY_SCHEMA.empty_table()
    for batch in batches:
        rest = pa.concat_tables([rest, pa.Table.from_batches([batch])])
        while len(rest) >= ROWS_PER_GROUP:
            yield rest.slice(0, ROWS_PER_GROUP)
            rest = rest.slice(ROWS_PER_GROUP)
    if len(rest):
        yield rest


def first(batches: Iterable[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    """The first ``limit`` rows (None: all); no more batches than these are read."""
    left = limit
    for batch in batches:
        if left is not None:
            batch = batch.slice(0, left)
            left -= len(batch)
        yield batch
        if left == 0:
            return


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a query set; raises :class:`UserError` where there is none."""
    try:
        return json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{directory} is no query set: {MANIFEST} cannot be read ({error})"
        ) from None


def read_queries(directory: Path) -> Iterator[pa.RecordBatch]:
    """The queries in order.

    Raises:
        UserError: no manifest, or a file of it is missing or has another number of rows.
    """
    for file in read_manifest(directory)["files"]:
        path = directory / file["name"]
        try:
            with pq.ParquetFile(path) as parquet:
                if parquet.metadata.num_rows != file["rows"]:
                    raise UserError(f"{path} has not the {file['rows']} rows of its manifest")
                yield from parquet.iter_batches(ROWS_PER_GROUP)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: cannot be read ({error}). Is it whole?") from None
