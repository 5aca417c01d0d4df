"""Query sets for the tests of the card, and the card as its readers see it."""

from __future__ import annotations

import random
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orca.mixture.query import QUERY_SCHEMA
from orca.traces.system_messages import SYSTEM_MESSAGES

Row = dict[str, Any]

MESSAGES = {"cot": (6, 11, 16), "niv2": (1, 9, 15), "flan2021": (3, 4, 7, 8, 10), "t0": (1, 2, 5)}

NASTY = "</pre><script>alert('q')</script><img src=x onerror=alert(1)> | `tick` ``` {{ 7 * 7 }}"

FINDINGS = pa.schema(
    {
        "id": pa.string(),
        "check": pa.string(),
        "detail": pa.string(),
        "removed": pa.bool_(),
        "query": pa.string(),
        "collection": pa.string(),
        "task": pa.string(),
    }
)


def a_query(number: int, collection: str, task: str, query: str, targets: list[str]) -> Row:
    ids = MESSAGES[collection]
    message = ids[number % len(ids)]
    options = "OPTIONS" in query
    return {
        "id": f"{collection}-{number:06}",
        "collection": collection,
        "task": task,
        "template_type": "zs_opt" if options or number % 7 == 0 else "zs_noopt",
        "template": "",
        "system_message_id": message,
        "system_message": SYSTEM_MESSAGES[message],
        "query": query,
        "targets": targets,
        "multiple_choice": options,
        "source_file": f"{collection}.parquet",
        "source_row": number + 1,
    }


def synthetic_rows(count: int, collections: tuple[str, ...] = tuple(MESSAGES)) -> list[Row]:
    """Queries with every kind of white space, other scripts, no and several targets, repeats."""
    draw = random.Random(7)
    words = ["word", "längst", "数学", "x", "\u00a0", "antidisestablishment", "🐋"]
    rows = []
    for number in range(count):
        collection = draw.choice(collections)
        query = "".join(
            draw.choice(words) + draw.choice([" ", "  ", "\n", "\t", "\r\n", "\x0b"])
            for _ in range(draw.choice([1, 3, 20, 400]))
        )
        if draw.random() < 0.1:
            query = NASTY
        if draw.random() < 0.3:
            query += "\nOPTIONS:\n- yes\n- no"
        targets = [
            draw.choice(["yes", "", "a b  c", "長い 答え"]) for _ in range(draw.randrange(4))
        ]
        rows.append(a_query(number, collection, f"task_{draw.randrange(6)}", query, targets))
    return rows


def write_set(directory: Path, rows: list[Row], schema: pa.Schema = QUERY_SCHEMA) -> Path:
    directory.mkdir(parents=True)
    for part in range(2):
        table = pa.Table.from_pylist(rows[part::2], schema)
        pq.write_table(table, directory / f"part-{part:05}.parquet")
    return directory


def some_facts(rows: list[Row]) -> dict[str, Any]:
    counts = Counter((row["collection"], row["task"]) for row in rows)
    pool: dict[str, dict[str, Any]] = {"niv2": {"never_drawn": {"candidates": 5, "sampled": 0}}}
    for (collection, task), n in counts.items():
        known = {"candidates": 10 * n, "few_shot": 3, "sampled": n + 2}
        pool.setdefault(collection, {})[task] = known
    found = {"id": "removed-0", "detail": f"shares 13 words with {NASTY}"}
    return {
        "name": "Test queries <b>5M</b>",
        "seed": 42,
        "pool": pool,
        "asked": {
            "collections": {"t0": 2_000_000, "niv2": 3, "cot": None},
            "sets": {"flan5m": None, "flan1m": 1_000_000},
        },
        "bad_rows": {
            "t0": {"reasons": {"empty_query": 3}, "examples": [f"t0.jsonl row 4: {NASTY}"]}
        },
        "excluded": {"niv2": ["task664_mmlu", "task685_mmlu"]},
        "hygiene": {
            "benchmark": {"found": 2, "removed": 1, "examples": [found, {"id": "kept-7"}]},
            "language": {"found": 0, "removed": 0, "examples": []},
        },
        "configuration": {"path": "pool/*.parquet"},
        "versions": {"duckdb": "1"},
        "seconds": {"sample": 1.5},
    }


def write_all(directory: Path, rows: list[Row]) -> dict[str, Path]:
    """A set, a fifth of it, and what hygiene found."""
    findings = [
        {"id": f"removed-{i // 2}", "check": check, "detail": "", "removed": check == "benchmark"}
        | {"query": NASTY + "q" * 2000, "collection": "t0", "task": "task_0"}
        for i, check in enumerate(["benchmark", "benchmark", "benchmark", "language", "language"])
    ]
    pq.write_table(pa.Table.from_pylist(findings, FINDINGS), directory / "findings.parquet")
    return {
        "flan5m": write_set(directory / "flan5m", rows),
        "flan1m": write_set(directory / "flan1m", rows[::5]),
    }


def lengths_of(row: Row) -> dict[str, int | None]:
    def words(text: str) -> int:
        return len([word for word in re.split(r"[ \t\n\r\f\v]+", text) if word])

    target = row["targets"][0] if row["targets"] else None
    return {
        "query_characters": len(row["query"]),
        "query_words": words(row["query"]),
        "target_characters": None if target is None else len(target),
        "target_words": None if target is None else words(target),
    }


def nearest_rank(values: list[int], percent: int) -> int:
    return sorted(values)[max(1, -(-percent * len(values) // 100)) - 1]


def request_of(row: Row) -> int:
    return len(row["system_message"]) + len(row["query"])


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    """The first table below every heading, without its head."""
    tables: dict[str, list[list[str]]] = {}
    for part in text.split("\n## ")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("| ")][2:]
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        tables[part.splitlines()[0]] = cells
    return tables


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(html: str, card: dict[str, Any]) -> Page:
    """Nothing is loaded, no text has become markup, and every collection is there."""
    page = Page(html)
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)
    assert page.tags["script"] == page.tags["style"] == 1
    assert not page.tags.keys() & {"img", "link", "iframe", "object", "embed", "image", "base", "a"}
    loading = re.compile(r"on.*|src|srcset|href|xlink:href|action|data|poster|background")
    assert not [name for name, _ in page.attributes if loading.fullmatch(name)]
    assert not [value for name, value in page.attributes if name == "style" and "url" in value]
    for collection in card["sets"]["flan5m"]["collections"]:
        assert f'data-collection="{collection}"' in html
    return page
