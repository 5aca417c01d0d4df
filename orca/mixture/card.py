"""The query card: what to read about a query set before a teacher is paid for its answers.

DuckDB reads every file once into a table of numbers (no texts) on disk; all counts are of that
table. Lengths are counted exactly: in characters (code points) and in words, which are runs of
characters without ASCII white space.
"""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from orca.errors import UserError
from orca.mixture.card_page import card_html
from orca.mixture.card_text import card_markdown
from orca.percentiles import percentiles

PAPER: dict[str, dict[str, Any]] = {
    "cot": {"name": "CoT", "tasks": 18, "original": "150K", "sampled": 150_000},
    "niv2": {"name": "NiV2", "tasks": 1_560, "original": "~5M", "sampled": 440_000},
    "flan2021": {"name": "FLAN 2021", "tasks": 142, "original": ">28.9M", "sampled": 2_500_000},
    "t0": {"name": "T0", "tasks": 193, "original": "85.7M", "sampled": 2_000_000},
}
"""Table 3 of arXiv 2306.02707 by sub-collection; its order is the card's."""

MEASURES = ("query_characters", "query_words", "target_characters", "target_words")
"""What is measured of every query; the target is the first gold answer."""

MEMORY = "1GB"
EXAMPLES = 4  # a collection, each under another system message
REPEATED = 5  # pairs that are shown
LONGEST = 1_500  # characters of a text in the card

