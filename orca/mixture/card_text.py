"""The query card as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from orca.mixture.card_figures import (
    FEW,
    MEASURE_NAMES,
    TYPE_NOTE,
    UNKNOWN,
    candidates,
    collection_name,
    collections,
    drawn,
    number,
    paper_share,
    percent,
    price_sentences,
    request_note,
    request_rows,
    shortened,
    target_groups,
    task_extremes,
    tasks_text,
    warnings,
    whole_set,
)

SHOWN = ("p5", "p25", "p50", "p75", "p95", "p100")


def card_markdown(card: Mapping[str, Any]) -> str:
    """The card in about two screens; tasks and examples are in the JSON file and the page."""
    parts = [f"# Query card: {_cell(card['name'])}"]
    missed = [f"> - {_cell(line)}" for line in warnings(card)]
    parts += ["\n".join(["> **Fewer queries than asked for**", ">", *missed])] if missed else []
    parts += [_table(("figure", *card["sets"]), _figures(card))]
    parts += ["## Beside Table 3 of the paper", _table(*_table3(card))]
    parts += ["## What is sent", _cell(request_note()), _requests(card)]
    parts += [_cell(price_sentences(card))]
    parts += ["## System messages, share of the collection", _messages(card)]
    parts += ["## Lengths", _lengths(card)]
    parts += ["## Multiple choice", _cell(TYPE_NOTE), _choices(card)]
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
        parts += ["## Made with", f"{_fence(text)}json\n{text}\n{_fence(text)}"]
    return "\n\n".join(parts) + "\n"


def _figures(card: Mapping[str, Any]) -> list[list[str]]:
    sets = list(card["sets"].values())

    def choices(one: Mapping[str, Any]) -> int:
        return sum(c["multiple_choice"] for c in one["collections"].values())

    figures = [
        ["queries", *(number(one["queries"]) for one in sets)],
        ["tasks with queries", *(tasks_text(card, name) for name in card["sets"])],
        ["characters of system messages and queries"]
        + [number(one["request_characters"]) for one in sets],
        ["tokens of them, estimated at 4 characters a token"]
        + [number(one["estimated_tokens"]) for one in sets],
        ["multiple-choice questions", *(number(choices(one)) for one in sets)],
        ["pairs of system message and query that repeat an earlier one"]
        + [number(one["repeats"]) for one in sets],
        [
            f"queries that are not in {next(iter(card['sets']))}",
            *(number(one.get("outside")) for one in sets),
        ],
        ["queries that hygiene found", number(card["hygiene"]["queries_found"])],
        ["queries removed by hygiene", number(card["hygiene"]["queries_removed"])],
        ["seed", str(card["seed"])],
    ]
    return [row + [""] * (1 + len(sets) - len(row)) for row in figures]


def _table3(card: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: every collection of the paper and of the sets, both shares beside."""
    sets, asked = card["sets"], card["asked"]
    first = next(iter(sets))
    head = ["collection", f"tasks in {first}", "tasks, paper", "candidates", "original size, paper"]
    head += ["asked for", "drawn"] if asked["collections"] else []
    head += [f"queries, {name}" for name in sets] + ["sampled, paper"]
    head += [f"share, {name}" for name in sets] + ["share, paper"]
    rows = []
    for name in dict.fromkeys([*card["paper"], *collections(card)]):
        paper = card["paper"].get(name, {})
        counted = [one["collections"].get(name, {}) for one in sets.values()]
        row = [collection_name(card, name), tasks_text(card, first, name)]
        row += [number(paper.get("tasks")), number(candidates(card, name))]
        row += [paper.get("original", UNKNOWN)]
        if asked["collections"]:
            quota = asked["collections"].get(name, {})
            row += [number(quota.get("asked")), number(drawn(card, name))]
        row += [number(counts.get("queries")) for counts in counted]
        row += [number(paper.get("sampled"))]
        row += [percent(counts.get("share")) for counts in counted]
        rows.append([*row, percent(paper_share(card, name))])
    blank = [""] * (2 if asked["collections"] else 0)
    total = ["total", tasks_text(card, first)]
    total += [number(sum(row["tasks"] for row in card["paper"].values())), "", "", *blank]
    total += [number(one["queries"]) for one in sets.values()]
    total += [number(sum(row["sampled"] for row in card["paper"].values()))]
    rows.append([*total, *[""] * (len(sets) + 1)])
    if asked["sets"]:
        wanted = [number(asked["sets"].get(name, {}).get("asked")) for name in sets]
        rows.append(["asked for", "", "", "", "", *blank, *wanted, *[""] * (len(sets) + 2)])
    return head, rows


def _requests(card: Mapping[str, Any]) -> str:
    rows = request_rows(card)
    head = ["of", "queries", "estimated tokens"]
    head += [f"requests over {number(tokens)}" for tokens in rows[-1]["over"]]
    head += ["longest, estimated tokens", "longest, characters"]
    cells = [
        [row["name"], number(row["queries"]), number(row["estimated_tokens"])]
        + [percent(share) for share in row["over"].values()]
        + [number(row["longest_tokens"]), number(row["longest"])]
        for row in rows
    ]
    return _table(head, cells)


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
    return re.sub(r"([\\`*|<\[$])", r"\\\1", plain)  # $ begins a formula in some readers


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    lines = [[_cell(cell) for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fence(text: str) -> str:
    """A fence that ``text`` cannot close."""
    runs = [len(run) for run in re.findall(r"`+", text)]
    return "`" * max(3, *(run + 1 for run in [0, *runs]))
