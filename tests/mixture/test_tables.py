"""Pre-rendered submixes and P3 rows: the same rows give the same pool in every file form."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from orca.errors import UserError
from orca.mixture.engine import engine
from orca.mixture.pool import SCHEMA, PoolFile
from orca.mixture.scan import select
from orca.mixture.tables import QueryTable

ROWS = [
    {
        "inputs": f"What is {n}? {{x}} '\"",
        "targets": f"it's {n}",
        "task_source": "Flan2021",
        "task_name": f"task/{n % 2}:1.0.0",
        "template_type": ("zs_opt", "fs_noopt")[n % 2],
    }
    for n in range(5)
]


def pool(file: PoolFile, tmp_path: Path) -> list[dict[str, Any]]:
    with engine(tmp_path) as connection:
        columns = ", ".join(f'"{name}"' for name in SCHEMA.names)
        sql = f"SELECT {columns} FROM ({select(file)}) ORDER BY place"
        return connection.sql(sql).to_arrow_table().to_pylist()


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(text))
    else:
        path.write_bytes(text)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json"])
@pytest.mark.parametrize("underscore", [False, True])
def test_every_form_of_the_submix_files_gives_the_same_candidates(
    tmp_path: Path, ending: str, underscore: bool
) -> None:
    names = {k: f"_{k}" if underscore and k.startswith(("task", "temp")) else k for k in ROWS[0]}
    rows = [{names[k]: v for k, v in row.items()} for row in ROWS]
    write(tmp_path / f"part{ending}", rows)
    (file,) = QueryTable(f"*{ending}").open(str(tmp_path))
    assert file.name == f"part{ending}"
    assert pool(file, tmp_path) == [
        {
            "task": row["task_name"],
            "template": "",
            "template_type": row["template_type"],
            "query": row["inputs"],
            "targets": [row["targets"]],
            "row": number,
            "problem": None,
        }
        for number, row in enumerate(ROWS, start=1)
    ]


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_lists_of_targets_are_kept(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"a{ending}", [{**ROWS[0], "targets": ["x", "y"]}])
    (file,) = QueryTable(f"a{ending}").open(str(tmp_path))
    assert pool(file, tmp_path)[0]["targets"] == ["x", "y"]


def test_end_mark_and_task_prefix_are_cut_at_the_ends_alone(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "completion": "a<END>b <END>\n", "template": "t0:t0:duorc"},
        {"prompt": "p", "completion": "no mark", "template": "sciq"},
    ]
    write(tmp_path / "a.jsonl", rows)
    table = QueryTable("a.jsonl", "prompt", "completion", "template", None, "<END>", "t0:")
    found = pool(table.open(str(tmp_path))[0], tmp_path)
    assert [row["targets"] for row in found] == [["a<END>b"], ["no mark"]]
    assert [row["task"] for row in found] == ["t0:duorc", "sciq"]
    assert {row["template_type"] for row in found} == {"zs"}


def test_without_a_task_column_the_directory_names_the_task(tmp_path: Path) -> None:
    (tmp_path / "duorc_SelfRC_title").mkdir()
    write(tmp_path / "duorc_SelfRC_title" / "a.parquet", [{"inputs": "q", "targets": "t"}])
    table = QueryTable("**/*.parquet", task=None, template_type=None, task_prefix="duorc_")
    (file,) = table.open(str(tmp_path))
    assert pool(file, tmp_path)[0]["task"] == "SelfRC_title"


def test_lines_that_are_no_rows_keep_their_place_and_say_so(tmp_path: Path) -> None:
    first, number, last = (json.dumps(row) for row in (ROWS[0], {"inputs": 5}, ROWS[2]))
    lines = [first, '{"inputs": "cut', "[1]", number, last]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = pool(QueryTable("a.jsonl").open(str(tmp_path))[0], tmp_path)
    assert [row["row"] for row in found] == [1, 2, 3, 4, 5]
    reasons = [row["problem"] and row["problem"].split(":")[0] for row in found]
    assert reasons == [None, "not_json", "not_json", "wrong_type", None]
    assert "field inputs is UBIGINT, not text" in found[3]["problem"]
    assert found[4]["query"] == ROWS[2]["inputs"]


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_a_file_that_is_cut_off_is_an_error_that_names_it(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"part{ending}"
    write(path, ROWS * 200)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"part{ending}"):
        QueryTable(path.name).open(str(tmp_path))


def test_changed_files_and_options_are_converted_again(tmp_path: Path) -> None:
    def first(table: QueryTable) -> tuple[str, str]:
        row = pool(table.open(str(tmp_path))[0], tmp_path)[0]
        return row["query"], row["task"]

    write(tmp_path / "a.jsonl", ROWS[:1])
    assert first(QueryTable("a.jsonl")) == (ROWS[0]["inputs"], ROWS[0]["task_name"])
    assert first(QueryTable("a.jsonl", task_prefix="task/"))[1] == "0:1.0.0"
    assert first(QueryTable("a.jsonl", query="targets"))[0] == ROWS[0]["targets"]
    write(tmp_path / "a.jsonl", ROWS[1:3])
    assert first(QueryTable("a.jsonl"))[0] == ROWS[1]["inputs"]


def test_only_the_same_version_of_the_same_file_is_taken_from_the_cache(tmp_path: Path) -> None:
    """Another time, another size or another place alone makes another file of the same name."""

    def query(root: str, text: str, seconds: int) -> str:
        path = tmp_path / root / "a.jsonl"
        path.parent.mkdir(exist_ok=True)
        write(path, [{**ROWS[0], "inputs": text}])
        os.utime(path, (seconds, seconds))
        return pool(QueryTable("a.jsonl").open(str(path.parent))[0], tmp_path)[0]["query"]

    files = [("x", "one", 1), ("x", "two", 2), ("x", "three", 2), ("y", "other", 2)]
    assert [query(*file) for file in files] == ["one", "two", "three", "other"]
    assert query("x", "TRI", 1) == "one", "size and time are all that is looked at"


def test_links_to_one_file_belong_to_the_tasks_of_their_directories(tmp_path: Path) -> None:
    write(tmp_path / "blob.jsonl", [{"inputs": "q", "targets": "t"}])
    for name in ("duorc_a", "duorc_b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").symlink_to(tmp_path / "blob.jsonl")
    files = QueryTable("*/x.jsonl", task=None, template_type=None).open(str(tmp_path))
    assert [pool(file, tmp_path)[0]["task"] for file in files] == ["duorc_a", "duorc_b"]
    table = QueryTable("x.jsonl", task=None, template_type=None)
    for name in ("duorc_a", "duorc_b"):
        (file,) = table.open(str(tmp_path / name))
        assert pool(file, tmp_path)[0]["task"] == name


def test_what_is_no_file_of_json_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1))
    with pytest.raises(UserError, match=r"a\.json holds a JSON array"):
        QueryTable("a.json").open(str(tmp_path))
    (tmp_path / "b.jsonl").write_text("\ufeff" + json.dumps(ROWS[0]), encoding="utf-8")
    with pytest.raises(UserError, match="byte order mark"):
        QueryTable("b.jsonl").open(str(tmp_path))
    write(tmp_path / "c.jsonl.gz", ROWS * 50)
    data = bytearray((tmp_path / "c.jsonl.gz").read_bytes())
    data[-6] ^= 1  # of the checksum
    (tmp_path / "c.jsonl.gz").write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"c\.jsonl\.gz: cannot be unpacked"):
        QueryTable("c.jsonl.gz").open(str(tmp_path))


@pytest.mark.parametrize("targets", [["a", 1], [{"a": 1}]])
def test_lists_with_more_than_texts_are_bad_rows(tmp_path: Path, targets: list[Any]) -> None:
    write(tmp_path / "a.jsonl", [{**ROWS[0], "targets": targets}])
    (row,) = pool(QueryTable("a.jsonl").open(str(tmp_path))[0], tmp_path)
    assert row["problem"] == "wrong_type: an element of the list targets is not text"


def test_a_file_whose_targets_are_all_empty_has_bad_rows_and_no_missing_column(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a.jsonl", [{**ROWS[0], "targets": "<END>"}] * 2)
    table = QueryTable("a.jsonl", end_mark="<END>")
    found = pool(table.open(str(tmp_path))[0], tmp_path)
    assert [row["targets"] for row in found] == [[""], [""]]


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{"inputs": "q", "targets": "t", "template_type": "zs_opt"}])
    with pytest.raises(UserError, match="no column 'task_name'; it has 'inputs', 'targets'"):
        QueryTable("a.parquet").open(str(tmp_path))
    with pytest.raises(UserError, match="no file matches"):
        QueryTable("b*.parquet").open(str(tmp_path))
    write(tmp_path / "n.parquet", [{"inputs": 5, "targets": "t"}])
    with pytest.raises(UserError, match="'inputs' is BIGINT, not text"):
        QueryTable("n.parquet", task=None, template_type=None).open(str(tmp_path))
    write(tmp_path / "a.jsonl", [{"inputs": "q", "target": "t"}] * 3)
    with pytest.raises(
        UserError, match=r"a\.jsonl: no column 'targets'; it has 'inputs', 'target'"
    ):
        QueryTable("a.jsonl", task=None, template_type=None).open(str(tmp_path))
    (tmp_path / "json=5").mkdir()  # for DuckDB a column of that name, if it is let
    (tmp_path / "a.jsonl").rename(tmp_path / "json=5" / "a.jsonl")
    with pytest.raises(UserError, match=r"json=5/a\.jsonl: no column 'targets'"):
        QueryTable("json=5/*", task=None, template_type=None).open(str(tmp_path))
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(UserError, match="unknown ending"):
        QueryTable("a.csv").open(str(tmp_path))
