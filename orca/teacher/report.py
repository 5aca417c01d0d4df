"""What a collection tells when it ends: outcomes, causes of failure, lengths (Figure 9), money."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orca.mixture.query_set import read_manifest
from orca.percentiles import percentiles
from orca.teacher.ledger import INTERRUPTED, Ledger
from orca.teacher.progress import OUTCOMES
from orca.teacher.settings import Teacher

POINTS = (5, 25, 50, 75, 95)
SHOWN = 60  # characters of a system message


def ledger_facts(teacher: Teacher, queries: Path) -> dict[str, Any]:
    """What must not change while a ledger is added to."""
    return {
        "teacher": teacher.name,
        "settings": teacher.body,
        "models": sorted({endpoint.model for endpoint in teacher.endpoints.values()}),
        "queries": read_manifest(queries)["content_sha256"],
    }


def collection_report(ledger: Ledger, teacher: str) -> dict[str, Any]:
    """Everything that is counted, as a mapping for ``report.json``."""
    results = ledger.counts("result", "ended")
    return {
        "teacher": teacher,
        "facts": ledger.facts(),
        "outcomes": ledger.counts("outcome"),
        "by_endpoint": ledger.counts("endpoint"),
        "by_model": ledger.counts("model"),
        "gates": {name: n for name, n in ledger.counts("gate").items() if name},
        "failed_attempts": {kind: n for kind, n in results.items() if kind not in OUTCOMES},
        "causes": ledger.counts(
            "error", where="outcome IN ('failed', 'rejected', 'content_filter')"
        ),
        "interrupted": results.get(INTERRUPTED, 0),
        "dollars": ledger.total("dollars"),
        "prompt_tokens": ledger.total("prompt_tokens"),
        "completion_tokens": ledger.total("completion_tokens"),
        "lengths": _lengths(ledger),
    }


def _lengths(ledger: Ledger) -> list[dict[str, Any]]:
    """Lengths of finished responses by system message, in tokens as the server counts them and in
    characters: what Figure 9 of the paper draws."""
    measures = ("completion_tokens", "characters")
    found: dict[str, dict[str, Counter[int]]] = defaultdict(
        lambda: {m: Counter() for m in measures}
    )
    for message, tokens, characters in ledger.lengths():
        found[message]["completion_tokens"][tokens] += 1
        found[message]["characters"][characters] += 1
    return [
        {
            "system_message": message,
            "responses": counts["characters"].total(),
            **{name: _summary(histogram) for name, histogram in counts.items()},
        }
        for message, counts in sorted(found.items())
    ]


def _summary(histogram: Counter[int]) -> dict[str, float]:
    total = sum(value * n for value, n in histogram.items())
    return {"mean": round(total / histogram.total(), 1), **percentiles(histogram, POINTS)}


def save_report(report: Mapping[str, Any], out: Path) -> None:
    """Write ``report.json`` and ``report.md``."""
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (out / "report.md").write_text(_markdown(report))


def summary(report: Mapping[str, Any], out: Path) -> str:
    """The report in a few lines."""
    outcomes = report["outcomes"]
    kept = sum(outcomes.values())
    lines = [
        f"{kept:,} queries have an outcome: {_list(outcomes) or 'none'}",
        f"{report['traces']:,} traces in {out / 'traces'}, ${report['dollars']:,.2f}, "
        f"{report['prompt_tokens']:,} tokens of prompts, "
        f"{report['completion_tokens']:,} of answers",
    ]
    if report["gates"]:
        lines.append(f"set aside by gates: {_list(report['gates'])}")
    if report["causes"]:
        lines.append(f"without an answer because of: {_list(report['causes'])}")
    if report["failed_attempts"]:
        lines.append(f"failed attempts: {_list(report['failed_attempts'])}")
    if report["interrupted"]:
        lines.append(f"{report['interrupted']:,} requests were in flight when a program died")
    return "\n".join(lines)


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.items())


def _markdown(report: Mapping[str, Any]) -> str:
    parts = [f"# Responses of {report['teacher']}", ""]
    for title, name in (
        ("Outcomes of queries", "outcomes"),
        ("Set aside by gates", "gates"),
        ("Why queries have no answer", "causes"),
        ("Attempts that failed", "failed_attempts"),
        ("Answered by endpoint", "by_endpoint"),
        ("Answered by model", "by_model"),
    ):
        if report[name]:
            rows = [f"| {key or '(none)'} | {n:,} |" for key, n in report[name].items()]
            parts += [f"| {title} | |", "| --- | --- |", *rows, ""]
    parts += [
        f"Traces: {report['traces']:,}. Spent: ${report['dollars']:,.2f} for "
        f"{report['prompt_tokens']:,} tokens of prompts and {report['completion_tokens']:,} of "
        f"answers. Requests in flight when a program died: {report['interrupted']:,}.",
        "",
        "## Lengths of finished responses by system message",
        "",
        "Tokens as the server counts them (0: it does not) and characters, as in Figure 9 of "
        "arXiv 2306.02707.",
        "",
        "| system message | responses | mean tokens | 5 % | 50 % | 95 % | mean characters |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["lengths"]:
        tokens = row["completion_tokens"]
        message = " ".join(row["system_message"].split()).replace("|", "\\|")[:SHOWN] or "(empty)"
        parts.append(
            f"| {message} | {row['responses']:,} | {tokens['mean']:,} | {tokens['p5']:,} | "
            f"{tokens['p50']:,} | {tokens['p95']:,} | {row['characters']['mean']:,} |"
        )
    return "\n".join(parts) + "\n"
