"""What became of held-out questions: the same question before training and after each stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orca.report.directory import Run
from orca.traces import match_system_message

MOST = 60
"""Questions on a page; all are in samples.jsonl."""

KINDS = {
    "learned": "wrong before, right after",
    "lost": "right before, wrong after",
    "right": "right before and after",
    "wrong": "wrong before and after",
    "unscored": "without a gold answer",
    "asked": "asked once so far",
}
"""What can become of a question, and what it means."""


@dataclass(frozen=True)
class Answer:
    """A response: ``when`` it was given, and whether it states the gold answer (None: no gold)."""

    when: str
    text: str
    exact: bool | None


@dataclass(frozen=True)
class Question:
    """A held-out question with all answers to it, in time.

    Attributes:
        message: number of its system message in the paper's Table 2, or None.
        kind: one of :data:`KINDS`.
    """

    id: str
    task: str
    system_message: str
    message: int | None
    query: str
    gold: str | None
    answers: tuple[Answer, ...]
    kind: str


def questions(run: Run) -> list[Question]:
    """Every question with its first and its last answer of each stage.

    A stage that starts from another one begins with the other's last answers: they stand once.
    """
    names = {stage.name for stage in run.stages}
    found: dict[str, dict[str, Any]] = {}
    answers: dict[str, list[Answer]] = defaultdict(list)
    for stage in run.stages:
        by_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in stage.samples:
            by_id[row["id"]].append(row)
        for id, rows in by_id.items():
            found[id] = rows[0]
            first, last = rows[0], rows[-1]
            if stage.start_from not in names or not answers[id]:
                answers[id].append(_answer(f"before {stage.name}", first))
            if last["step"] > first["step"]:
                when = "after" if stage.results else f"at step {last['step']} of"
                answers[id].append(_answer(f"{when} {stage.name}", last))
    return [_question(row, tuple(answers[id])) for id, row in found.items()]


def counts(asked: Iterable[Question]) -> dict[str, int]:
    """How many of each kind, in the order of :data:`KINDS`."""
    kinds = [one.kind for one in asked]
    return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}


def chosen(asked: list[Question], most: int = MOST) -> list[Question]:
    """At most ``most``: the kinds in turn, and of each the tasks in turn."""
    queues: dict[str, list[Question]] = {}
    for kind in KINDS:
        tasks: dict[str, list[Question]] = defaultdict(list)
        for one in asked:
            if one.kind == kind:
                tasks[one.task].append(one)
        queues[kind] = [own[i] for i in range(len(asked)) for own in tasks.values() if i < len(own)]
    turns = [own[i] for i in range(len(asked)) for own in queues.values() if i < len(own)]
    kept = {id(one) for one in turns[:most]}
    return [one for own in queues.values() for one in own if id(one) in kept]


def _answer(when: str, row: dict[str, Any]) -> Answer:
    return Answer(when, str(row["response"]), row["exact"])


def _question(row: dict[str, Any], answers: tuple[Answer, ...]) -> Question:
    before, after = answers[0].exact, answers[-1].exact
    if before is None or after is None:
        kind = "unscored"
    elif len(answers) == 1:
        kind = "asked"
    else:
        kind = {(False, True): "learned", (True, False): "lost"}.get(
            (before, after), "right" if after else "wrong"
        )
    return Question(
        str(row["id"]),
        str(row["task"] or ""),
        row["system_message"],
        match_system_message(row["system_message"]),
        row["query"],
        row["gold_answer"],
        answers,
        kind,
    )
