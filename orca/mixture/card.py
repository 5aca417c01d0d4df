"""The query card: what to read about a query set before a teacher is paid for its answers.

It is made from the Parquet files by DuckDB, in bounded memory, and from what the builder knows.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from orca.errors import UserError
from orca.mixture.card_counts import (
    MACROS,
    NUMBERS,
    PAPER,
    PRICES,
    create,
    in_order,
    rows,
    set_counts,
)
from orca.mixture.card_page import card_html
from orca.mixture.card_text import card_markdown
from orca.mixture.engine import engine, parquet

MEMORY_GIB = 1.0
EXAMPLES = 4  # a collection, each under another system message
REPEATED = 5  # pairs that are shown
LONGEST = 1_500  # characters of a text in the card


def query_card(directories: Mapping[str, Path], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is known about a query set, as plain JSON values.

    Args:
        directories: where the Parquet files of every set lie, by the set's name. The first set is
            the whole, the others are samples of it. What hygiene found is read from
            ``findings.parquet`` beside the first directory, where there is one.
        facts: what the files do not tell. ``name`` and ``seed`` are needed; ``pool``, ``asked``,
            ``bad_rows``, ``excluded``, ``hygiene``, ``configuration``, ``versions``, ``seconds``
            may be absent. ``asked`` has the numbers of queries that were asked for, None where
            none was: ``{"collections": {"t0": 2000000, "cot": None}, "sets": {"flan1m": 1000}}``;
            what was drawn for a collection is the ``sampled`` of its tasks in ``pool``.

    Raises:
        UserError: a directory has no Parquet file, or a file is not one of a query set.
    """
    if not directories:
        raise UserError("a query card needs the directory of at least one query set")
    whole = next(iter(directories))
    files = {name: _files(name, directory) for name, directory in directories.items()}
    with (
        tempfile.TemporaryDirectory() as temporary,
        engine(Path(temporary), MEMORY_GIB, Path(temporary) / "card.duckdb") as db,
    ):
        db.execute(MACROS)
        found = _read_findings(db, directories[whole].parent / "findings.parquet")
        sets = {name: _set(db, i, directories[name], files[name]) for i, name in enumerate(files)}
        card = {
            "name": facts["name"],
            "seed": facts["seed"],
            "sets": sets,
            "asked": _asked(facts.get("asked", {}), facts.get("pool", {}), sets),
            "paper": PAPER,
            "prices": PRICES,
            "system_messages": _message_texts(db, files[whole]),
            "tasks": _tasks(db, files, facts.get("pool", {}), found),
            "hygiene": _hygiene(db, facts.get("hygiene", {}), found),
            "examples": _examples(db, files[whole]),
        }
    for name in ("excluded", "bad_rows", "configuration", "versions", "seconds"):
        card[name] = facts.get(name, {})
    return json.loads(json.dumps(card, ensure_ascii=False, allow_nan=False))


