"""The query card as Markdown, and the figures that the page shows in the same words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

UNKNOWN = "–"
MEASURE_NAMES = {
    "query_characters": "query, characters",
    "query_words": "query, words",
    "target_characters": "first target, characters",
    "target_words": "first target, words",
}
SHOWN = ("p5", "p25", "p50", "p75", "p95", "p100")
FEW = 3  # largest and smallest tasks of a collection


def card_markdown(card: Mapping[str, Any]) -> str:
    """The card in about two screens; tasks and examples are in the JSON file and the page."""
    parts = [f"# Query card: {_cell(card['name'])}"]
    parts += [_table(("figure", *card["sets"]), _figures(card))]
    parts += ["## Beside Table 3 of the paper", _table(*table3(card))]
    parts += ["## System messages, share of the collection", _messages(card)]
    parts += ["## Lengths", _lengths(card)]
    parts += ["## Multiple choice", _choices(card)]
    parts += ["## Gold targets of a query", _targets(card)]
    head = ("collection", "tasks", f"{FEW} largest", f"{FEW} smallest")
    parts += ["## Tasks by queries", _table(head, task_extremes(card))]
    if card["hygiene"]["checks"]:
        checks = card["hygiene"]["checks"].items()
        rows = [
            (name, number(c["found"]), number(c["removed"]), _first_detail(c)) for name, c in checks
        ]
        parts += ["## Hygiene", _table(("check", "found", "removed", "for example"), rows)]
    if any(bad.get("reasons") for bad in card["bad_rows"].values()):
        parts += ["## Rows that are no query", *_bad_rows(card)]
    if any(card["excluded"].values()):
        lines = [
            f"- {collection_name(card, collection)}: {len(tasks)} tasks ({_few(tasks)})"
            for collection, tasks in card["excluded"].items()
            if tasks
        ]
        parts += ["## Tasks left out", "\n".join(lines)]
    made = {name: card[name] for name in ("configuration", "versions", "seconds") if card[name]}
    if made:
        text = json.dumps(made, indent=1, ensure_ascii=False)
        parts += ["## Made with", f"{fence(text)}json\n{text}\n{fence(text)}"]
    return "\n\n".join(parts) + "\n"


# Figures that the page shows too ------------------------------------------------------------------


def number(value: int | float | None) -> str:
    """``12,345``; a dash for what is not known."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def percent(share: float | None) -> str:
    """``12.3%``; a dash for what is not known, and never 0.0% for what is there."""
    if share is None:
        return UNKNOWN
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share:.1%}" if share else "0%"


def shortened(text: Any, longest: int) -> str:
    """The first characters, with an ellipsis where more follow."""
    return str(text) if len(str(text)) <= longest else str(text)[:longest] + "…"


def collection_name(card: Mapping[str, Any], collection: str) -> str:
    """As the paper writes it."""
    return str(card["paper"].get(collection, {}).get("name", collection))


def whole_set(card: Mapping[str, Any]) -> dict[str, Any]:
    """The first set, of which the others are samples."""
    return next(iter(card["sets"].values()))


def collections(card: Mapping[str, Any]) -> list[str]:
    """All that a set, the pool, a bad row or an exclusion names; those of the whole set first."""
    names = list(whole_set(card)["collections"])
    for one in card["sets"].values():
        names += one["collections"]
    names += [task["collection"] for task in card["tasks"]]
    return list(dict.fromkeys([*names, *card["bad_rows"], *card["excluded"]]))


def candidates(card: Mapping[str, Any], collection: str) -> int | None:
    """Queries of the pool; None when nobody told."""
    counts = [t["candidates"] for t in card["tasks"] if t["collection"] == collection]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def paper_share(card: Mapping[str, Any], collection: str) -> float | None:
    """Share of the paper's 5.09 million queries; None for a collection that it does not have."""
    if collection not in card["paper"]:
        return None
    whole = sum(row["sampled"] for row in card["paper"].values())
    return card["paper"][collection]["sampled"] / whole


