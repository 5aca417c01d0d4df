"""Questions with a short answer in the model's own words: GSM8K, and held-out traces.

They are no part of the paper's evaluation; they measure what was trained. A response is read by
:func:`orca.answers.is_exact_answer`: the answer that it states or, where it states none, its last
number or option letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from orca.answers import plain
from orca.errors import UserError
from orca.evaluation.files import folder, json_lines_of, tell_count, texts
from orca.evaluation.item import Item
from orca.traces import BadRow, TraceSource

GSM8K_SOURCE = "https://github.com/openai/grade-school-math"
MARK = "####"


class GSM8K:
    """Reads ``path/gsm8k/test.jsonl``: 1,319 word problems (arXiv 2110.14168), asked as they stand.

    Args:
        path: folder that holds ``gsm8k/``.
    """

    name = "gsm8k"
    kind: Literal["free_answer"] = "free_answer"

    def __init__(self, path: str | None) -> None:
        self.path = path

    def items(self) -> list[Item]:
        file = folder(self.path, self.name, GSM8K_SOURCE) / "test.jsonl"
        items = []
        for row, value in json_lines_of(file, GSM8K_SOURCE):
            question, answer = texts(value, ("question", "answer"), f"{file}, row {row}")
            if answer.count(MARK) != 1:
                raise UserError(f"{file}, row {row}: no answer after one {MARK}")
            gold = plain(answer.split(MARK)[1])
            items.append(Item(f"gsm8k/{row}", self.name, self.name, question, gold=(gold,)))
        tell_count(self.name, len(items), 1319)
        return items


class HeldOutTraces:
    """Traces with gold answers that were not trained on; their tasks are the benchmark's.

    The traces' own system messages and responses are not used.

    Args:
        files, format, path: as in :class:`orca.traces.TraceSource`.
        tasks: only these; None for all.
    """

    name = "held_out"
    kind: Literal["free_answer"] = "free_answer"

    def __init__(
        self,
        files: str | Sequence[str],
        format: str,
        path: str | None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        self.source = TraceSource(files, format, path)
        self.tasks = tasks

    def items(self) -> list[Item]:
        items = []
        for number in range(len(self.source)):
            try:
                trace = self.source[number]
            except BadRow as error:
                raise UserError(f"{self.source.locate(number)}: {error.detail}") from None
            if not trace.gold_answer:
                raise UserError(f"{self.source.locate(number)}: it has no gold_answer to score by")
            if self.tasks is None or trace.task in self.tasks:
                id = f"held_out/{trace.task}/{trace.id}"
                items.append(
                    Item(id, self.name, trace.task, trace.query, gold=(trace.gold_answer,))
                )
        unknown = set(self.tasks or ()) - {item.task for item in items}
        if unknown:
            raise UserError(
                f"benchmark.held_out.tasks: no trace is of {', '.join(sorted(unknown))}"
            )
        if len({item.id for item in items}) < len(items):
            raise UserError("benchmark.held_out: two traces have the same task and id")
        return items
