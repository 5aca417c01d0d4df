"""Lengths of responses by system message and teacher: what Figure 9 of arXiv 2306.02707 draws.

    python -m orca.teacher.lengths lengths.png traces/chatgpt traces/gpt4

draws the ``report.json`` of collections side by side and prints how their means compare (the
paper's GPT-4 writes 1.5 times as much as its ChatGPT, section 3.1.3).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orca.errors import UserError


def mean_length(report: dict[str, Any], measure: str) -> float:
    """Mean over all finished responses of a collection."""
    rows = report["lengths"]
    responses = sum(row["responses"] for row in rows)
    return sum(row[measure]["mean"] * row["responses"] for row in rows) / max(responses, 1)


def names_of(reports: Sequence[dict[str, Any]], directories: Sequence[Path]) -> list[str]:
    """The teachers' names, with the directory where collections have one teacher."""
    teachers = [report["teacher"] for report in reports]
    return [
        name if teachers.count(name) == 1 else f"{name} ({directory})"
        for name, directory in zip(teachers, directories, strict=True)
    ]


def draw(reports: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> str:
    """Draw boxes (5, 25, 50, 75, 95 %) by system message, a colour for each named report.

    Returns:
        The measure that was drawn: characters, where a server counted no tokens.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counted = all(mean_length(report, "completion_tokens") > 0 for report in reports)
    measure = "completion_tokens" if counted else "characters"
    messages = list(dict.fromkeys(_label(row) for report in reports for row in report["lengths"]))
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    width = 0.8 / len(reports)
    for i, report in enumerate(reports):
        rows = report["lengths"]
        axes.bxp(
            [_box(row[measure]) for row in rows],
            positions=[messages.index(_label(row)) + (i + 0.5) * width - 0.4 for row in rows],
            widths=width * 0.8,
            showfliers=False,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": f"C{i}", "alpha": 0.5},
            medianprops={"color": "black"},
        )
        axes.plot([], [], "s", color=f"C{i}", alpha=0.5, label=names[i])
    axes.set_xticks(range(len(messages)), messages)
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
    names = names_of(reports, options.collections)
    measure = draw(reports, names, options.picture)
    first = mean_length(reports[0], measure)
    for name, report in zip(names, reports, strict=True):
        mean = mean_length(report, measure)
        unit = measure.replace("_", " ")
        print(f"{name}: {mean:,.1f} {unit} on average, {mean / first:.2f} times")


if __name__ == "__main__":
    main()
