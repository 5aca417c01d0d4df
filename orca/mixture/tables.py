"""Rows that are queries already: the pre-rendered FLAN submixes, and T0/P3 rows.

Parquet is read where it lies. JSON lines are converted once, by DuckDB, into Parquet in the cache.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
import zstandard

from orca.errors import UserError
from orca.mixture.engine import WHITE, column, engine, exactly, literal, parquet, unreadable
from orca.mixture.pool import PoolFile, cached_pool, matching_files
from orca.traces.files import COMPRESSION, unpack

LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
TELL_FROM = 100_000_000  # bytes: what is smaller is converted in a moment
VERSION = 1
"""Of the conversion of JSON lines; another one converts cached files again."""
UNTYPED = "zs"
"""Template type of rows that do not say whether they show answer options (P3)."""


class QueryTable:
    """Rows with a query and its targets, as Parquet or JSON lines (also ``.gz``, ``.zst``).

    The defaults are the columns of the ``*_submix_original`` files; a column may also be there with
    an underscore before its name, as in other copies of the collection.

    Args:
        files: patterns; ``**`` goes into directories.
        query, targets: columns with the text, and with one gold answer or a list of them.
        task: column with the task's name; None: the name of the file's directory.
        template_type: column with FLAN's template type; None: all rows are zero-shot.
        end_mark: cut from the end of every target (P3 copies have ``<|endoftext|>``).
        task_prefix: cut from the start of every task's name (``t0_task_adaptation:``).
    """

    def __init__(
        self,
        files: str | Sequence[str],
        query: str = "inputs",
        targets: str = "targets",
        task: str | None = "task_name",
        template_type: str | None = "template_type",
        end_mark: str = "",
        task_prefix: str = "",
    ) -> None:
        self.files = files
        self.columns = {"query": query, "targets": targets}
        if task is not None:
            self.columns["task"] = task
        if template_type is not None:
            self.columns["template_type"] = template_type
        self.end_mark = end_mark
        self.task_prefix = task_prefix

    def open(self, root: str | None) -> list[PoolFile]:
        return [self._open(name, path) for name, path in matching_files(self.files, root)]

    def _open(self, name: str, path: Path) -> PoolFile:
        if path.name.endswith(LINES):
            return self._converted(name, path)
        if path.suffix != ".parquet":
            known = ", ".join((".parquet", *LINES))
            raise UserError(f"{name}: unknown ending. Known: {known}")
        kinds = _columns(name, path)
        found = {key: _find(name, wanted, kinds) for key, wanted in self.columns.items()}
        lists = kinds[found["targets"]].endswith("[]")
        texts = {key: column(value) for key, value in found.items()}
        texts["targets"] = texts["targets"] if lists else f"[{texts['targets']}]"
        return PoolFile(name, str(path), self._select(texts, path, "file_row_number + 1"))

    def _select(self, texts: dict[str, str], path: Path, row: str) -> dict[str, str]:
        """SQL of the pool's columns, from SQL of the texts that are there."""
        targets, task = texts["targets"], texts.get("task", literal(path.parent.name))
        if self.end_mark:
            text = f"rtrim(t, {WHITE})"
            cut = f"rtrim(left({text}, -{len(self.end_mark)}), {WHITE})"
            marked = f"ends_with({text}, {literal(self.end_mark)})"
            targets = (
                f"list_transform({targets}, lambda t: CASE WHEN {marked} THEN {cut} ELSE t END)"
            )
        if self.task_prefix:
            rest = f"substr({task}, {len(self.task_prefix) + 1})"
            prefixed = f"starts_with({task}, {literal(self.task_prefix)})"
            task = f"CASE WHEN {prefixed} THEN {rest} ELSE {task} END"
        return {
            "task": task,
            "template": "''",
            "template_type": texts.get("template_type", literal(UNTYPED)),
            "query": texts["query"],
            "targets": targets,
            "row": row,
            "problem": texts.get("problem", "NULL"),
        }

    def _converted(self, name: str, path: Path) -> PoolFile:
        def convert(target: Path) -> None:
            if path.stat().st_size > TELL_FROM:
                print(f"{name}: converting to Parquet in {target.parent}, once", file=sys.stderr)
            _check_whole(name, path)
            with engine(target.parent, ordered=True) as connection:
                try:
                    connection.execute(
                        f"COPY ({self._lines(path)}) TO {literal(str(target))} "
                        "(FORMAT parquet, COMPRESSION zstd)"
                    )
                except duckdb.Error as error:
                    raise unreadable(name, "JSON lines", error) from None
                self._check_fields(name, path, target, connection)

        return cached_pool(name, [path], repr((vars(self), VERSION)), convert)

    def _check_fields(
        self, name: str, path: Path, pool: Path, connection: duckdb.DuckDBPyConnection
    ) -> None:
        """A field that no row has is a wrong name, and no matter of bad rows."""
        targets = "nullif(array_to_string(targets, ''), '')"
        known = {"query": "query", "targets": targets, "task": "task"}
        sql = ", ".join(f"count({known[key]}) AS {key}" for key in self.columns if key in known)
        counted = f"SELECT {sql} FROM {parquet(pool)}"
        found = connection.sql(counted).to_arrow_table().to_pylist()[0]
        missing = [field for key, field in self.columns.items() if found.get(key) == 0]
        objects = (
            f"read_ndjson_objects({exactly(path)}, hive_partitioning = false, ignore_errors = true)"
        )
        keys = connection.sql(
            f"SELECT json_keys(json) FROM {objects} WHERE json_type(json) = 'OBJECT' LIMIT 1"
        ).fetchall()
        if keys:
            absent = [one for one in missing if not {one, f"_{one}"} & set(keys[0][0])]
            if absent:
                raise _no_column(name, absent[0], keys[0][0])

    def _lines(self, path: Path) -> str:
        """The pool's columns of a file of JSON lines."""
        texts, wrong = {}, []
        fields: dict[str, None] = {}  # each once, though two of the columns may be one
        for key, name in self.columns.items():
            fields |= dict.fromkeys((name, f"_{name}"))
            value = f"coalesce({column(name)}, {column(f'_{name}')})"
            texts[key] = f"CASE WHEN json_type({value}) = 'VARCHAR' THEN {value}->>'$' END"
            fitting = "'VARCHAR', 'NULL'" + ", 'ARRAY'" * (key == "targets")
            wrong.append(
                f"WHEN json_type({value}) NOT IN ({fitting}) "
                f"THEN 'wrong_type: field {name} is ' || json_type({value}) || ', not text'"
            )
            if key == "targets":
                is_list = f"json_type({value}) = 'ARRAY'"
                every = f"from_json({value}, '[\"VARCHAR\"]')"
                texts[key] = f"CASE WHEN {is_list} THEN {every} ELSE [{texts[key]}] END"
                listed = f"from_json({value}, '[\"JSON\"]')"
                others = f"list_filter({listed}, lambda t: json_type(t) <> 'VARCHAR')"
                wrong.append(
                    f"WHEN {is_list} AND len({others}) > 0 "
                    f"THEN 'wrong_type: an element of the list {name} is not text'"
                )
        texts["problem"] = (
            f"CASE WHEN coalesce({', '.join(map(column, fields))}) IS NULL THEN 'not_json: not a "
            f"JSON object, or one with none of the fields {', '.join(self.columns.values())}' "
            f"{' '.join(wrong)} END"
        )
        selected = self._select(texts, path, "row_number() OVER ()").items()
        declared = ", ".join(f"{column(field)}: 'JSON'" for field in fields)
        return (
            f"SELECT {', '.join(f'{sql} AS {column(key)}' for key, sql in selected)} "
            f"FROM read_json({exactly(path)}, format = 'newline_delimited', "
            f"hive_partitioning = false, ignore_errors = true, columns = {{{declared}}})"
        )


