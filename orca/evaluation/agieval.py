"""AGIEval: eight English multiple-choice sets, 2,546 items (arXiv 2304.06364).

The files are those of release 1.1. In release 1.0, which a paper of June 2023 must have used, three
questions of SAT English (rows 16, 56, 97 of both sets) list three of their four options, one of
them without its gold option; everything else is the same. In four items of aqua-rat (117, 124,
126, 193) another option has the gold option's text: as in the paper, only the published label is
right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from orca.errors import UserError
from orca.evaluation.files import chosen_tasks, folder, json_lines_of, tell_count, texts
from orca.evaluation.item import Item
from orca.evaluation.prompts import labels_of, zero_shot_prompt

SOURCE = "https://github.com/ruixiangcui/AGIEval (data/v1_1)"
TASKS = {
    "aqua-rat": 254,
    "logiqa-en": 651,
    "lsat-ar": 230,
    "lsat-lr": 510,
    "lsat-rc": 269,
    "sat-math": 220,
    "sat-en": 206,
    "sat-en-without-passage": 206,
}
"""Items of each set, in the order of the paper's Table 8."""


class AGIEval:
    """Reads ``path/agieval/<set>.jsonl``.

    Args:
        path: folder that holds ``agieval/``.
        tasks: sets, by the names of ``TASKS``; all of them by default.
    """

    name = "agieval"
    kind: Literal["multiple_choice"] = "multiple_choice"

    def __init__(self, path: str | None, tasks: Sequence[str] | None = None) -> None:
        self.path = path
        self.tasks = chosen_tasks(self.name, TASKS, tasks)

    def items(self) -> list[Item]:
        directory = folder(self.path, self.name, SOURCE)
        items: list[Item] = []
        for task in self.tasks:
            file = directory / f"{task}.jsonl"
            rows = [_item(task, file, row, value) for row, value in json_lines_of(file, SOURCE)]
            tell_count(f"agieval/{task}", len(rows), TASKS[task])
            items += rows
        return items


def _item(task: str, file: Path, row: int, value: Any) -> Item:
    where = f"{file}, row {row}"
    question, label = texts(value, ("question", "label"), where)
    passage, listed = value.get("passage") or "", value.get("options")
    if not isinstance(passage, str):
        raise UserError(f"{where}: field 'passage' holds no text ({passage!r:.40})")
    if not isinstance(listed, list) or not all(isinstance(option, str) for option in listed):
        raise UserError(f"{where}: field 'options' is no list of texts ({listed!r:.40})")
    labels = labels_of(listed)
    if label not in labels:
        raise UserError(f"{where}: label {label!r:.40} is none of its {len(listed)} options")
    return Item(
        id=f"agieval/{task}/{row}",
        benchmark="agieval",
        task=task,
        prompt=zero_shot_prompt(question, listed, passage),
        labels=labels,
        options=tuple(map(_without_id, listed, labels)),
        gold=(label,),
    )


def _without_id(option: str, label: str) -> str:
    # In logiqa-en some ids lack their parentheses ("B Third", "C? Geng is …"), and three are gone.
    return re.sub(rf"^(?:\({label}\)|{label}\??\s)\s*", "", option).strip()
