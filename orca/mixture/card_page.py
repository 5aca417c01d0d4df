"""The query card as one HTML page that loads nothing: bars and curves are drawn as CSS and SVG.

Queries, tasks and messages are text of others. The template escapes every value; what is computed
here for it are numbers and SVG paths made of numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import log2
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from orca.mixture import card_figures

WIDTH, ROW, LEFT, RIGHT = 520, 50, 84, 172  # of a length panel, in SVG units
PEAK = 38  # height of a curve


def card_html(card: Mapping[str, Any]) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": card_figures.number,
        "percent": card_figures.percent,
        "json": lambda value: json.dumps(value, indent=1, ensure_ascii=False),
    }
    names = card_figures.collections(card)
    # The paper's collections come first and so keep their colours, whatever else there is.
    shown = dict.fromkeys([*card["paper"], *names])
    made = {name: card[name] for name in ("configuration", "versions", "seconds") if card[name]}
    return environment.get_template("card.html.j2").render(
        card=card,
        whole=card_figures.whole_set(card),
        first=next(iter(card["sets"])),
        names={name: card_figures.collection_name(card, name) for name in shown},
        present=names,
        colours={name: place % 6 for place, name in enumerate(shown)},
        tiles=_tiles(card),
        table3=_table3(card),
        warnings=card_figures.warnings(card),
        requests=card_figures.request_rows(card),
        request_note=card_figures.request_note(),
        price_sentences=card_figures.price_sentences(card),
        type_note=card_figures.TYPE_NOTE,
        tasks_in_first=card_figures.tasks_text(card, next(iter(card["sets"]))),
        messages=_message_bars(card),
        panels=_length_panels(card),
        target_groups=card_figures.target_groups,
        extremes=card_figures.task_extremes(card),
        few=card_figures.FEW,
        made=made,
    )


def _tiles(card: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures to see first: value, what it counts, a remark."""
    tiles = []
    for name, one in card["sets"].items():
        note = f"about {card_figures.short(one['estimated_tokens'])} tokens to send"
        if one.get("outside") is not None:
            within = "all of them in" if one["outside"] == 0 else f"{one['outside']:,} not in"
            note += f"; {within} {next(iter(card['sets']))}"
        tiles.append({"value": f"{one['queries']:,}", "label": f"queries, {name}", "note": note})
    whole = card_figures.whole_set(card)
    choices = sum(counts["multiple_choice"] for counts in whole["collections"].values())
    bad = sum(sum(one.get("reasons", {}).values()) for one in card["bad_rows"].values())
    paper_tasks = sum(row["tasks"] for row in card["paper"].values())
    queries = max(whole["queries"], 1)
    tasks = card_figures.tasks_text(card, next(iter(card["sets"])))
    few = [
        (tasks, "tasks with queries", f"the paper has {paper_tasks:,}"),
        (choices, "multiple-choice questions", f"{card_figures.percent(choices / queries)} of all"),
        (
            whole["repeats"],
            "repeated pairs",
            "queries whose text and system message an earlier one has",
        ),
        _hygiene_tile(card["hygiene"]),
        (bad, "rows that are no query", "of the sources that were read"),
    ]
    tiles += [
        {
            "value": n if isinstance(n, str) else card_figures.number(n),
            "label": label,
            "note": note,
        }
        for n, label, note in few
    ]
    return tiles


def _hygiene_tile(hygiene: Mapping[str, Any]) -> tuple[str, str, str]:
    checks = hygiene["checks"]
    if not checks:
        return card_figures.UNKNOWN, "hygiene", "no checks"
    found = card_figures.number(sum(check["found"] for check in checks.values()))
    removed = card_figures.number(hygiene["queries_removed"])
    note = f"by {len(checks)} checks, in {card_figures.number(hygiene['queries_found'])} queries"
    return f"{found} found, {removed} removed", "hygiene", note


def _table3(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for every collection of the paper and of the sets."""
    rows = []
    for name in dict.fromkeys([*card["paper"], *card_figures.collections(card)]):
        counted = {key: one["collections"].get(name, {}) for key, one in card["sets"].items()}
        rows.append(
            {
                "collection": name,
                "paper": card["paper"].get(name, {}),
                "candidates": card_figures.candidates(card, name),
                "asked": card["asked"]["collections"].get(name, {}).get("asked"),
                "drawn": card_figures.drawn(card, name),
                "tasks": card_figures.tasks_text(card, next(iter(counted)), name),
                "queries": {key: counts.get("queries") for key, counts in counted.items()},
                "shares": {key: counts.get("share") for key, counts in counted.items()},
                "paper_share": card_figures.paper_share(card, name),
            }
        )
    return rows


def _message_bars(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every collection one bar per set: (number of the message, queries, share)."""
    bars = []
    for collection in card_figures.whole_set(card)["collections"]:
        for name, one in card["sets"].items():
            counts = one["collections"].get(collection)
            if counts is None:
                continue
            parts = [
                {"message": message, "queries": n, "share": n / counts["queries"]}
                for message, n in counts["system_messages"].items()
            ]
            bars.append({"collection": collection, "set": name, "parts": parts})
    return bars


# Length curves ------------------------------------------------------------------------------------


def _length_panels(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One panel per measure, one curve per collection over a logarithmic axis."""
    counted = card_figures.whole_set(card)["collections"]
    panels = []
    for measure, title in card_figures.MEASURE_NAMES.items():
        lengths = {c: n["lengths"][measure] for c, n in counted.items() if measure in n["lengths"]}
        if not lengths:
            continue
        ends = [(_log(one["bins"][0][0]), _log(one["bins"][-1][1])) for one in lengths.values()]
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
        scale = (WIDTH - LEFT - RIGHT) / max(high - low, 1)
        ticks = [
            {"x": round(LEFT + (_log(length) - low) * scale, 1), "label": label}
            for length, label in ((1, "1"), (10, "10"), (100, "100"), (1000, "1k"), (10_000, "10k"))
            if low <= _log(length) <= high
        ]
        curves = [
            {"collection": collection, **_curve(one, place, low, scale)}
            for place, (collection, one) in enumerate(lengths.items())
        ]
        height = ROW * len(curves) + 24
        panels.append({"title": title, "ticks": ticks, "curves": curves, "height": height})
    return panels


def _curve(length: Mapping[str, Any], place: int, low: float, scale: float) -> dict[str, Any]:
    """Steps whose area is a share of queries: a bin's height is its count per doubling."""
    base = ROW * (place + 1) - 4
    density = [n / (_log(high) - _log(start)) for start, high, n in length["bins"]]
    step = PEAK / max(density)
    path = [f"M{LEFT + (_log(length['bins'][0][0]) - low) * scale:.1f} {base}"]
    for (_, high, _), value in zip(length["bins"], density, strict=True):
        path += [f"V{base - value * step:.1f}", f"H{LEFT + (_log(high) - low) * scale:.1f}"]
    path += [f"V{base}", "Z"]
    median = LEFT + (_log(length["p50"]) - low) * scale
    return {"path": "".join(path), "base": base, "median": round(median, 1), "length": length}


def _log(length: int) -> float:
    """Place on the axis; a length of 0 has a bin of its own left of 1."""
    return log2(max(length, 0.5))
