"""Evaluations (``report.json`` of evaluate.py) as tables beside the paper's printed columns."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca.errors import UserError
from orca.evaluation.scores import AVERAGE, Score
from orca.evaluation.statistics import Interval
from orca.evaluation.table import Table
from orca.evaluation.tables import accuracy_table, averages_table
from orca.report.directory import read_json

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class Evaluation:
    """What evaluate.py found out about one model.

    Attributes:
        model: what was asked, as evaluate.py was told; "" where it does not say.
        scores: by benchmark and head of the column, which names model and protocol.
        about: how much was asked, and when.
        asked: which questions, and by which protocol: of the same, results compare.
        weights: beginning of the sha256 of the model's weights; "" where it is not known.
    """

    path: Path
    name: str
    model: str
    scores: Mapping[str, Mapping[str, list[Score]]]
    about: Mapping[str, str]
    asked: str
    weights: str

    def averages(self) -> dict[str, Interval]:
        """Accuracy by ``benchmark (protocol)``, so that runs of other names compare."""
        return {
            f"{benchmark} {head.removeprefix(self.name).strip()}": own[-1].accuracy
            for benchmark, runs in self.scores.items()
            for head, own in runs.items()
            if own[-1].task == AVERAGE
        }


def find_evaluations(directory: Path) -> list[Evaluation]:
    """All evaluations in ``directory`` and below it, by path."""
    files = sorted(directory.rglob(REPORT_FILE))
    return [
        read_evaluation(file.parent)
        for file in files
        if "wandb" not in file.relative_to(directory).parts
    ]


def read_evaluation(directory: Path) -> Evaluation:
    """The evaluation in ``directory``.

    Raises:
        UserError: there is none, or of another version.
    """
    report = read_json(directory / REPORT_FILE)
    if report is None:
        raise UserError(f"{directory} has no {REPORT_FILE}: give an out= directory of evaluate.py")
    try:
        scores = {
            benchmark: {head: [_score(one) for one in own] for head, own in runs.items()}
            for benchmark, runs in report["scores"].items()
        }
        report["name"]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{directory / REPORT_FILE} is not as evaluate.py writes it ({error}): evaluate again "
            "with the same out=, which asks nothing twice, or move the file away"
        ) from None
    facts = report.get("facts") or {}
    model = facts.get("model") or {}
    about = report.get("about", {})
    other = {key: value for key, value in facts.items() if key not in ("model", "trained by")}
    asked = json.dumps([other, about.get("asked")], sort_keys=True)
    named, weights = str(model.get("model") or ""), str(model.get("weights") or "")
    return Evaluation(directory, report["name"], named, scores, about, asked, weights)


def tables(evaluations: Sequence[Evaluation]) -> tuple[list[Table], list[Table]]:
    """Averages (a table for those with the same benchmarks), and every benchmark's tasks."""
    heads = _heads(evaluations)
    sets: dict[tuple[str, ...], dict[str, dict[str, list[Score]]]] = {}
    whole: dict[tuple[str, ...], dict[str, list[Score]]] = defaultdict(dict)
    for evaluation in evaluations:
        own = sets.setdefault(
            tuple(evaluation.scores), {benchmark: {} for benchmark in evaluation.scores}
        )
        for benchmark, runs in evaluation.scores.items():
            for head, scores in runs.items():
                own[benchmark][heads[evaluation.path, head]] = scores
                key = (benchmark, *sorted(score.task for score in scores))
                whole[key][heads[evaluation.path, head]] = scores
    averages = [_without_failures(averages_table(one)) for names, one in sets.items() if names]
    return averages, [accuracy_table(runs) for runs in whole.values()]


def _without_failures(table: Table) -> Table:
    """Without the columns of answers that have no label: else the paper's are out of sight."""
    kept = [i for i, head in enumerate(table.head) if not head.endswith(": no label found")]
    return dataclasses.replace(
        table,
        head=tuple(table.head[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in table.rows),
    )


def _heads(evaluations: Iterable[Evaluation]) -> dict[tuple[Path, str], str]:
    """Heads of columns; with the directory where two evaluations have the same one."""
    all_heads = [
        (one.path, head)
        for one in evaluations
        for head in dict.fromkeys(h for runs in one.scores.values() for h in runs)
    ]
    texts = [head for _, head in all_heads]
    return {
        (path, head): head if texts.count(head) == 1 else f"{path}: {head}"
        for path, head in all_heads
    }


def _score(row: Mapping[str, Any]) -> Score:
    intervals = {name: Interval(**row[name]) for name in ("accuracy", "stated")}
    return Score(**{**row, **intervals})
