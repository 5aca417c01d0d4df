"""What a collection shows while it runs and when it ends."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from orca.mixture.query_set import read_manifest
from orca.teacher.ask import Asking
from orca.teacher.ledger import INTERRUPTED, Ledger
from orca.teacher.settings import Teacher

TELL_EVERY = 10.0  # seconds


def ledger_facts(teacher: Teacher, queries: Path) -> dict[str, Any]:
    """What must not change while a ledger is added to."""
    return {
        "teacher": [teacher.name, teacher.temperature, teacher.top_p, teacher.max_tokens],
        "models": sorted({endpoint.model for endpoint in teacher.endpoints.values()}),
        "queries": read_manifest(queries)["content_sha256"],
    }


async def show_progress(asking: Asking) -> None:
    """Print a line every ten seconds: answers, rate, retries, spend, requests under way."""
    start, before = time.monotonic(), sum(asking.ledger.counts("outcome").values())
    while True:
        await asyncio.sleep(TELL_EVERY)
        outcomes = asking.ledger.counts("outcome")
        answered = sum(outcomes.values())
        rate = (answered - before) / (time.monotonic() - start)
        under_way = ", ".join(f"{c.name} {c.limits.active}" for c in asking.clients)
        print(
            f"{answered:,} queries done ({rate:.1f}/s), ${asking.spent:,.2f}; under way: "
            f"{under_way}",
            file=sys.stderr,
            flush=True,
        )


def summary(ledger: Ledger, traces: int, out: Path) -> str:
    """What the ledger holds, in a few lines."""
    outcomes, results = ledger.counts("outcome"), ledger.counts("result", "ended")
    failures = {name: n for name, n in results.items() if name not in ("ok", "rejected")}
    lines = [
        f"{sum(outcomes.values()):,} queries have an outcome: "
        + (", ".join(f"{n:,} {name}" for name, n in outcomes.items()) or "none"),
        f"{traces:,} traces in {out / 'traces'}, ${ledger.total('dollars'):,.2f}, "
        f"{int(ledger.total('prompt_tokens')):,} tokens of prompts, "
        f"{int(ledger.total('completion_tokens')):,} of answers",
    ]
    gates = {name: n for name, n in ledger.counts("gate").items() if name}
    if gates:
        lines.append("set aside by gates: " + ", ".join(f"{n:,} {g}" for g, n in gates.items()))
    if failures:
        lines.append("asked again after: " + ", ".join(f"{n:,} {k}" for k, n in failures.items()))
    if INTERRUPTED in failures:
        lines.append(f"{failures[INTERRUPTED]:,} requests were in flight when a program died")
    return "\n".join(lines)