def save_card(card: Mapping[str, Any], directory: Path) -> None:
    """Write ``query_card.md``, ``query_card.json`` and ``query_card.html``."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": card_markdown(card),
        "json": json.dumps(card, indent=1, ensure_ascii=False) + "\n",
        "html": card_html(card),
    }
    for suffix, text in texts.items():
        (directory / f"query_card.{suffix}").write_text(text, encoding="utf-8")


def _files(name: str, directory: Path) -> str:
    """SQL that reads the files of a set."""
    files = sorted(directory.glob("*.parquet"))
    if not files:
        raise UserError(f"query set {name}: {directory} has no Parquet file")
    return parquet(*files)


def _read_findings(db: duckdb.DuckDBPyConnection, file: Path) -> bool:
    """The table ``findings`` of what hygiene found; False without the file."""
    if not file.is_file():
        return False
    create(db, "findings", f"FROM {parquet(file)}", file)
    return True


def _set(db: duckdb.DuckDBPyConnection, number: int, directory: Path, files: str) -> dict[str, Any]:
    """The figures of one set, of which a table ``set_<number>`` is made."""
    table = f"set_{number}"
    create(db, table, f"{NUMBERS} FROM {files}", directory)
    counts = set_counts(db, table)
    counts["repeated"] = _repeated(db, table, files)
    if number > 0:
        sql = f"SELECT count(*) AS n FROM {table} ANTI JOIN set_0 USING (id)"
        counts["outside"] = rows(db, sql)[0]["n"]
    return counts


def _asked(
    asked: Mapping[str, Mapping[str, int | None]],
    pool: Mapping[str, Mapping[str, Mapping[str, int]]],
    sets: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, int]]]:
    """How many queries were asked for, where a number was, beside those that there are."""
    collections = {}
    for name, number in asked.get("collections", {}).items():
        if number is not None:
            drawn = sum(task["sampled"] for task in pool.get(name, {}).values())
            collections[name] = {"asked": number, "drawn": drawn}
    numbers = {name: n for name, n in asked.get("sets", {}).items() if n is not None}
    return {
        "collections": collections,
        "sets": {n: {"asked": numbers[n], "queries": sets[n]["queries"]} for n in numbers},
    }


def _tasks(
    db: duckdb.DuckDBPyConnection,
    sets: Iterable[str],
    pool: Mapping[str, Mapping[str, Mapping[str, int]]],
    found: bool,
) -> list[dict[str, Any]]:
    """Every task of the pool and of the sets. None is what nobody told, 0 is a count."""
    tasks: dict[tuple[str, str], dict[str, Any]] = {}

    def task(collection: str, name: str) -> dict[str, Any]:
        start: dict[str, Any] = {"collection": collection, "task": name}
        known = pool.get(collection, {}).get(name, {})
        start |= {key: known.get(key) for key in ("candidates", "few_shot", "sampled")}
        start |= {"removed": 0 if found else None, "queries": dict.fromkeys(sets, 0)}
        return tasks.setdefault((collection, name), start)

    for collection, names in pool.items():
        for name in names:
            task(collection, name)
    for number, set_name in enumerate(sets):
        sql = f"SELECT collection, task, count(*) AS n FROM set_{number} GROUP BY ALL"
        for row in rows(db, sql):
            task(row["collection"], row["task"])["queries"][set_name] = row["n"]
    removed = """SELECT collection, task, count(DISTINCT id) AS n FROM findings
        WHERE removed GROUP BY ALL"""
    for row in rows(db, removed) if found else []:
        task(row["collection"], row["task"])["removed"] = row["n"]
    order = {name: place for place, name in enumerate(in_order(key[0] for key in tasks))}
    return [tasks[key] for key in sorted(tasks, key=lambda key: (order[key[0]], key[1]))]


# Texts --------------------------------------------------------------------------------------------


def _message_texts(db: duckdb.DuckDBPyConnection, files: str) -> dict[str, str]:
    sql = f"""SELECT coalesce(system_message_id, 0) AS message,
        min(coalesce(system_message, '')) AS text FROM {files}
        GROUP BY ALL ORDER BY message"""
    return {str(row["message"]): row["text"] for row in rows(db, sql)}


def _texts(db: duckdb.DuckDBPyConnection, files: str, ids: list[str]) -> list[dict[str, Any]]:
    """The queries of these ids to read, in this order."""
    sql = f"""SELECT id, collection, task, template_type, coalesce(system_message_id, 0) AS message,
        system_message, excerpt(query, $longest) AS query, multiple_choice,
        list_transform(targets[:3], lambda text: excerpt(text, $longest // 3)) AS targets,
        len(targets) AS num_targets, source_file, source_row
        FROM {files} WHERE id IN (SELECT unnest($ids::VARCHAR[]))"""
    found = {row["id"]: row for row in rows(db, sql, ids=ids, longest=LONGEST)}
    return [found[one] for one in ids]


def _repeated(db: duckdb.DuckDBPyConnection, table: str, files: str) -> list[dict[str, Any]]:
    """The pairs of system message and query that are most often in the set."""
    # The first id is looked up for these pairs alone: an id for each of 5 million is much memory.
    sql = f"""SELECT min(id) AS id, count(*) AS times FROM {table} WHERE pair IN (
        SELECT pair FROM {table} GROUP BY pair HAVING count(*) > 1
        ORDER BY count(*) DESC, pair LIMIT {REPEATED}) GROUP BY pair ORDER BY times DESC, id"""
    times = {row["id"]: row["times"] for row in rows(db, sql)}
    return [{"times": times[row["id"]], **row} for row in _texts(db, files, list(times))]


def _examples(db: duckdb.DuckDBPyConnection, files: str) -> dict[str, list[dict[str, Any]]]:
    """Queries of each collection: those whose hashed id is least, one for a system message."""
    sql = """WITH first AS (
            SELECT collection, message, arg_min(id, md5_number_lower(id)) AS id FROM set_0
            GROUP BY ALL)
        SELECT collection, id FROM first
        QUALIFY row_number() OVER (PARTITION BY collection ORDER BY md5_number_lower(id)) <= $most
        ORDER BY collection, md5_number_lower(id)"""
    chosen = [row["id"] for row in rows(db, sql, most=EXAMPLES)]
    texts = _texts(db, files, chosen)
    return {
        collection: [text for text in texts if text["collection"] == collection]
        for collection in in_order(text["collection"] for text in texts)
    }


def _hygiene(
    db: duckdb.DuckDBPyConnection, checks: Mapping[str, Mapping[str, Any]], found: bool
) -> dict[str, Any]:
    """What the checks counted; their examples with the query, where it was kept."""
    result: dict[str, Any] = {"queries_found": None, "queries_removed": None, "checks": {}}
    if found:
        sql = """SELECT count(DISTINCT id) AS queries_found,
            count(DISTINCT id) FILTER (removed) AS queries_removed FROM findings"""
        result |= rows(db, sql)[0]
    for check, counts in checks.items():
        examples = [dict(example) for example in counts.get("examples", [])]
        ids = [example["id"] for example in examples]
        sql = """SELECT id, any_value(collection) AS collection, any_value(task) AS task,
            any_value(excerpt(query, $longest)) AS query FROM findings
            WHERE "check" = $check AND id IN (SELECT unnest($ids::VARCHAR[])) GROUP BY id"""
        values = {"check": check, "ids": ids, "longest": LONGEST // 3}
        texts = {row["id"]: row for row in rows(db, sql, **values)} if found and ids else {}
        result["checks"][check] = {
            "found": counts.get("found", 0),
            "removed": counts.get("removed", 0),
            "examples": [{**texts.get(example["id"], {}), **example} for example in examples],
        }
    return result
