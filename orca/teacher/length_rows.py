"""Lengths of finished responses by system message, as the report has them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from orca.percentiles import percentiles
from orca.teacher.ledger import Ledger
from orca.traces.system_messages import match_system_message

POINTS = (5, 25, 50, 75, 95)
SHOWN = 60  # characters of a system message


def length_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Lengths of finished responses, gates or not, for each system message: responses, and mean
    and percentiles of tokens (as the server counts them; 0: it does not) and of characters."""
    found: dict[str, dict[str, Counter[int]]] = defaultdict(
        lambda: {"completion_tokens": Counter(), "characters": Counter()}
    )
    for message, tokens, characters in ledger.lengths():
        found[message]["completion_tokens"][tokens] += 1
        found[message]["characters"][characters] += 1
    rows = [
        {
            "number": match_system_message(message),
            "system_message": message,
            "responses": counts["characters"].total(),
            **{name: _summary(histogram) for name, histogram in counts.items()},
        }
        for message, counts in sorted(found.items())
    ]
    return sorted(rows, key=lambda row: row["number"] or 99)


def _summary(histogram: Counter[int]) -> dict[str, float]:
    total = sum(value * n for value, n in histogram.items())
    return {"mean": round(total / histogram.total(), 1), **percentiles(histogram, POINTS)}


def length_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [
        "| Table 2 | system message | responses | mean tokens | 5 % | 50 % | 95 % "
        "| mean characters |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        tokens = row["completion_tokens"]
        text = " ".join(row["system_message"].split()).replace("|", "\\|") or "(empty)"
        short = text if len(text) <= SHOWN else f"{text[:SHOWN]} …"
        lines.append(
            f"| {row['number'] or ''} | {short} | {row['responses']:,} | {tokens['mean']:,} | "
            f"{tokens['p5']:,} | {tokens['p50']:,} | {tokens['p95']:,} | "
            f"{row['characters']['mean']:,} |"
        )
    return lines