def table3(card: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: every collection of the paper and of the sets, both shares beside."""
    sets = card["sets"]
    head = ["collection", "tasks", "tasks, paper", "candidates", "original size, paper"]
    head += [f"queries, {name}" for name in sets] + ["sampled, paper"]
    head += [f"share, {name}" for name in sets] + ["share, paper"]
    rows = []
    for name in dict.fromkeys([*card["paper"], *collections(card)]):
        paper = card["paper"].get(name, {})
        counted = [one["collections"].get(name, {}) for one in sets.values()]
        row = [collection_name(card, name), number(counted[0].get("tasks"))]
        row += [number(paper.get("tasks")), number(candidates(card, name))]
        row += [paper.get("original", UNKNOWN)]
        row += [number(counts.get("queries")) for counts in counted]
        row += [number(paper.get("sampled"))]
        row += [percent(counts.get("share")) for counts in counted]
        rows.append([*row, percent(paper_share(card, name))])
    total = ["total", number(whole_set(card)["tasks"])]
    total += [number(sum(row["tasks"] for row in card["paper"].values())), "", ""]
    total += [number(one["queries"]) for one in sets.values()]
    total += [number(sum(row["sampled"] for row in card["paper"].values()))]
    return head, [*rows, [*total, *[""] * (len(sets) + 1)]]


def task_extremes(card: Mapping[str, Any]) -> list[list[str]]:
    """Per collection: its name, the number of tasks, the largest and the smallest few."""
    name = next(iter(card["sets"]))
    rows = []
    for collection in collections(card):
        tasks = [t for t in card["tasks"] if t["collection"] == collection]
        tasks.sort(key=lambda task: -task["queries"][name])
        texts = [f"{task['task']} ({number(task['queries'][name])})" for task in tasks]
        rest = texts[FEW:][-FEW:]
        row = [collection_name(card, collection), number(len(tasks))]
        rows.append([*row, ", ".join(texts[:FEW]), ", ".join(rest)])
    return rows


def fence(text: str) -> str:
    """A fence that ``text`` cannot close."""
    runs = [len(run) for run in re.findall(r"`+", text)]
    return "`" * max(3, *(run + 1 for run in [0, *runs]))


# Parts of the Markdown card -----------------------------------------------------------------------


def _figures(card: Mapping[str, Any]) -> list[list[str]]:
    sets = list(card["sets"].values())

    def choices(one: Mapping[str, Any]) -> int:
        return sum(c["multiple_choice"] for c in one["collections"].values())

    figures = [
        ["queries", *(number(one["queries"]) for one in sets)],
        ["tasks", *(number(one["tasks"]) for one in sets)],
        ["characters of system messages and queries"]
        + [number(one["request_characters"]) for one in sets],
        ["multiple-choice questions", *(number(choices(one)) for one in sets)],
        ["pairs of system message and query that repeat an earlier one"]
        + [number(one["repeats"]) for one in sets],
        [
            f"queries that are not in {next(iter(card['sets']))}",
            *(number(one.get("outside")) for one in sets),
        ],
        ["queries removed by hygiene", number(card["hygiene"]["queries_removed"])],
        ["seed", str(card["seed"])],
    ]
    return [row + [""] * (1 + len(sets) - len(row)) for row in figures]


def _messages(card: Mapping[str, Any]) -> str:
    counted = whole_set(card)["collections"]
    head = ["#", "message", *(collection_name(card, name) for name in counted)]
    rows = []
    for message, text in card["system_messages"].items():
        row = [message, shortened(text, 80) or "(empty)"]
        for counts in counted.values():
            n = counts["system_messages"].get(message)
            row.append(percent(n / counts["queries"]) if n else "")
        rows.append(row)
    return _table(head, rows)


def _lengths(card: Mapping[str, Any]) -> str:
    rows = []
    for name, counts in whole_set(card)["collections"].items():
        for measure, length in counts["lengths"].items():
            row = [collection_name(card, name), MEASURE_NAMES[measure]]
            rows.append([*row, *(number(length[point]) for point in SHOWN)])
    return _table(("collection", "of", *SHOWN), rows)


def _choices(card: Mapping[str, Any]) -> str:
    rows = []
    for name, counts in whole_set(card)["collections"].items():
        for kind, by_type in counts["template_types"].items():
            found, missing = by_type["found"], by_type["not_found"]
            row = [collection_name(card, name), kind, number(found), number(missing)]
            rows.append([*row, percent(found / (found + missing))])
    head = ("collection", "template type", "options found", "not found", "share found")
    return _table(head, rows)


def _targets(card: Mapping[str, Any]) -> str:
    head = ("collection", "none", "1", "2", "3 or more")
    rows = [
        [collection_name(card, name), *map(number, target_groups(counts["targets"]))]
        for name, counts in whole_set(card)["collections"].items()
    ]
    return _table(head, rows)


def target_groups(targets: Mapping[str, int]) -> list[int]:
    """Queries with no gold target, one, two, and three or more."""
    few = [targets.get(n, 0) for n in ("0", "1", "2")]
    return [*few, sum(targets.values()) - sum(few)]


def _bad_rows(card: Mapping[str, Any]) -> list[str]:
    rows, lines = [], []
    for collection, bad in card["bad_rows"].items():
        name = collection_name(card, collection)
        rows += [[name, reason, number(n)] for reason, n in bad.get("reasons", {}).items()]
        lines += [f"- {_cell(example)}" for example in bad.get("examples", [])[:2]]
    return [_table(("collection", "reason", "rows"), rows), "\n".join(lines)]


def _first_detail(check: Mapping[str, Any]) -> str:
    return shortened(check["examples"][0].get("detail", ""), 80) if check["examples"] else ""


def _few(names: Iterable[str]) -> str:
    names = [_cell(name) for name in names]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _cell(text: Any) -> str:
    """Text of others that cannot end a cell or start markup."""
    plain = re.sub(r"\s+", " ", str(text))
    return re.sub(r"([\\`*|<\[])", r"\\\1", plain)


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    lines = [[_cell(cell) for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
