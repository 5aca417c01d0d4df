"""The data card: what a run read, dropped, packed and trained on.

All figures are counters and histograms, so a card can be saved with a checkpoint, go on after a
resume and still give exact percentiles.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orca.stream.batches import StepBatch
from orca.stream.stream import StreamPack, displacement

MAX_LISTED = 1000
"""Dropped rows listed by name; all are counted."""


class DataCard:
    """Counts of one stage. ``add`` takes the steps that were really trained on."""

    COUNTERS = (
        "totals",
        "dropped",
        "teacher",
        "sub_collection",
        "system_message",
        "length",
        "targets",
        "displacement",
        "examples_per_pack",
    )

    def __init__(self, title: str, capacity: int, facts: Mapping[str, Any]) -> None:
        self.title = title
        self.capacity = capacity
        self.facts = dict(facts)
        self.counters: dict[str, Counter[Any]] = {name: Counter() for name in self.COUNTERS}
        self.dropped_rows: list[dict[str, str]] = []
        self.audit: dict[str, Any] = {}

    def add(self, step: StepBatch) -> None:
        """Count one optimizer step."""
        self.counters["totals"]["steps"] += 1
        for item in step.packs:
            self.add_pack(item)

    def add_pack(self, item: StreamPack) -> None:
        """Count one pack and the windows that were read for it."""
        totals = self.counters["totals"]
        for window in item.windows:
            totals["read"] += window.num_read
            totals["held_out"] += window.num_held_out
            for row in window.dropped:
                self.counters["dropped"][row.reason] += 1
                if len(self.dropped_rows) < MAX_LISTED:
                    listed = {"reason": row.reason, "where": row.where, "detail": row.detail}
                    self.dropped_rows.append(listed)
        totals["packs"] += 1
        totals["tokens"] += item.pack.num_tokens
        totals["target_tokens"] += item.pack.num_targets
        self.counters["examples_per_pack"][len(item.pack.examples)] += 1
        self.counters["displacement"].update(displacement(item).tolist())
        for example in item.pack.examples:
            totals["examples"] += 1
            totals["truncated"] += example.truncated > 0
            totals["truncated_tokens"] += example.truncated
            totals["special_tokens_spelled_out"] += example.spelled_special
            self.counters["teacher"][example.teacher or "(none)"] += 1
            self.counters["sub_collection"][example.sub_collection or "(none)"] += 1
            self.counters["system_message"][example.system_message] += 1
            self.counters["length"][len(example.tokens)] += 1
            self.counters["targets"][example.num_targets] += 1

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; the figures first, then the audit and the facts."""
        totals = self.counters["totals"]
        packs = max(totals["packs"], 1)
        return {
            "title": self.title,
            "totals": dict(totals),
            "fill": totals["tokens"] / (packs * self.capacity),
            "capacity": self.capacity,
            "examples_per_pack": totals["examples"] / packs,
            "displacement": percentiles(self.counters["displacement"], (50, 95, 100)),
            "length": percentiles(self.counters["length"]),
            "target_tokens_per_example": percentiles(self.counters["targets"]),
            "dropped": dict(self.counters["dropped"]),
            "dropped_rows": self.dropped_rows,
            "composition": {
                name: dict(self.counters[name].most_common())
                for name in ("teacher", "sub_collection", "system_message")
            },
            "audit": self.audit,
            "facts": self.facts,
        }

    def to_markdown(self) -> str:
        """The card as a page."""
        card, totals = self.to_dict(), self.counters["totals"]
        dropped = sum(self.counters["dropped"].values())
        lines = [f"# Data card: {self.title}", "", "| | |", "| --- | --- |"]
        rows: list[tuple[str, Any]] = [
            ("rows read", totals["read"]),
            ("held out for validation", totals["held_out"]),
            ("dropped", dropped),
            ("examples trained on", totals["examples"]),
            ("tokens", totals["tokens"]),
            ("target tokens", totals["target_tokens"]),
            ("packs", totals["packs"]),
            ("fill", f"{card['fill']:.2%} of {self.capacity} tokens"),
            ("examples per pack", f"{card['examples_per_pack']:.2f}"),
            ("queries truncated", totals["truncated"]),
            ("tokens cut from queries", totals["truncated_tokens"]),
            ("texts with special tokens spelled out", totals["special_tokens_spelled_out"]),
        ]
        lines += [f"| {name} | {_figure(value)} |" for name, value in rows]
        lines += [
            "",
            "Rows read and dropped are counted by window when its first pack is used.",
            "",
        ]
        lines += ["| percentile | " + " | ".join(card["length"]) + " |"]
        lines += ["| --- " * (len(card["length"]) + 1) + "|"]
        for name in ("length", "target_tokens_per_example"):
            lines += [
                f"| {name.replace('_', ' ')} | " + " | ".join(map(str, card[name].values())) + " |"
            ]
        moved = card["displacement"]
        lines += ["", "Places moved from the curriculum position: " + _listed(moved), ""]
        if dropped:
            lines += ["## Dropped", "", "| reason | rows |", "| --- | --- |"]
            lines += [f"| {reason} | {count} |" for reason, count in card["dropped"].items()]
            lines += ["", *(f"- {r['where']}: {r['detail']}" for r in self.dropped_rows[:20])]
            if dropped > 20:
                lines += [
                    f"- … and {dropped - 20} more; `data_card.json` lists {len(self.dropped_rows)}"
                ]
            lines += [""]
        for name, counts in card["composition"].items():
            lines += [
                f"## By {name.replace('_', ' ')}",
                "",
                "| | examples | share |",
                "| --- | --- | --- |",
            ]
            lines += [
                f"| {key} | {count:,} | {count / max(totals['examples'], 1):.1%} |"
                for key, count in counts.items()
            ]
            lines += [""]
        lines += ["## Audit", "", *(f"- {name}: {value}" for name, value in self.audit.items()), ""]
        lines += [
            "## Facts",
            "",
            *(f"- {name}: `{value}`" for name, value in self.facts.items()),
            "",
        ]
        return "\n".join(lines)

    def save(self, directory: Path) -> None:
        """Write ``data_card.md`` and ``data_card.json``."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "data_card.md").write_text(self.to_markdown(), encoding="utf-8")
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        (directory / "data_card.json").write_text(text, encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        counters = {name: list(map(list, c.items())) for name, c in self.counters.items()}
        return {"counters": counters, "dropped_rows": self.dropped_rows, "audit": self.audit}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counters = {
            name: Counter(dict(map(tuple, c))) for name, c in state["counters"].items()
        }
        self.dropped_rows = list(state["dropped_rows"])
        self.audit = dict(state["audit"])


def percentiles(
    histogram: Mapping[int, int], points: tuple[int, ...] = (0, 5, 25, 50, 75, 95, 100)
) -> dict[str, int]:
    """Exact nearest-rank percentiles of a histogram of whole numbers, by name (p0 is the least)."""
    if not histogram:
        return {f"p{point}": 0 for point in points}
    values = np.array(sorted(histogram))
    reached = np.cumsum([histogram[value] for value in values.tolist()])
    places = [max(1, -(-point * int(reached[-1]) // 100)) for point in points]
    return {
        f"p{point}": int(values[np.searchsorted(reached, place)])
        for point, place in zip(points, places, strict=True)
    }


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _listed(moved: Mapping[str, int]) -> str:
    return f"median {moved['p50']}, 95 % within {moved['p95']}, most {moved['p100']}"
