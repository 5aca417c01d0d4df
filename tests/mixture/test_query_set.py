"""A query set on disk: its files, its manifest, and who can read it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from submixes import a_mixture, four_submixes, rows_of

from orca.errors import UserError
from orca.mixture.build import build_query_sets
from orca.mixture.query import QUERY_SCHEMA
from orca.mixture.query_set import read_manifest, read_queries, write_query_set
from orca.traces import TraceSource


@pytest.fixture(scope="module")
def submixes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return four_submixes(tmp_path_factory.mktemp("submixes"))


@pytest.fixture(scope="module")
def built(submixes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "queries"
    build_query_sets(a_mixture(submixes), out, {"name": "test"})
    return out


def test_sets_of_any_size_are_written_whole(tmp_path: Path) -> None:
    """Around the borders of row groups (10,000) and files (50,000), in batches of any size."""
    for rows, size in ((0, 1), (10_001, 7_000), (50_000, 10_000), (60_001, 25_000)):
        numbers = range(rows)
        columns = {
            name: pa.array([str(n) for n in numbers], pa.string()).cast(pa.string())
            for name in ("id", "collection", "system_message", "query")
        }
        table = pa.table(
            {
                field.name: columns.get(field.name, pa.nulls(rows, field.type))
                for field in QUERY_SCHEMA
            },
            QUERY_SCHEMA,
        )
        manifest = write_query_set(tmp_path / str(rows), table.to_batches(size), {})
        assert manifest["queries"] == rows
        found = [
            one for batch in read_queries(tmp_path / str(rows)) for one in batch["id"].to_pylist()
        ]
        assert found == [str(n) for n in numbers]
        assert len(pq.ParquetDataset(tmp_path / str(rows)).read()) == rows
        ends = [*range(50_000, rows, 50_000), rows]
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        assert [file["rows"] for file in manifest["files"]] == sizes
        for file, size in zip(manifest["files"], sizes, strict=True):
            parquet = pq.read_metadata(tmp_path / str(rows) / file["name"])
            groups = [parquet.row_group(n).num_rows for n in range(parquet.num_row_groups)]
            assert groups == [10_000] * (size // 10_000) + [size % 10_000] * (size % 10_000 > 0)


def test_manifest_hashes_are_those_of_the_files(built: Path) -> None:
    manifest = read_manifest(built / "flan5m")
    assert manifest["seed"] == 17 and "duckdb" in manifest["versions"]
    assert manifest["queries"] == sum(file["rows"] for file in manifest["files"])
    for file in manifest["files"]:
        data = (built / "flan5m" / file["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
        kept = json.loads(pq.read_schema(built / "flan5m" / file["name"]).metadata[b"orca"])
        assert kept["seed"] == 17


def test_parquet_readers_take_a_set_by_its_directory(built: Path) -> None:
    import datasets
    import pandas as pd
    import pyarrow.dataset

    expected = read_manifest(built / "flan1m")["queries"]
    assert expected == 120
    assert len(pd.read_parquet(built / "flan1m")) == expected
    assert pyarrow.dataset.dataset(built / "flan1m").count_rows() == expected
    loaded = datasets.load_dataset(str(built / "flan1m"), split="train")
    assert len(loaded) == expected and loaded.column_names == QUERY_SCHEMA.names


def test_a_file_that_is_not_that_of_the_manifest_is_an_error(built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "set"
    shutil.copytree(built / "flan1m", copy)
    table = pq.read_table(copy / "part-00000.parquet")
    pq.write_table(table.slice(1), copy / "part-00000.parquet")
    with pytest.raises(UserError, match=r"part-00000\.parquet has not the 120 rows"):
        rows_of(copy)
    (copy / "part-00000.parquet").unlink()
    with pytest.raises(UserError, match=r"part-00000\.parquet: cannot be read"):
        rows_of(copy)


def test_the_first_gold_target_is_trained_on(tmp_path: Path) -> None:
    row = {"id": "a", "collection": "t0", "system_message": "", "query": "q"}
    batch = pa.RecordBatch.from_pylist([{**row, "targets": ["one", "two"]}], QUERY_SCHEMA)
    write_query_set(tmp_path / "set", [batch], {})
    (trace,) = TraceSource("set/*.parquet", "flan_targets", str(tmp_path))
    assert (trace.response, trace.gold_answer) == ("one", "one")


def test_gold_targets_are_traces(built: Path) -> None:
    """data=flan_targets trains on them; the system messages ask for explanations and are left."""
    source = TraceSource("flan5m/*.parquet", "flan_targets", str(built))
    queries = rows_of(built / "flan5m")
    assert len(source) == len(queries)
    for number in (0, 57, len(queries) - 1):
        trace, query = source[number], queries[number]
        assert (trace.id, trace.query, trace.response, trace.system_message) == (
            query["id"],
            query["query"],
            query["targets"][0],
            "",
        )
        assert trace.sub_collection == query["collection"]
