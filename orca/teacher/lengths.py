"""Lengths of responses by system message and teacher: what Figure 9 of arXiv 2306.02707 draws.

    python -m orca.teacher.lengths lengths.png traces/chatgpt traces/gpt4

draws the ``report.json`` of collections side by side and prints how their means compare (the
paper's GPT-4 writes 1.5 times as much as its ChatGPT, section 3.1.3).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orca.errors import UserError
from orca.percentiles import percentiles
from orca.teacher.ledger import Ledger
from orca.traces.system_messages import match_system_message

MEASURES = ("completion_tokens", "characters")
POINTS = (5, 25, 50, 75, 95)
SHOWN = 60  # characters of a system message


def length_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Lengths of finished responses, gates or not, for each system message: responses, and mean
    and percentiles of tokens (as the server counts them; 0: it does not) and of characters."""
    found: dict[str, dict[str, Counter[int]]] = defaultdict(
        lambda: {name: Counter() for name in MEASURES}
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


def mean_length(report: dict[str, Any], measure: str) -> float:
    """Mean over all finished responses of a collection."""
    rows = report["lengths"]
    responses = sum(row["responses"] for row in rows)
    return sum(row[measure]["mean"] * row["responses"] for row in rows) / max(responses, 1)


def draw(reports: Sequence[dict[str, Any]], path: Path) -> str:
    """Draw boxes (5, 25, 50, 75, 95 %) by system message, a colour for each teacher.

    Returns:
        The measure that was drawn: characters, where a server counted no tokens.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counted = all(mean_length(report, "completion_tokens") > 0 for report in reports)
    measure = "completion_tokens" if counted else "characters"
    names = list(dict.fromkeys(_label(row) for report in reports for row in report["lengths"]))
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    width = 0.8 / len(reports)
    for i, report in enumerate(reports):
        rows = report["lengths"]
        axes.bxp(
            [_box(row[measure]) for row in rows],
            positions=[names.index(_label(row)) + (i + 0.5) * width - 0.4 for row in rows],
            widths=width * 0.8,
            showfliers=False,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": f"C{i}", "alpha": 0.5},
            medianprops={"color": "black"},
        )
        axes.plot([], [], "s", color=f"C{i}", alpha=0.5, label=report["teacher"])
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("system message (number in Table 2)")
    axes.set_ylabel(f"{'tokens' if counted else 'characters'} of a response")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return measure


def _label(row: dict[str, Any]) -> str:
    return str(row["number"] or row["system_message"][:12])


def _box(summary: dict[str, float]) -> dict[str, float]:
    names = {"whislo": "p5", "q1": "p25", "med": "p50", "q3": "p75", "whishi": "p95"}
    return {name: summary[point] for name, point in names.items()}


def read_report(directory: Path) -> dict[str, Any]:
    """``report.json`` of a collection; raises :class:`UserError` where there is none."""
    try:
        report: dict[str, Any] = json.loads((directory / "report.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{directory} has no report of a collection ({error})") from None
    if not report.get("lengths"):
        raise UserError(f"{directory}: no response has come yet")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("collections", type=Path, nargs="+", help="directories of collect.py")
    options = parser.parse_args()
    try:
        reports = [read_report(directory) for directory in options.collections]
    except UserError as error:
        sys.exit(f"error: {error}")
    measure = draw(reports, options.picture)
    first = mean_length(reports[0], measure)
    for report in reports:
        mean = mean_length(report, measure)
        unit = measure.replace("_", " ")
        print(f"{report['teacher']}: {mean:,.1f} {unit} on average, {mean / first:.2f} times")


if __name__ == "__main__":
    main()
