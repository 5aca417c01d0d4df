"""What a collection tells when it ends: outcomes, causes of failure, lengths (Figure 9), money."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from orca.mixture.query_set import read_manifest
from orca.teacher.ledger import INTERRUPTED, WITHDRAWABLE, Ledger
from orca.teacher.length_rows import length_rows, length_table
from orca.teacher.request import OUTCOMES
from orca.teacher.settings import Teacher


def ledger_facts(teacher: Teacher, queries: Path) -> dict[str, Any]:
    """What must not change while a ledger is added to."""
    return {
        "teacher": teacher.name,
        "settings": teacher.body,
        "queries": read_manifest(queries)["content_sha256"],
    }


def collection_report(
    ledger: Ledger, teacher: Teacher, queries: Path, traces: int
) -> dict[str, Any]:
    """Everything that is counted, as a mapping for ``report.json``.

    Gates are counted over the answers that would be traces without them, so that these are
    ``traces`` and what each gate set aside; what was cut or filtered is an outcome, and no gate's.
    """
    results = ledger.counts("result", "ended")
    traced = ", ".join(f"'{outcome}'" for outcome in teacher.traced)
    gates = ledger.counts("gate", where=f"outcome IN ({traced})")
    return {
        "teacher": teacher.name,
        "written": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "query_set": "/".join(queries.resolve().parts[-2:]),
        "facts": ledger.facts(),
        "traces": traces,
        "traced": list(teacher.traced),
        "outcomes": ledger.counts("outcome"),
        "by_endpoint": ledger.counts("endpoint"),
        "by_model": ledger.counts("model"),
        "gates": {name: n for name, n in gates.items() if name},
        "failed_attempts": {kind: n for kind, n in results.items() if kind not in OUTCOMES},
        "causes": ledger.counts(
            "coalesce(nullif(error, ''), finish_reason)", where="outcome <> 'finished'"
        ),
        "interrupted": results.get(INTERRUPTED, 0),
        "dollars": ledger.total("dollars"),
        "perhaps_dollars": ledger.perhaps(),
        "prompt_tokens": ledger.total("prompt_tokens"),
        "completion_tokens": ledger.total("completion_tokens"),
        "lengths": length_rows(ledger),
    }


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
        lines.append(f"set aside by gates, {_of_traced(report)}: {_list(report['gates'])}")
    if report["causes"]:
        lines.append(f"not finished because of: {_list(report['causes'])}")
    if again := [name for name in WITHDRAWABLE if outcomes.get(name)]:
        lines.append(f"ask_again=[{','.join(again)}] asks what is {' or '.join(again)} once more")
    if report["failed_attempts"]:
        lines.append(f"failed attempts: {_list(report['failed_attempts'])}")
    if report["perhaps_dollars"]:
        lines.append(
            f"up to ${report['perhaps_dollars']:,.2f} more for requests whose answers never came"
        )
    if report["interrupted"]:
        lines.append(f"{report['interrupted']:,} requests were in flight when a program died")
    return "\n".join(lines)


def _of_traced(report: Mapping[str, Any]) -> str:
    """The answers that gates judge for the traces, in words."""
    names = report["traced"]
    return f"of {sum(report['outcomes'].get(n, 0) for n in names):,} {' and '.join(names)}"


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.items())


def _markdown(report: Mapping[str, Any]) -> str:
    facts = report["facts"]
    settings = [f"{name} {json.dumps(value)}" for name, value in facts.get("settings", {}).items()]
    about = {
        "written": report["written"],
        "query set": f"{report['query_set']} (SHA-256 {facts.get('queries', 'unknown')})",
        "settings": ", ".join(settings).replace("|", "\\|") or "none",
        "models": ", ".join(facts.get("models", [])) or "unknown",
        "gates": ", ".join(facts.get("gates", {})) or "none",
    }
    rows = [f"| {name} | {value} |" for name, value in about.items()]
    parts = [f"# Responses of {report['teacher']}", "", "| | |", "| --- | --- |", *rows, ""]
    for title, name in (
        ("Outcomes of queries", "outcomes"),
        (f"Set aside by gates, {_of_traced(report)}", "gates"),
        ("Why queries have no finished answer", "causes"),
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
        f"answers; up to ${report['perhaps_dollars']:,.2f} more for requests whose answers never "
        f"came. Requests in flight when a program died: {report['interrupted']:,}.",
        "",
        "## Lengths of finished responses by system message",
        "",
        "Tokens as the server counts them (0: it does not) and characters, as in Figure 9 of "
        "arXiv 2306.02707.",
        "",
        *length_table(report["lengths"]),
    ]
    return "\n".join(parts) + "\n"
