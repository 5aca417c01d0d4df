"""From the samples of a run to its tables, its comparisons and examples to read."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca.errors import UserError
from orca.evaluation.ask import read_again
from orca.evaluation.comparison import Comparison, compare
from orca.evaluation.item import NEVER_SHOWN, Item, Sample
from orca.evaluation.open_ended_tables import Judged
from orca.evaluation.protocol import Protocol
from orca.evaluation.records import read_facts, read_samples
from orca.evaluation.scores import Score, TaskGrades, grade, score
from orca.evaluation.statistics import Interval, macro_ratio
from orca.evaluation.table import Table
from orca.evaluation.tables import (
    accuracy_table,
    averages_table,
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
        facts: model, protocol, data: what all answers have in common.
        about: how much was asked, and when; sentences by what they are of.
        tables: the main ones, which are also printed.
        details: the others.
        scores: by benchmark and head of the column.
        judged: scores of open-ended answers, by head of the column.
        toxicity: of continuations, by head of the column.
        notes: what was not scored, or not as in the paper; sentences.
    """

    name: str
    facts: Mapping[str, Any]
    about: Mapping[str, str] = field(default_factory=dict)
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
        others: directories of runs to compare with, on the same items. Their model and protocol
            may be others.

    Raises:
        UserError: a run of ``others`` has no answer to an item of this one, or answered other data.
    """
    results = Results(name, facts)
    samples = [sample for sample in samples if sample.benchmark in items]
    messages = list(dict.fromkeys(sample.system_message for sample in samples))
    several = len(messages) > 1
    heads = {m: column_head(name, protocol.name, m if several else None) for m in messages}
    for benchmark, own in items.items():
        grades = {
            message: grade(
                [s for s in samples if s.benchmark == benchmark and s.system_message == message],
                own,
            )
            for message in messages
        }
        results.notes += _unanswered(benchmark, samples, grades)
        common = set.intersection(*({one.task for one in given} for given in grades.values()))
        if not common:
            continue
        grades = {m: [one for one in given if one.task in common] for m, given in grades.items()}
        scores = {heads[message]: score(given) for message, given in grades.items()}
        results.scores[benchmark] = scores
        results.tables.append(system_message_table(scores) if several else accuracy_table(scores))
        results.details += [detail_table(head, given) for head, given in scores.items()]
        for other in others:
            head, theirs = _other_run(other, facts, benchmark, own, messages[0])
            found = compare(grades[messages[0]], theirs)
            results.comparisons.append((heads[messages[0]], head, found))
            results.tables.append(comparison_table(heads[messages[0]], head, found))
    if results.scores:
        results.tables.insert(0, averages_table(results.scores))
    results.notes += [note for other in others for note in _differences(other, facts)]
    results.examples = _examples(samples)
    return results


def _unanswered(
    benchmark: str, samples: Sequence[Sample], grades: Mapping[int, Sequence[TaskGrades]]
) -> list[str]:
    """A sentence for each task to which no answer came."""
    notes = []
    for message, given in grades.items():
        own = [s for s in samples if s.benchmark == benchmark and s.system_message == message]
        answered = {one.task for one in given}
        for task in dict.fromkeys(s.task for s in own if s.task not in answered):
            failed = [s for s in own if s.task == task]
            notes.append(
                f"{benchmark}/{task}: no answer came to any of its {len(failed)} requests under "
                f"system message {message}, so it is in no table and no average. The first failed "
                f"with: {failed[0].error}"
            )
    return notes


def check_others(directories: Sequence[str]) -> list[Path]:
    """The runs to compare with.

    Raises:
        UserError: one is no run, or it is not a list.
    """
    if isinstance(directories, str):
        raise UserError(f"compare={directories}: a list, as compare=[{directories}]")
    others = [Path(directory) for directory in directories]
    for other in others:
        read_facts(other)
    return others


def _other_run(
    directory: Path, facts: Mapping[str, Any], benchmark: str, items: Sequence[Item], message: int
) -> tuple[str, list[TaskGrades]]:
    """The head of its column, and its grades on the same items."""
    known = read_facts(directory)
    samples = [
        sample
        for sample in read_samples(directory)
        if sample.benchmark == benchmark and sample.system_message == message
    ]
    if not samples:
        raise UserError(
            f"compare: {directory} has no answers to {benchmark} under system message {message}"
        )
    data = f"data {benchmark}"
    if known.get(data) != facts.get(data):
        raise UserError(
            f"compare: {directory} answered another {benchmark} (fingerprint {known.get(data)}, "
            f"here {facts.get(data)}): other files, tasks or order of options. Evaluate both on "
            "the same data"
        )
    protocol = known.get("protocol")
    if isinstance(protocol, dict) and protocol["kind"] == "generate":
        samples = read_again(samples, items)
    named = protocol["name"] if isinstance(protocol, dict) else str(protocol)
    return column_head(directory.name, named), grade(samples, items)


def _differences(directory: Path, facts: Mapping[str, Any]) -> list[str]:
    """What else than the model is not the same in the other run: a sentence, or none."""
    theirs, mine = read_facts(directory).get("protocol"), facts.get("protocol")
    if not (isinstance(theirs, dict) and isinstance(mine, dict)) or theirs == mine:
        return []
    other = [f"{k} {theirs.get(k)} (here {v})" for k, v in mine.items() if theirs.get(k) != v]
    return [
        f"{directory.name} was asked by another protocol: {', '.join(other)}. A difference to it "
        "is one of model and protocol."
    ]


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
        "about": dict(results.about),
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
