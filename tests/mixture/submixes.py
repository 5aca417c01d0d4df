"""Small submixes of all four collections, and a mixture of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orca.mixture import (
    AlgorithmOne,
    Collection,
    Mixture,
    QueryTable,
    Stratified,
    SystemMessages,
    TakeAll,
)
from orca.mixture.query_set import read_queries


def write_submix(directory: Path, task: str, tasks: int, rows: int, files: int = 1) -> None:
    """Rows that say where they are; every fourth is few-shot, every third shows options."""
    directory.mkdir(parents=True)
    made = [
        {
            "inputs": f"{directory.name} {n}?" + "\nOPTIONS:\n- yes\n- no" * (n % 3 == 0),
            "targets": f"target {n}",
            "task_source": "x",
            "task_name": f"{task}{n * n % tasks}",
            "template_type": ("zs_opt", "zs_noopt", "zs_opt", "fs_opt")[n % 4],
        }
        for n in range(rows)
    ]
    size = -(-rows // files)
    for file in range(files):
        part = made[file * size : (file + 1) * size]
        pq.write_table(pa.Table.from_pylist(part), directory / f"{file}.parquet")


def four_submixes(root: Path) -> Path:
    write_submix(root / "cot", "cot_", 5, 200)
    write_submix(root / "niv2", "task12", 7, 900, files=3)
    write_submix(root / "flan2021", "glue/", 9, 1000)
    write_submix(root / "t0", "duorc_", 11, 1200)
    return root


def a_mixture(root: Path, **changes: Any) -> Mixture:
    def collection(name: str, sampler: Any) -> Collection:
        return Collection(QueryTable(f"{name}/*.parquet"), sampler)

    settings: dict[str, Any] = {
        "name": "test",
        "path": str(root),
        "collections": {
            "cot": collection("cot", TakeAll()),
            "niv2": collection("niv2", Stratified(30)),
            "flan2021": collection("flan2021", AlgorithmOne(250)),
            "t0": collection("t0", AlgorithmOne(200)),
        },
        "sets": {"flan5m": None, "flan1m": 120},
        "system_messages": SystemMessages(seed=17),
    }
    return Mixture(**{**settings, **changes})


def rows_of(directory: Path) -> list[dict[str, Any]]:
    return [row for batch in read_queries(directory) for row in batch.to_pylist()]
