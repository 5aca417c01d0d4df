"""Counts of a query set by DuckDB, for the query card.

Every file is read once into a table of numbers (no texts) on disk; all counts are of that table.
Lengths are exact: in characters (code points) and in words, which are runs of characters without
ASCII white space.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from orca.errors import UserError
from orca.mixture.query import CHARACTERS_PER_TOKEN
from orca.percentiles import percentiles

PAPER: dict[str, dict[str, Any]] = {
    "cot": {"name": "CoT", "tasks": 18, "original": "150K", "sampled": 150_000},
    "niv2": {"name": "NiV2", "tasks": 1_560, "original": "~5M", "sampled": 440_000},
    "flan2021": {"name": "FLAN 2021", "tasks": 142, "original": ">28.9M", "sampled": 2_500_000},
    "t0": {"name": "T0", "tasks": 193, "original": "85.7M", "sampled": 2_000_000},
}
"""Table 3 of arXiv 2306.02707 by sub-collection; its order is the card's."""

PRICES: dict[str, dict[str, float]] = {
    "ChatGPT": {"prompt": 0.002, "completion": 0.002},
    "GPT-4": {"prompt": 0.03, "completion": 0.06},
}
"""Dollars per 1,000 tokens: Table 4 of the paper, as it was in 2023."""

LONG_REQUESTS = (2_048, 4_096)  # estimated tokens; a request is a system message and its query

MEASURES = ("query_characters", "query_words", "target_characters", "target_words")
"""What is measured of every query; the target is the first gold answer."""

BIN_EDGES = [0, 1, *sorted(2**k * 3 // m for k in range(1, 31) for m in (2, 3))]
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
"""
"""What the table of numbers has of every query of the files."""


def create(db: duckdb.DuckDBPyConnection, table: str, sql: str, where: Path) -> None:
    """The table of what ``sql`` selects from files.

    Raises:
        UserError: the files are broken or lack a column; names ``where`` they lie.
    """
    try:
        db.execute(f"CREATE TABLE {table} AS {sql}")
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where} cannot be read as part of a query set: {reason}") from None


def rows(db: duckdb.DuckDBPyConnection, sql: str, **values: Any) -> list[dict[str, Any]]:
    """All rows of a query, as dictionaries by column."""
    result = db.execute(sql, values)
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def in_order(collections: Iterable[str]) -> list[str]:
    """Collections as Table 3 orders them, then all others by name."""
    places = {name: place for place, name in enumerate(PAPER)}
    return sorted(set(collections), key=lambda name: (places.get(name, len(places)), name))


def set_counts(db: duckdb.DuckDBPyConnection, table: str) -> dict[str, Any]:
    """The figures of a set of which :data:`NUMBERS` has made ``table``."""
    collections = _collections(db, table)
    sql = f"SELECT count(*) AS queries, count(*) - count(DISTINCT pair) AS repeats FROM {table}"
    total = rows(db, sql)[0]
    for counts in collections.values():
        counts["share"] = counts["queries"] / total["queries"]
    total["tasks"] = sum(counts["tasks"] for counts in collections.values())
    total |= _requests(list(collections.values()))
    for counts in collections.values():
        counts |= _requests([counts])
    return {**total, "collections": collections}


def _requests(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is sent, of all parts together; ``requests_over`` is by estimated tokens."""
    characters = sum(part["request_characters"] for part in parts)
    over = {
        str(tokens): sum(part["requests_over"][str(tokens)] for part in parts)
        for tokens in LONG_REQUESTS
    }
    return {
        "request_characters": characters,
        "estimated_tokens": characters // CHARACTERS_PER_TOKEN,
        "longest_request": max((part["longest_request"] for part in parts), default=0),
        "requests_over": over,
    }


def _collections(db: duckdb.DuckDBPyConnection, table: str) -> dict[str, dict[str, Any]]:
    over = ", ".join(
        f"'{n}': count(*) FILTER (request_characters > {CHARACTERS_PER_TOKEN * n})"
        for n in LONG_REQUESTS
    )
    counted = rows(
        db,
        f"""SELECT collection, count(*) AS queries, count(DISTINCT task) AS tasks,
            sum(request_characters)::BIGINT AS request_characters,
            max(request_characters) AS longest_request, {{{over}}} AS requests_over,
            count(*) FILTER (multiple_choice) AS multiple_choice
            FROM {table} GROUP BY collection""",
    )
    by_name = {row.pop("collection"): row for row in counted}
    for row in by_name.values():
        row.update(system_messages={}, template_types={}, targets={}, lengths={})
    for name, column in (("system_messages", "message"), ("targets", "targets")):
        sql = f"""SELECT collection, {column} AS value, count(*) AS n FROM {table}
            GROUP BY ALL ORDER BY value"""
        for row in rows(db, sql):
            by_name[row["collection"]][name][str(row["value"])] = row["n"]
    types = f"""SELECT collection, template_type, count(*) FILTER (multiple_choice) AS found,
        count(*) FILTER (NOT multiple_choice) AS not_found FROM {table} GROUP BY ALL ORDER BY ALL"""
    for row in rows(db, types):
        by_type = by_name[row.pop("collection")]["template_types"]
        by_type[row.pop("template_type")] = row
    for measure in MEASURES:
        for collection, histogram in _histograms(db, table, measure).items():
            by_name[collection]["lengths"][measure] = {
                **percentiles(histogram),
                "total": sum(length * n for length, n in histogram.items()),
                "bins": _bins(histogram),
            }
    return {name: by_name[name] for name in in_order(by_name)}


def _histograms(
    db: duckdb.DuckDBPyConnection, table: str, measure: str
) -> dict[str, dict[int, int]]:
    sql = f"""SELECT collection, {measure} AS value, count(*) AS n FROM {table}
        WHERE {measure} IS NOT NULL GROUP BY ALL"""
    histograms: dict[str, dict[int, int]] = {}
    for row in rows(db, sql):
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
