"""The scan and the extraction against plain Python over the same rows."""

from __future__ import annotations

import hashlib
import re
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
from orca.mixture.pool import NOT_SUITED, Candidate, rendered
from orca.mixture.rendering import bad_row
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
            "template_type": str(random.choice(["zs_opt", "zs_noopt", "fs_opt", "fs_noopt"])),
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
    assert found.tasks == ["task1", "task2", "task3", "task4"], "sorted: draws go by place"
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
    assert all(re.fullmatch(r"cot\.[0-9a-f]{16}", row["id"]) for row in read)
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
    assert not np.array_equal(one, draw(large, Stratified(20), 17, "cot")[0])
    quotas = [draw(large, AlgorithmOne(60), seed, "cot")[1].tolist() for seed in range(5)]
    assert len(set(map(tuple, quotas))) > 1, "quotas depend on the seed"
    others = [draw(large, AlgorithmOne(60), seed, "t0")[1].tolist() for seed in range(5)]
    assert quotas != others, "and on the collection"
    orders = [shuffled({"cot": np.arange(50)}, seed)["cot"].tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2], "the order depends on the seed"


def test_tasks_of_one_size_give_rows_at_different_places(tmp_path: Path) -> None:
    names = [f"task{n % 2}" for n in range(200)]
    rows = [{"inputs": "q", "targets": "t", "task_name": name} for name in names]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with engine(tmp_path) as connection:
        opened = QueryTable("*.parquet", template_type=None).open(str(tmp_path))
        found = scan(opened, training_tasks("cot"), "fail", connection)
    taken, quotas = draw(found, Stratified(10), 17, "niv2")
    assert quotas.tolist() == [10, 10]
    assert (taken[:10] % 2 == 0).all() and (taken[10:] % 2 == 1).all()
    assert not np.array_equal(taken[:10] // 2, taken[10:] // 2)


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
    rows.insert(1, of("bigbench_snarks"))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = scanned(tmp_path, "t0")
    assert found.tasks == ["duorc_SelfRC_x"]
    assert found.excluded == {"bigbench_snarks": 2, "super_glue_rte_x": 1}
    pq.write_table(
        pa.Table.from_pylist([*rows, of("mine_x"), of("mine_x")]), tmp_path / "a.parquet"
    )
    with pytest.raises(UserError, match=r"a\.parquet, row 5: 'mine_x' is no task of this coll"):
        scanned(tmp_path, "t0")
    assert scanned(tmp_path, "t0", "skip").bad == {"unknown_task": 2}


def test_a_pool_s_problems_are_bad_rows_and_rows_left_out_by_templates_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "cache"))
    fine = Candidate("a", "q", ("", "t", "u"), 1)
    left_out = bad_row("a", 2, NOT_SUITED, "a template leaves it out")
    broken = bad_row("a", 3, "wrong_columns", "2 columns")
    for candidates, bad in (([fine, left_out], {NOT_SUITED: 1}), ([fine, broken], None)):
        file = rendered("a.tsv", [], repr(bad), lambda made=candidates: made)
        with engine(tmp_path) as connection:
            if bad is None:
                with pytest.raises(UserError, match=r"a\.tsv, row 3: 2 columns"):
                    scan([file], training_tasks("cot"), "fail", connection)
                bad = {"wrong_columns": 1}
            found = scan([file], training_tasks("cot"), "skip", connection)
        assert found.bad == bad
        assert found.counts.tolist() == [1], "a blank first target does not make a bad row"
    (batch,) = stage({"cot": found}, {"cot": np.array([0])}, 1, tmp_path, 1.0)
    assert batch["targets"].to_pylist() == [["t", "u"]], "blank targets are left out"


def test_an_id_is_of_collection_file_row_task_and_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "cache"))
    of = [(1, "a", "x"), (1, "a", "y"), (1, "b", "x"), (2, "a", "x")]
    made = [Candidate(task, "q", ("t",), row, template) for row, task, template in of]
    files = [rendered(name, [], "", lambda: made) for name in ("1.tsv", "2.tsv")]
    with engine(tmp_path) as connection:
        found = scan(files, training_tasks("cot"), "fail", connection)
    (batch,) = stage({"cot": found}, {"cot": np.arange(8)}, 1, tmp_path, 1.0)
    texts = [
        f"{file}\x1f{row}\x1f{task}\x1f{template}"
        for file in ("1.tsv", "2.tsv")
        for row, task, template in of
    ]
    expected = {f"cot.{hashlib.md5(text.encode()).hexdigest()[:16]}" for text in texts}
    assert set(batch["id"].to_pylist()) == expected and len(expected) == 8


def test_skipped_and_excluded_rows_are_all_counted_and_some_are_listed(tmp_path: Path) -> None:
    def of(task: str | None) -> dict[str, Any]:
        return {"inputs": "q", "targets": "t", "task_name": task, "template_type": "zs_opt"}

    for file, bad in ((1, 15), (2, 10)):
        rows = [of("duorc_x"), *[of(None)] * bad, of("anli_r1")]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{file}.parquet")
    found = scanned(tmp_path, "t0", "skip")
    assert found.bad == {"missing_task": 25}
    places = [("1", row) for row in range(2, 17)] + [("2", row) for row in range(2, 7)]
    assert [text.split(": ")[1] for text in found.bad_examples] == [
        f"{file}.parquet, row {row}" for file, row in places
    ]
    assert found.excluded == {"anli_r1": 2} and found.counts.tolist() == [2]


def test_paths_are_no_patterns_and_directories_no_columns(tmp_path: Path) -> None:
    directory = tmp_path / "task_name=other"
    directory.mkdir()
    for name in ("part1", "part[1]", "a*", "it's"):
        row = {**make_rows(0)[0], "inputs": name, "template_type": "zs_opt", "task_name": "task1"}
        pq.write_table(pa.Table.from_pylist([row]), directory / f"{name}.parquet")
    found = scanned(directory)
    assert found.tasks == ["task1"] and found.counts.tolist() == [4]
    batches = stage({"cot": found}, {"cot": np.arange(4)}, 1, tmp_path, 1.0)
    read = {(row["query"], row["source_file"]) for b in batches for row in b.to_pylist()}
    assert read == {(name, f"{name}.parquet") for name in ("part1", "part[1]", "a*", "it's")}


def test_links_to_a_directory_above_do_not_repeat_files(submix: Path) -> None:
    (submix / "again").symlink_to(submix)
    assert len(QueryTable("**/*.parquet").open(str(submix))) == FILES


def test_a_file_that_changes_between_scan_and_extraction_is_an_error(submix: Path) -> None:
    found = scanned(submix)
    pq.write_table(pq.read_table(submix / "0.parquet").slice(0, 100), submix / "0.parquet")
    with pytest.raises(UserError, match=r"0\.parquet has changed"):
        list(stage({"cot": found}, {"cot": np.flatnonzero(found.codes >= 0)}, 1, submix, 1.0))


def test_a_column_that_names_no_task_is_told(tmp_path: Path) -> None:
    row = {"inputs": "q", "targets": "t", "template_type": "zs_opt"}
    rows = [{**row, "task_name": f"row {n}"} for n in range(33_000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: more than 32,767 tasks"):
        scanned(tmp_path)


def test_everything_is_taken_where_all_is_asked_for(submix: Path) -> None:
    found = scanned(submix)
    taken, _ = draw(found, TakeAll(), 1, "cot")
    assert np.array_equal(np.sort(taken), np.flatnonzero(found.codes >= 0))
