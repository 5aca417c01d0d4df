"""Rows of a Parquet file are what pyarrow reads; it is converted once, or not at all."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orca.errors import UserError
from orca.traces import BadRow
from orca.traces.files import open_rows
from orca.traces.parquet import BATCH, DECODED, convert_parquet


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(file: Path, rows: int, row_group_size: int = 10_000) -> list[dict[str, Any]]:
    """A file with a column of every kind that data sets have; returns its rows."""
    lengths = np.random.default_rng(0).integers(0, 60, rows).tolist()
    table = pa.table(
        {
            "id": list(range(rows)),
            "query": [f"ü{n}" + "x" * length for n, length in enumerate(lengths)],
            "response": [None if n % 7 == 0 else f"r{n}" for n in range(rows)],
            "task": pa.array([f"task {n % 3}" for n in range(rows)]).dictionary_encode(),
            "messages": [[{"role": "user", "content": f"c{n}"}] * (n % 3) for n in range(rows)],
        }
    )
    pq.write_table(table, file, row_group_size=row_group_size)
    return table.to_pylist()


def opened(file: Path) -> Any:
    (rows,) = open_rows(str(file))
    return rows


@pytest.mark.parametrize(
    ("rows", "row_group_size"),
    [(DECODED + 2 * BATCH + 5, 1 << 20), (500, 70), (BATCH, BATCH), (1, 1)],
)
def test_rows_are_those_of_pyarrow_for_any_row_groups(
    tmp_path: Path, rows: int, row_group_size: int
) -> None:
    expected = write(tmp_path / "a.parquet", rows, row_group_size)
    found = opened(tmp_path / "a.parquet")
    assert len(found) == rows
    for number in [*range(rows), *np.random.default_rng(1).permutation(rows)]:
        assert found[number] == expected[number]
    copied = pickle.loads(pickle.dumps(found))
    assert copied[rows // 2] == expected[rows // 2]
    sizes = [sum(len(r[n].encode()) for n in ("query", "task")) for r in expected]
    sizes = [n + len(r["response"] or "") for n, r in zip(sizes, expected, strict=True)]
    sizes = [
        n + sum(4 + len(m["content"]) for m in r["messages"])
        for n, r in zip(sizes, expected, strict=True)
    ]
    assert found.sizes().tolist() == sizes


def test_a_file_without_rows_has_none(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 0)
    assert len(opened(tmp_path / "a.parquet")) == 0
    assert opened(tmp_path / "a.parquet").sizes().tolist() == []


def _read(rows: Any, numbers: list[int], answers: Any) -> None:
    answers.put([rows[number] for number in numbers])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_side_by_side(tmp_path: Path, method: str) -> None:
    """Forked workers share the open file with their parent, and must not share its place."""
    expected = write(tmp_path / "a.parquet", 3000)
    rows, context = opened(tmp_path / "a.parquet"), multiprocessing.get_context(method)
    orders = [np.random.default_rng(n).permutation(3000).tolist() for n in range(2)]
    queues = [context.SimpleQueue() for _ in orders]
    workers = [
        context.Process(target=_read, args=(rows, order, queue))
        for order, queue in zip(orders, queues, strict=True)
    ]
    for worker in workers:
        worker.start()
    assert [rows[n] for n in range(3000)] == expected
    for order, queue, worker in zip(orders, queues, workers, strict=True):
        assert queue.get() == [expected[n] for n in order]
        worker.join()


def test_a_row_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff", b"good too"]).view(pa.string())
    pq.write_table(pa.table({"query": texts}), tmp_path / "a.parquet")
    rows = opened(tmp_path / "a.parquet")
    assert [rows[0]["query"], rows[2]["query"]] == ["good", "good too"]
    with pytest.raises(BadRow) as error:
        rows[1]
    assert error.value.reason == "invalid_utf8"


def test_one_process_converts_and_the_others_wait(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "a.parquet", 20_000)
    program = (
        "import sys; from orca.traces.files import open_rows; print(len(open_rows(sys.argv[1])[0]))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "a.parquet")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate() for process in processes]
    assert [out.strip() for out, _ in outputs] == ["20000"] * 3
    assert sum(err.count("converting") for _, err in outputs) == 1
    assert not list(cache.rglob("*.partial"))


def test_a_changed_file_is_converted_again_and_a_killed_conversion_is_not_used(
    tmp_path: Path, cache: Path
) -> None:
    file = tmp_path / "a.parquet"
    write(file, 10)
    opened(file)
    (made,) = cache.rglob("*.rows")
    made.rename(f"{made}.partial")  # as if the process had been killed before the end
    assert opened(file)[9]["query"].startswith("ü9")
    write(file, 11)
    assert len(opened(file)) == 11


def test_a_damaged_copy_is_named_with_the_way_out(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "a.parquet", 100)
    opened(tmp_path / "a.parquet")
    (part,) = cache.rglob("0.arrow")
    part.write_bytes(part.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"a\.rows: damaged .* Delete it"):
        opened(tmp_path / "a.parquet")


def test_a_disk_that_is_too_small_is_found_before_and_while_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.parquet"
    write(file, 5000)
    if Path("/dev/full").exists():  # a device that is always full
        (tmp_path / "rows").mkdir()
        (tmp_path / "rows" / "0.arrow").symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"needs more than is free\. .*ORCA_CACHE"):
            convert_parquet(file, tmp_path / "rows")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"a\.parquet: .* needs about .* GB, .*ORCA_CACHE"):
        opened(file)
