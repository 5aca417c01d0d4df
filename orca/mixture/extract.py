"""The chosen queries, read from the pool in one pass and put in the query set's order.

The order is one uniform shuffle of everything that was chosen, so that the first n queries of a
set are a uniform sample of it: a collection that stops early, or FLAN-1M, is the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from orca.errors import UserError
from orca.mixture.engine import blank, engine, literal, read, unreadable
from orca.mixture.sampling import Sampler, choose, generator
from orca.mixture.scan import Scan, select

STAGED = """
    CREATE TABLE staged (
      position BIGINT, id VARCHAR, collection VARCHAR, task VARCHAR, template_type VARCHAR,
      template VARCHAR, query VARCHAR, targets VARCHAR[], source_file VARCHAR, source_row BIGINT
    )"""
READ_AT_ONCE = 10_000


def draw(scan: Scan, sampler: Sampler, seed: int, collection: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the collection that are taken, int64 [queries]; and the quota of every task."""
    quotas = sampler.quotas(scan.counts, generator(seed, collection, "quotas"))
    assert (quotas <= scan.counts).all()
    taken = [
        scan.rows(task)[choose(int(scan.counts[task]), int(quota), seed, collection, name)]
        for task, (name, quota) in enumerate(zip(scan.tasks, quotas, strict=True))
        if quota
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *taken]), quotas


def shuffled(drawn: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Place in the query set of every row that was drawn: a permutation over all collections."""
    places = generator(seed, "order").permutation(sum(map(len, drawn.values())))
    ends = np.cumsum([len(rows) for rows in drawn.values()])[:-1]
    return dict(zip(drawn, np.split(places, ends), strict=True))


def stage(
    scans: dict[str, Scan], drawn: dict[str, np.ndarray], seed: int, directory: Path, memory: float
) -> Iterator[pa.RecordBatch]:
    """Read the drawn rows, in the order of the query set.

    Args:
        directory: for the rows while they are sorted; as large as their texts.
        memory: GiB that DuckDB may hold.
    """
    places = shuffled(drawn, seed)
    with engine(directory / "spill", memory, directory / "staged.duckdb") as connection:
        connection.execute(STAGED)
        for collection, found in scans.items():
            _read_collection(connection, collection, found, drawn[collection], places[collection])
        ordered = "SELECT * EXCLUDE position FROM staged ORDER BY position"
        try:
            yield from read(connection, ordered, READ_AT_ONCE)
        except duckdb.Error as error:
            raise unreadable("the drawn queries", "a table", error) from None


def _read_collection(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    found: Scan,
    rows: np.ndarray,
    places: np.ndarray,
) -> None:
    order = np.argsort(rows)
    rows, places = rows[order], places[order]
    bounds = np.searchsorted(rows, found.first)
    for file, start, low, high in zip(found.files, found.first, bounds, bounds[1:], strict=False):
        if low == high:
            continue
        wanted = pa.table({"place": rows[low:high] - start, "position": places[low:high]})
        connection.register("wanted", wanted)
        origin = f'{literal(file.name)}, "row", task, template'
        identity = f"{literal(collection + '.')} || left(md5(concat_ws(chr(31), {origin})), 16)"
        sql = f"""
            INSERT INTO staged
            SELECT position, {identity}, {literal(collection)}, task, template_type, template,
              query, list_filter(targets, lambda t: NOT {blank("t")}), {literal(file.name)}, "row"
            FROM ({select(file)}) JOIN wanted USING (place)"""
        try:
            (count,) = connection.execute(sql).fetchall()[0]
        except duckdb.Error as error:
            raise unreadable(file.name, "Parquet", error) from None
        connection.unregister("wanted")
        if count != high - low:
            raise UserError(f"{file.name} has changed while it was read: start again")