def _columns(name: str, path: Path) -> dict[str, str]:
    """Type of every column of a Parquet file."""
    with engine(path.parent) as connection:
        try:
            described = connection.execute(f"DESCRIBE FROM {parquet(path)}").fetchall()
        except duckdb.Error as error:
            raise unreadable(name, "Parquet", error) from None
    return {row[0]: row[1] for row in described}


def _find(name: str, wanted: str, kinds: dict[str, str]) -> str:
    for known in (wanted, f"_{wanted}"):
        if known in kinds:
            if kinds[known] not in ("VARCHAR", "VARCHAR[]"):
                raise UserError(f"{name}: column {known!r} is {kinds[known]}, not text")
            return known
    raise _no_column(name, wanted, kinds)


def _no_column(name: str, wanted: str, known: Iterable[str]) -> UserError:
    return UserError(
        f"{name}: no column {wanted!r}; it has {', '.join(map(repr, known))}. Name the columns in "
        "the source's options query, targets, task and template_type"
    )


class _Start:
    """Keeps the first 64 of the bytes that are written to it."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data[: 64 - len(self.data)]


def _check_whole(name: str, path: Path) -> None:
    """Read a compressed file to its end: DuckDB does not tell of one that is cut off (Zstandard)
    or whose checksum is wrong (gzip). And look how it begins."""
    start = _Start()
    try:
        with path.open("rb") as file:
            if path.suffix in COMPRESSION:
                unpack(path.suffix, file, start)
            else:
                start.write(file.read(64))
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise UserError(f"{name}: cannot be unpacked ({error}). Is it whole?") from None
    if start.data.startswith(b"\xef\xbb\xbf"):
        raise UserError(f"{name} begins with a byte order mark: save it as UTF-8 without one")
    if start.data.lstrip()[:1] == b"[":
        raise UserError(f"{name} holds a JSON array: write one object a line (JSON lines)")
