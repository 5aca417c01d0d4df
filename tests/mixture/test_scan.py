"""The scan and the extraction against plain Python over the same rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orca.errors import UserError
from orca.mixture.engine import engine
from orca.mixture.extract import draw, shuffled, stage
from orca.mixture.sampling import AlgorithmOne, Stratified, TakeAll
from orca.mixture.scan import Scan, scan
from orca.mixture.tables import QueryTable
from orca.mixture.tasks import training_tasks

FILES = 3


def make_rows(file: int) -> list[dict[str, Any]]:
    """200 rows of four tasks in a file, few-shot ones among them; every text is unique."""
    random = np.random.default_rng(file)
    return [
        {
            "inputs": f"query {file}-{n}",
            "targets": f"target {file}-{n}",
            "task_name": f"task{random.choice([1, 1, 1, 2, 2, 3, 4])}",
            "template_type": str(random.choice(["zs_opt", "zs_noopt", "fs_opt"])),
        }
        for n in range(200)
    ]


@pytest.fixture
def submix(tmp_path: Path) -> Path:
    for file in range(FILES):
        pq.write_table(
            pa.Table.from_pylist(make_rows(file)), tmp_path / f"{file}.parquet", row_group_size=70
        )
    return tmp_path


def scanned(
    directory: Path, collection: str = "cot", on_bad_row: str = "fail", files: str = "*.parquet"
) -> Scan:
    opened = QueryTable(files).open(str(directory))
    with engine(directory) as connection:
        return scan(opened, training_tasks(collection), on_bad_row, connection)


def test_counts_are_those_of_the_zero_shot_rows(submix: Path) -> None:
    rows = [row for file in range(FILES) for row in make_rows(file)]
    zero = Counter(row["task_name"] for row in rows if row["template_type"].startswith("zs"))
    few = Counter(row["task_name"] for row in rows if row["template_type"].startswith("fs"))
    found = scanned(submix)
    assert dict(zip(found.tasks, found.counts.tolist(), strict=True)) == zero
    assert found.few_shot == few
    assert zero.total() + few.total() == 600 == len(found.codes)


def test_codes_point_at_the_rows_of_their_task(submix: Path) -> None:
    rows = [row for file in range(FILES) for row in make_rows(file)]
    found = scanned(submix)
    for task, name in enumerate(found.tasks):
        own = [
            n
            for n, row in enumerate(rows)
            if row["task_name"] == name and row["template_type"].startswith("zs")
        ]
        assert found.rows(task).tolist() == own


def test_extraction_gives_the_drawn_rows_once_and_in_shuffled_order(submix: Path) -> None:
    rows = [row for file in range(FILES) for row in make_rows(file)]
    found = scanned(submix)
    taken, quotas = draw(found, AlgorithmOne(90), 17, "cot")
    assert quotas.sum() == 90 == len(set(taken.tolist()))
    batches = list(stage({"cot": found}, {"cot": taken}, 17, submix, 1.0))
    read = [row for batch in batches for row in batch.to_pylist()]
    places = shuffled({"cot": taken}, 17)["cot"]
    expected = [rows[taken[i]] for i in np.argsort(places)]
    assert [row["query"] for row in read] == [row["inputs"] for row in expected]
    assert [row["targets"] for row in read] == [[row["targets"]] for row in expected]
    assert len({row["id"] for row in read}) == 90
    for row in read:
        file, line = row["source_file"], row["source_row"]
        assert row["query"] == f"query {file.removesuffix('.parquet')}-{line - 1}"
    assert [row["query"] for row in read] != sorted(row["query"] for row in read)


def test_the_draw_does_not_depend_on_batches_threads_or_other_collections(
    submix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca.mixture.scan.ROWS_AT_ONCE", 7)
    small = scanned(submix)
    monkeypatch.setattr("orca.mixture.scan.ROWS_AT_ONCE", 1 << 17)
    large = scanned(submix)
    assert small.tasks == large.tasks
    assert np.array_equal(small.codes, large.codes)
    one, _ = draw(small, Stratified(20), 17, "niv2")
    assert np.array_equal(one, draw(large, Stratified(20), 17, "niv2")[0])
    assert not np.array_equal(one, draw(large, Stratified(20), 18, "niv2")[0])


def test_files_are_taken_in_the_order_of_their_names(submix: Path) -> None:
    names = ["2.parquet", "0.parquet", "1.parquet"]
    shuffled_names = [file.name for file in QueryTable(names).open(str(submix))]
    assert shuffled_names == ["0.parquet", "1.parquet", "2.parquet"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"targets": None}, "missing_target"),
        ({"targets": " \n"}, "missing_target"),
        ({"inputs": None}, "empty_query"),
        ({"inputs": "\t "}, "empty_query"),
        ({"task_name": None}, "missing_task"),
        ({"template_type": None}, "missing_template_type"),
        ({"template_type": "two_shot"}, "unknown_template_type"),
    ],
)
def test_rows_that_are_no_queries_are_named_or_counted(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    rows = make_rows(0)
    rows[41] = {**rows[41], "template_type": "zs_opt", **change}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, row 42: .*on_bad_row=skip"):
        scanned(tmp_path)
    found = scanned(tmp_path, on_bad_row="skip")
    assert found.bad == {reason: 1}
    assert found.bad_examples[0].startswith(f"{reason}: a.parquet, row 42: ")
    assert found.codes[41] == -1


def test_t0_samples_training_tasks_and_no_big_bench(tmp_path: Path) -> None:
    def of(task: str) -> dict[str, str]:
        return {"inputs": "q", "targets": "t", "task_name": task, "template_type": "zs_opt"}

    rows = [of("duorc_SelfRC_x"), of("bigbench_snarks"), of("super_glue_rte_x")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = scanned(tmp_path, "t0")
    assert found.tasks == ["duorc_SelfRC_x"]
    assert found.excluded == {"bigbench_snarks": 1, "super_glue_rte_x": 1}
    pq.write_table(
        pa.Table.from_pylist([*rows, of("mine_x"), of("mine_x")]), tmp_path / "a.parquet"
    )
    with pytest.raises(UserError, match=r"a\.parquet, row 4: 'mine_x' is no task of this coll"):
        scanned(tmp_path, "t0")
    assert scanned(tmp_path, "t0", "skip").bad == {"unknown_task": 2}


def test_niv2_leaves_out_the_tasks_made_of_mmlu() -> None:
    rule = training_tasks("niv2")
    numbers = [n for n in range(1, 1762) if rule(f"task{n:03d}_mmlu_x") == "excluded"]
    assert numbers == [*range(664, 668), *range(685, 738)]


def test_everything_is_taken_where_all_is_asked_for(submix: Path) -> None:
    found = scanned(submix)
    taken, _ = draw(found, TakeAll(), 1, "cot")
    assert np.array_equal(np.sort(taken), np.flatnonzero(found.codes >= 0))
