"""Files of every kind give the same rows; broken ones say which file and row."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from orca.errors import UserError
from orca.traces import BadRow, TraceSource
from orca.traces.files import open_rows

ROWS = [{"id": f"{i}", "query": f"q {i} ü", "response": f"r {i}"} for i in range(7)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def write(directory: Path, ending: str) -> Path:
    file = directory / f"rows{ending}"
    table = pa.Table.from_pylist(ROWS)
    if ending == ".jsonl":
        file.write_bytes(LINES)
    elif ending == ".jsonl.gz":
        file.write_bytes(gzip.compress(LINES))
    elif ending == ".jsonl.zst":
        half = len(LINES) // 2
        packed = [zstandard.compress(part) for part in (LINES[:half], LINES[half:])]
        file.write_bytes(b"".join(packed))  # two frames
    elif ending == ".json":
        file.write_text(json.dumps(ROWS))
    elif ending == ".parquet":
        pq.write_table(table, file, row_group_size=3)
    else:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return file


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet", ".arrow"]
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    (rows,) = open_rows(str(write(tmp_path, ending)))
    assert [dict(rows[i]) for i in range(len(rows))] == ROWS
    assert len(rows.sizes()) == 7 and rows.sizes().min() > 0


def test_lines_survive_blank_lines_and_a_missing_last_newline(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n" + LINES.replace(b"\n", b"\r\n\n  \n").rstrip())
    (rows,) = open_rows(str(file))
    assert [dict(rows[i]) for i in range(len(rows))] == ROWS
    assert [rows.row_number(i) for i in range(3)] == [2, 5, 8]  # as an editor counts lines


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES)
    (rows,) = open_rows(str(tmp_path / "a.jsonl"))
    assert dict(rows[0]) == ROWS[0]


def test_sizes_of_nested_rows_count_their_text(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "x" * n}]} for n in (3, 50, 7)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "chat.parquet")
    (opened,) = open_rows(str(tmp_path / "chat.parquet"))
    assert opened.sizes().tolist() == [7, 54, 11]


def test_a_glob_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_bytes(LINES)
    source = TraceSource("*.jsonl", "trace", root=str(tmp_path))
    assert len(source) == 14 and source.locate(7).endswith("b.jsonl, row 1")


def test_a_file_over_http_is_read(tmp_path: Path) -> None:
    import http.server
    import threading
    from functools import partial

    write(tmp_path, ".jsonl.gz")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (rows,) = open_rows(f"http://127.0.0.1:{server.server_port}/rows.jsonl.gz")
        server.shutdown()
    assert [dict(rows[i]) for i in range(len(rows))] == ROWS


def test_a_changed_compressed_file_is_unpacked_again(tmp_path: Path) -> None:
    import os

    file = write(tmp_path, ".jsonl.gz")
    assert len(open_rows(str(file))[0]) == 7
    file.write_bytes(gzip.compress(LINES * 2))
    os.utime(file, (1, 1))
    assert len(open_rows(str(file))[0]) == 14


def test_line_files_travel_to_worker_processes(tmp_path: Path) -> None:
    (rows,) = open_rows(str(write(tmp_path, ".jsonl")))
    assert dict(pickle.loads(pickle.dumps(rows))[3]) == ROWS[3]


def test_the_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    first, second = write(tmp_path, ".jsonl"), write(tmp_path / "x", ".jsonl")
    same = [TraceSource(str(file), "trace").fingerprint for file in (first, second)]
    second.write_bytes(LINES.replace(b"r 3", b"r 9"))
    assert same[0] == same[1] != TraceSource(str(second), "trace").fingerprint


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"query": "q", "respo', "not_json"),
        (b"[1, 2]", "not_json"),
        (b'{"query": "\xff", "response": "r"}', "invalid_utf8"),
        (b'{"query": "q"}', "missing_field"),
        (b'{"query": "q \\ud83d", "response": "r"}', "invalid_unicode"),
        (b'{"query": ' + b"[" * 100_000, "not_json"),
    ],
)
def test_a_bad_line_is_one_bad_row_with_a_number(tmp_path: Path, line: bytes, reason: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(LINES + line + b"\n" + LINES)
    source = TraceSource(str(file), "trace")
    assert len(source) == 15 and source[14].id == "6"
    with pytest.raises(BadRow) as error:
        source[7]
    assert error.value.reason == reason and source.locate(7) == f"{file}, row 8"


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".jsonl.gz", ".jsonl.zst", ".json"])
def test_a_cut_off_file_is_named(tmp_path: Path, ending: str) -> None:
    file = write(tmp_path, ending)
    file.write_bytes(file.read_bytes()[:-25])
    with pytest.raises(UserError, match=f"rows{ending}"):
        open_rows(str(file))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("*.jsonl", "no file matches"),
        ("a.xlsx", "no file matches"),
        ("none/at-all.jsonl", "no file"),
    ],
)
def test_a_pattern_that_matches_nothing_is_named(tmp_path: Path, pattern: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_rows(pattern, root=str(tmp_path))


def test_an_unknown_ending_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(UserError, match=r"Known: \.jsonl"):
        open_rows(str(tmp_path / "a.xlsx"))


def test_empty_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="no rows"):
        len(TraceSource(str(tmp_path / "a.jsonl"), "trace"))
