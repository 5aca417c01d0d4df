"""The data card: what a run read, dropped, packed and trained on.

All figures are counters and histograms, so a card can be saved with a checkpoint, go on after a
resume and still give exact percentiles.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orca.percentiles import percentiles
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
        totals["sum_of_squares"] += item.pack.sum_of_squares  # of lengths, for attention's cost
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
        parts = [f"# Data card: {self.title}", _table(("", ""), self._figures(card))]
        parts += ["Rows read and dropped count from the first pack of their window on."]
        lengths = [(n, *card[n].values()) for n in ("length", "target_tokens_per_example")]
        parts += ["## Lengths in tokens", _table(("percentile", *card["length"]), lengths)]
        if card["dropped"]:
            parts += ["## Dropped", _table(("reason", "rows"), card["dropped"].items())]
            listed = [f"- {row['where']}: {row['detail']}" for row in self.dropped_rows[:20]]
            rest = sum(card["dropped"].values()) - len(listed)
            if rest:
                listed += [f"- … and {rest:,} more (data_card.json lists up to {MAX_LISTED:,})"]
            parts += ["\n".join(listed)]
        for name, counts in card["composition"].items():
            whole = max(totals["examples"], 1)
            rows = [(key, f"{count:,}", f"{count / whole:.1%}") for key, count in counts.items()]
            parts += [f"## By {name.replace('_', ' ')}", _table(("", "examples", "share"), rows)]
        for title, values in (("Audit", self.audit), ("Facts", self.facts)):
            parts += [f"## {title}", "\n".join(f"- {k}: {v}" for k, v in values.items())]
        return "\n\n".join(parts) + "\n"

    def _figures(self, card: Mapping[str, Any]) -> list[tuple[str, str]]:
        totals, moved = self.counters["totals"], card["displacement"]
        figures: list[tuple[str, Any]] = [
            ("rows read", totals["read"]),
            ("held out for validation", totals["held_out"]),
            ("dropped", sum(card["dropped"].values())),
            ("examples trained on", totals["examples"]),
            ("tokens", totals["tokens"]),
            ("target tokens", totals["target_tokens"]),
            ("packs", totals["packs"]),
            ("fill", f"{card['fill']:.2%} of {self.capacity} tokens"),
            ("examples per pack", f"{card['examples_per_pack']:.2f}"),
            ("places moved from the curriculum position, median", moved["p50"]),
            ("places moved, most", moved["p100"]),
            ("queries truncated", totals["truncated"]),
            ("tokens cut from queries", totals["truncated_tokens"]),
            ("texts with special tokens spelled out", totals["special_tokens_spelled_out"]),
        ]
        return [(name, f"{v:,}" if isinstance(v, int) else v) for name, v in figures]

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


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
