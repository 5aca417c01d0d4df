"""From the samples of a run to its tables, its comparisons and examples to read."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca.errors import UserError
from orca.evaluation.comparison import Comparison, compare
from orca.evaluation.item import NEVER_SHOWN, Item, Sample
from orca.evaluation.protocol import Protocol
from orca.evaluation.records import read_samples
from orca.evaluation.scores import Score, grade, score
from orca.evaluation.statistics import Interval, macro_ratio
from orca.evaluation.table import Table
from orca.evaluation.tables import (
    Judged,
    accuracy_table,
    column_head,
    comparison_table,
    detail_table,
    system_message_table,
)


@dataclass(frozen=True)
class Example:
    """An answer to read: ``kind`` is right, wrong, or unparsed."""

    benchmark: str
    task: str
    kind: str
    sample: Sample


@dataclass(frozen=True, slots=True)
class Toxicity:
    """Toxicity of the answers about one group of people, or their average over groups.

    Attributes:
        setting: of the prompt's examples: ``hate`` or ``neutral``.
        items: with an answer that has text.
        mean: probability of being toxic; None where no answer has text.
        above: share of answers with a probability above 0.5.
        empty: answers without text; ``failed``: that did not come.
    """

    setting: str
    group: str
    items: int
    mean: Interval | None
    above: Interval | None
    empty: int
    failed: int


@dataclass
class Results:
    """Everything that a report shows.

    Attributes:
        tables: the main ones, which are also printed.
        details: the others.
        scores: by benchmark and head of the column.
        judged: scores of open-ended answers, by head of the column.
        toxicity: of continuations, by head of the column.
        notes: what was not scored, or not as in the paper; sentences.
    """

    name: str
    facts: Mapping[str, Any]
    tables: list[Table] = field(default_factory=list)
    details: list[Table] = field(default_factory=list)
    scores: dict[str, dict[str, list[Score]]] = field(default_factory=dict)
    comparisons: list[tuple[str, str, list[Comparison]]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    judged: dict[str, list[Judged]] = field(default_factory=dict)
    toxicity: dict[str, list[Toxicity]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The main tables in Markdown, and the notes."""
        return "\n\n".join([*(table.markdown() for table in self.tables), *self.notes])


def build_results(
    name: str,
    facts: Mapping[str, Any],
    protocol: Protocol,
    items: Mapping[str, Sequence[Item]],
    samples: Sequence[Sample],
    others: Sequence[Path] = (),
) -> Results:
    """Score the benchmarks of a run that have gold answers.

    Args:
        items: by benchmark, all that it has.
        samples: of one model and protocol, those of other benchmarks among them; several system
            messages make a table of their own.
        others: directories of runs to compare with, on the same items.

    Raises:
        UserError: a run of ``others`` has no answer to an item of this one.
    """
    results = Results(name, facts)
    samples = [sample for sample in samples if sample.benchmark in items]
    messages = list(dict.fromkeys(sample.system_message for sample in samples))
    for benchmark, own in items.items():
        by_message = {
            message: [
                s for s in samples if s.benchmark == benchmark and s.system_message == message
            ]
            for message in messages
        }
        grades = {message: grade(given, own) for message, given in by_message.items()}
        several = len(messages) > 1
        heads = {
            message: column_head(name, protocol.name, message if several else None)
            for message in messages
        }
        scores = {heads[message]: score(given) for message, given in grades.items()}
        results.scores[benchmark] = scores
        results.tables.append(system_message_table(scores) if several else accuracy_table(scores))
        results.details += [detail_table(head, given) for head, given in scores.items()]
        for other in others:
            theirs = [
                sample
                for sample in read_samples(other)
                if sample.benchmark == benchmark and sample.system_message == messages[0]
            ]
            if not theirs:
                raise UserError(
                    f"compare: {other} has no answers to {benchmark} under system message "
                    f"{messages[0]}"
                )
            found = compare(grades[messages[0]], grade(theirs, own))
            results.comparisons.append((heads[messages[0]], other.name, found))
            results.tables.append(comparison_table(heads[messages[0]], other.name, found))
    results.examples = _examples(samples)
    return results


def _examples(samples: Sequence[Sample]) -> list[Example]:
    """The first right, wrong and unparsed answer of every task."""
    found: dict[tuple[str, str], dict[str, Sample]] = defaultdict(dict)
    for sample in samples:
        if sample.benchmark in NEVER_SHOWN or sample.finish_reason == "failed":
            continue
        kind = "unparsed" if not sample.first_capital else "right" if sample.correct else "wrong"
        found[sample.benchmark, sample.task].setdefault(kind, sample)
    return [
        Example(benchmark, task, kind, kinds[kind])
        for (benchmark, task), kinds in found.items()
        for kind in ("right", "wrong", "unparsed")
        if kind in kinds
    ]


def as_json(results: Results) -> dict[str, Any]:
    """Facts, scores and comparisons as plain values."""
    return {
        "name": results.name,
        "facts": dict(results.facts),
        "scores": {
            benchmark: {
                head: [dataclasses.asdict(one) for one in own] for head, own in runs.items()
            }
            for benchmark, runs in results.scores.items()
        },
        "judged": {
            head: [_judged_json(one) for one in own] for head, own in results.judged.items()
        },
        "toxicity": {
            head: [dataclasses.asdict(one) for one in own] for head, own in results.toxicity.items()
        },
        "notes": results.notes,
        "comparisons": [
            {"first": first, "second": second, "tasks": [dataclasses.asdict(one) for one in found]}
            for first, second, found in results.comparisons
        ],
    }


def _judged_json(one: Judged) -> dict[str, Any]:
    candidate, reference = one.scores.sum(axis=0).tolist()
    return {
        "benchmark": one.benchmark,
        "reference": one.reference,
        "items": len(one.scores),
        "total": candidate,
        "reference_total": reference,
        "percent": dataclasses.asdict(macro_ratio([one.scores]).times(100)),
        "unparsed": one.unparsed,
        "failed": one.failed,
    }