BIN_EDGES = [0, 1] + sorted(2**k * 3 // m for k in range(1, 31) for m in (2, 3))
"""Lengths fall into [0, 1), [1, 2), [2, 3), [3, 4), [4, 6), [6, 8), [8, 12), …"""

MACROS = """
CREATE MACRO words(text) AS len(list_filter(
    string_split(translate(text, E'\\t\\n\\r\\f' || chr(11), '     '), ' '), lambda word: word <> ''
));
CREATE MACRO excerpt(text, longest) AS
    CASE WHEN length(text) > longest THEN left(text, longest) || '…' ELSE text END;
"""

NUMBERS = """
SELECT
    id, collection, task, coalesce(template_type, '(none)') AS template_type,
    coalesce(system_message_id, 0) AS message,
    coalesce(multiple_choice, false) AS multiple_choice,
    coalesce(len(targets), 0) AS targets,
    length(query) AS query_characters, words(query) AS query_words,
    length(targets[1]) AS target_characters, words(targets[1]) AS target_words,
    length(coalesce(system_message, '')) + length(query) AS request_characters,
    -- 64 bits: among 5 million pairs, two that differ look alike with a probability under 1e-6
    hash(coalesce(system_message, ''), query) AS pair
FROM read_parquet($files)
"""


def query_card(directories: Mapping[str, Path], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is known about a query set, as plain JSON values.

    Args:
        directories: where the Parquet files of every set lie, by the set's name. The first set is
            the whole, the others are samples of it. What hygiene found is read from
            ``removed.parquet`` beside the first directory, where there is one.
        facts: what the files do not tell. Needs ``name`` and ``seed``; ``pool``, ``bad_rows``,
            ``excluded``, ``hygiene``, ``configuration``, ``versions`` and ``seconds`` may be absent.

    Raises:
        UserError: a directory has no Parquet file, or a file is not one of a query set.
    """
    if not directories:
        raise UserError("a query card needs the directory of at least one query set")
    whole = next(iter(directories))
    with tempfile.TemporaryDirectory() as temporary:
        with duckdb.connect(str(Path(temporary) / "card.duckdb")) as db:
            db.execute(f"SET memory_limit = '{MEMORY}'; SET preserve_insertion_order = false")
            db.execute(MACROS)
            for number, (name, directory) in enumerate(directories.items()):
                _create(db, f"set_{number}", NUMBERS, directory, _parquet_files(name, directory))
            files = _parquet_files(whole, directories[whole])
            found = _read_findings(db, directories[whole].parent / "removed.parquet")
            card = {
                "name": facts["name"],
                "seed": facts["seed"],
                "sets": {name: _set(db, i, files) for i, name in enumerate(directories)},
                "paper": PAPER,
                "system_messages": _message_texts(db, files),
                "tasks": _tasks(db, directories, facts.get("pool", {}), found),
                "hygiene": _hygiene(db, facts.get("hygiene", {}), found),
                "examples": _examples(db, files),
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


def _parquet_files(name: str, directory: Path) -> list[str]:
    files = sorted(str(file) for file in directory.glob("*.parquet"))
    if not files:
        raise UserError(f"query set {name}: {directory} has no Parquet file")
    return files


def _create(
    db: duckdb.DuckDBPyConnection, table: str, sql: str, where: Path, files: list[str]
) -> None:
    try:
        db.execute(f"CREATE TABLE {table} AS {sql}", {"files": files})
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where} cannot be read as part of a query set: {reason}") from None


def _read_findings(db: duckdb.DuckDBPyConnection, file: Path) -> bool:
    """The table ``findings`` of what hygiene found; False without the file."""
    if not file.is_file():
        return False
    _create(db, "findings", "FROM read_parquet($files)", file, [str(file)])
    return True


def _rows(db: duckdb.DuckDBPyConnection, sql: str, **values: Any) -> list[dict[str, Any]]:
    result = db.execute(sql, values)
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _in_order(collections: Iterable[str]) -> list[str]:
    """Collections as Table 3 orders them, then all others by name."""
    places = {name: place for place, name in enumerate(PAPER)}
    return sorted(set(collections), key=lambda name: (places.get(name, len(places)), name))


# Counts -------------------------------------------------------------------------------------------


def _set(db: duckdb.DuckDBPyConnection, number: int, files: list[str]) -> dict[str, Any]:
    """The figures of one set; ``files`` are the texts of the whole set."""
    table = f"set_{number}"
    collections = _collections(db, table)
    (total,) = _rows(
        db,
        f"""SELECT count(*) AS queries, count(DISTINCT (collection, task)) AS tasks,
            coalesce(sum(request_characters), 0)::BIGINT AS request_characters,
            count(*) - count(DISTINCT pair) AS repeats FROM {table}""",
    )
    if number > 0:
        outside = f"SELECT count(*) AS n FROM {table} ANTI JOIN set_0 USING (id)"
        total["outside"] = _rows(db, outside)[0]["n"]
    for counts in collections.values():
        counts["share"] = counts["queries"] / total["queries"]
    return {**total, "repeated": _repeated(db, table, files), "collections": collections}


def _collections(db: duckdb.DuckDBPyConnection, table: str) -> dict[str, dict[str, Any]]:
    counted = _rows(
        db,
        f"""SELECT collection, count(*) AS queries, count(DISTINCT task) AS tasks,
            sum(request_characters)::BIGINT AS request_characters,
            count(*) FILTER (multiple_choice) AS multiple_choice
            FROM {table} GROUP BY collection""",
    )
    by_name = {row.pop("collection"): row for row in counted}
    for row in by_name.values():
        row.update(system_messages={}, template_types={}, targets={}, lengths={})
    for name, column in (("system_messages", "message"), ("targets", "targets")):
        sql = f"""SELECT collection, {column} AS value, count(*) AS n FROM {table}
            GROUP BY ALL ORDER BY value"""
        for row in _rows(db, sql):
            by_name[row["collection"]][name][str(row["value"])] = row["n"]
    types = f"""SELECT collection, template_type, count(*) FILTER (multiple_choice) AS found,
        count(*) FILTER (NOT multiple_choice) AS not_found FROM {table} GROUP BY ALL ORDER BY ALL"""
    for row in _rows(db, types):
        by_type = by_name[row.pop("collection")]["template_types"]
        by_type[row.pop("template_type")] = row
    for measure in MEASURES:
        for collection, histogram in _histograms(db, table, measure).items():
            by_name[collection]["lengths"][measure] = {
                **percentiles(histogram),
                "total": sum(length * n for length, n in histogram.items()),
                "bins": _bins(histogram),
            }
    return {name: by_name[name] for name in _in_order(by_name)}


def _histograms(
    db: duckdb.DuckDBPyConnection, table: str, measure: str
) -> dict[str, dict[int, int]]:
    sql = f"""SELECT collection, {measure} AS value, count(*) AS n FROM {table}
        WHERE {measure} IS NOT NULL GROUP BY ALL"""
    histograms: dict[str, dict[int, int]] = {}
    for row in _rows(db, sql):
        histograms.setdefault(row["collection"], {})[row["value"]] = row["n"]
    return histograms


def _bins(histogram: Mapping[int, int]) -> list[list[int]]:
    """[least length, first length beyond, queries] from the first to the last bin with a query."""
    counts: Counter[int] = Counter()
    for length, n in histogram.items():
        counts[bisect_right(BIN_EDGES, length) - 1] += n
    return [
        [BIN_EDGES[place], BIN_EDGES[place + 1], counts[place]]
        for place in range(min(counts), max(counts) + 1)
    ]


def _tasks(
    db: duckdb.DuckDBPyConnection,
    sets: Iterable[str],
    pool: Mapping[str, Mapping[str, Mapping[str, int]]],
    found: bool,
) -> list[dict[str, Any]]:
    """Every task of the pool and of the sets. None is what nobody told, 0 is a count."""
    tasks: dict[tuple[str, str], dict[str, Any]] = {}

    def task(collection: str, name: str) -> dict[str, Any]:
        start = {"collection": collection, "task": name}
        known = pool.get(collection, {}).get(name, {})
        start |= {key: known.get(key) for key in ("candidates", "few_shot", "sampled")}
        start |= {"removed": 0 if found else None, "queries": dict.fromkeys(sets, 0)}
        return tasks.setdefault((collection, name), start)

    for collection, names in pool.items():
        for name in names:
            task(collection, name)
    for number, set_name in enumerate(sets):
        sql = f"SELECT collection, task, count(*) AS n FROM set_{number} GROUP BY ALL"
        for row in _rows(db, sql):
            task(row["collection"], row["task"])["queries"][set_name] = row["n"]
    removed = """SELECT collection, task, count(DISTINCT id) AS n FROM findings
        WHERE removed GROUP BY ALL"""
    for row in _rows(db, removed) if found else []:
        task(row["collection"], row["task"])["removed"] = row["n"]
    order = {name: place for place, name in enumerate(_in_order(key[0] for key in tasks))}
    return [tasks[key] for key in sorted(tasks, key=lambda key: (order[key[0]], key[1]))]


# Texts --------------------------------------------------------------------------------------------


def _message_texts(db: duckdb.DuckDBPyConnection, files: list[str]) -> dict[str, str]:
    sql = """SELECT coalesce(system_message_id, 0) AS message,
        min(coalesce(system_message, '')) AS text FROM read_parquet($files)
        GROUP BY ALL ORDER BY message"""
    return {str(row["message"]): row["text"] for row in _rows(db, sql, files=files)}


def _texts(db: duckdb.DuckDBPyConnection, files: list[str], ids: list[str]) -> list[dict[str, Any]]:
    """The queries of these ids to read, in this order."""
    sql = """SELECT id, collection, task, template_type, coalesce(system_message_id, 0) AS message,
        system_message, excerpt(query, $longest) AS query, multiple_choice,
        list_transform(targets[:3], lambda text: excerpt(text, $longest // 3)) AS targets,
        len(targets) AS num_targets, source_file, source_row
        FROM read_parquet($files) WHERE id IN (SELECT unnest($ids::VARCHAR[]))"""
    found = {row["id"]: row for row in _rows(db, sql, files=files, ids=ids, longest=LONGEST)}
    return [found[one] for one in ids]


def _repeated(db: duckdb.DuckDBPyConnection, table: str, files: list[str]) -> list[dict[str, Any]]:
    """The pairs of system message and query that are most often in the set."""
    # The first id is looked up for these pairs alone: an id for each of 5 million is much memory.
    sql = f"""SELECT min(id) AS id, count(*) AS times FROM {table} WHERE pair IN (
        SELECT pair FROM {table} GROUP BY pair HAVING count(*) > 1
        ORDER BY count(*) DESC, pair LIMIT {REPEATED}) GROUP BY pair ORDER BY times DESC, id"""
    times = {row["id"]: row["times"] for row in _rows(db, sql)}
    return [{"times": times[row["id"]], **row} for row in _texts(db, files, list(times))]


def _examples(db: duckdb.DuckDBPyConnection, files: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Queries of each collection: those whose hashed id is least, one for a system message."""
    sql = """WITH first AS (
            SELECT collection, message, arg_min(id, md5_number_lower(id)) AS id FROM set_0
            GROUP BY ALL)
        SELECT collection, id FROM first
        QUALIFY row_number() OVER (PARTITION BY collection ORDER BY md5_number_lower(id)) <= $most
        ORDER BY collection, md5_number_lower(id)"""
    chosen = [row["id"] for row in _rows(db, sql, most=EXAMPLES)]
    texts = _texts(db, files, chosen)
    return {
        collection: [text for text in texts if text["collection"] == collection]
        for collection in _in_order(text["collection"] for text in texts)
    }


def _hygiene(
    db: duckdb.DuckDBPyConnection, checks: Mapping[str, Mapping[str, Any]], found: bool
) -> dict[str, Any]:
    """What the checks counted; their examples with the query, where it was kept."""
    result: dict[str, Any] = {"queries_removed": None, "checks": {}}
    if found:
        sql = "SELECT count(DISTINCT id) AS n FROM findings WHERE removed"
        result["queries_removed"] = _rows(db, sql)[0]["n"]
    for check, counts in checks.items():
        examples = [dict(example) for example in counts.get("examples", [])]
        ids = [example["id"] for example in examples]
        sql = """SELECT id, any_value(collection) AS collection, any_value(task) AS task,
            any_value(excerpt(query, $longest)) AS query FROM findings
            WHERE "check" = $check AND id IN (SELECT unnest($ids::VARCHAR[])) GROUP BY id"""
        values = {"check": check, "ids": ids, "longest": LONGEST // 3}
        texts = {row["id"]: row for row in _rows(db, sql, **values)} if found and ids else {}
        result["checks"][check] = {
            "found": counts.get("found", 0),
            "removed": counts.get("removed", 0),
            "examples": [{**texts.get(example["id"], {}), **example} for example in examples],
        }
    return result
