"""BIG-Bench Hard, its 23 multiple-choice tasks: 5,511 items (arXiv 2210.09261).

The prompt is that of the paper's case study (section 11.2): the task's description, which is the
line that heads the authors' chain-of-thought prompt, then AGIEval's form. Tasks whose targets are
words get two options: Yes / No, True / False, valid / invalid, in the order in which the files that
list them do.

Three items are broken at the source, for their options were split at commas and the target is a
text: movie_recommendation 163, ruin_names 99 and 144 (rows from 0). ``REPAIRED`` joins them again.
Left as published, because their label is right or nobody knows better: 18 more items of
movie_recommendation that list a wrong option in two parts (3, 35, 56, 63, 66, 88, 92, 93, 96, 105,
125, 144, 145, 160, 172, 174, 194, 238), ruin_names 51 with three options, penguins_in_a_table 59
with four, snarks 86 with two equal options and snarks 88 with one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from orca.errors import UserError
from orca.evaluation.files import chosen_tasks, folder, json_of, tell_count, text_of, texts
from orca.evaluation.item import Item
from orca.evaluation.prompts import labels_of, lettered, zero_shot_prompt

SOURCE = "https://github.com/suzgunmirac/BIG-Bench-Hard"
TASKS = {
    "boolean_expressions": 250,
    "causal_judgement": 187,
    "date_understanding": 250,
    "disambiguation_qa": 250,
    "formal_fallacies": 250,
    "geometric_shapes": 250,
    "hyperbaton": 250,
    "logical_deduction_five_objects": 250,
    "logical_deduction_seven_objects": 250,
    "logical_deduction_three_objects": 250,
    "movie_recommendation": 250,
    "navigate": 250,
    "penguins_in_a_table": 146,
    "reasoning_about_colored_objects": 250,
    "ruin_names": 250,
    "salient_translation_error_detection": 250,
    "snarks": 178,
    "sports_understanding": 250,
    "temporal_sequences": 250,
    "tracking_shuffled_objects_five_objects": 250,
    "tracking_shuffled_objects_seven_objects": 250,
    "tracking_shuffled_objects_three_objects": 250,
    "web_of_lies": 250,
}
"""Items of each task, in the order of the paper's Table 11."""

WORDS = {
    "boolean_expressions": ("True", "False"),
    "causal_judgement": ("Yes", "No"),
    "formal_fallacies": ("valid", "invalid"),
    "navigate": ("Yes", "No"),
    "sports_understanding": ("yes", "no"),
    "web_of_lies": ("Yes", "No"),
}
"""Options of the tasks whose targets are words; three of these tasks list none."""

REPAIRED = {
    "movie_recommendation/163": (
        "Monsters, Inc",
        "Children of the Night",
        "The Incredible Shrinking Man",
        "Town & Country",
    ),
    "ruin_names/99": (
        "eareth, wind, & fire",
        "earth, bind, & fire",
        "earthm wind, & fire",
        "dearth, wind, & fire",
    ),
    "ruin_names/144": (
        "rita, sue and bob too",
        "rita, sue and bob poo",
        "rita, sue and box too",
        "rita,y sue and bob too",
    ),
}
"""Options of the broken items; their targets are texts of options."""


class BBH:
    """Reads ``path/bbh/<task>.json`` and ``path/bbh/cot-prompts/<task>.txt``.

    Args:
        path: folder that holds ``bbh/``.
        tasks: tasks, by the names of ``TASKS``; all of them by default.
    """

    name = "bbh"
    kind: Literal["multiple_choice"] = "multiple_choice"

    def __init__(self, path: str | None, tasks: Sequence[str] | None = None) -> None:
        self.path = path
        self.tasks = chosen_tasks(self.name, TASKS, tasks)

    def items(self) -> list[Item]:
        directory = folder(self.path, self.name, SOURCE)
        items: list[Item] = []
        for task in self.tasks:
            file = directory / f"{task}.json"
            description = _description(directory / "cot-prompts" / f"{task}.txt")
            examples = json_of(file, SOURCE)
            examples = examples.get("examples") if isinstance(examples, dict) else None
            if not isinstance(examples, list):
                raise UserError(f"{file}: holds no list 'examples'. Get it from {SOURCE}")
            tell_count(f"bbh/{task}", len(examples), TASKS[task])
            items += [_item(task, description, file, *pair) for pair in enumerate(examples)]
        return items


def _description(file: Path) -> str:
    """What follows the canary and a line of dashes."""
    lines = text_of(file, SOURCE).split("\n")
    if len(lines) < 3 or not lines[1].startswith("---") or not lines[2].strip():
        raise UserError(f"{file}: its third line is no description of the task. See {SOURCE}")
    return lines[2].strip().removeprefix("Task description: ")  # temporal_sequences has it


def _item(task: str, description: str, file: Path, row: int, example: Any) -> Item:
    where = f"{file}, example {row}"
    text, target = texts(example, ("input", "target"), where)
    question, options = _options(task, row, text, where)
    labels = labels_of(options)
    gold = [
        label
        for label, option in zip(labels, options, strict=True)
        if target == f"({label})" or target == option
    ]
    if len(gold) != 1:
        raise UserError(f"{where}: target {target!r:.40} is none of its {len(options)} options")
    prompt = zero_shot_prompt(
        question, lettered(options), f"Task description: {description}\n\n", break_before="\n"
    )
    return Item(f"bbh/{task}/{row}", "bbh", task, prompt, labels, options, tuple(gold))


def _options(task: str, row: int, text: str, where: str) -> tuple[str, tuple[str, ...]]:
    """Question and options; the files append the options to the question."""
    question, _, block = text.rpartition("\nOptions:\n")
    if task in WORDS:
        return question or text, WORDS[task]
    if not question:
        raise UserError(f"{where}: lists no options")
    if f"{task}/{row}" in REPAIRED:
        return question, REPAIRED[f"{task}/{row}"]
    listed = [re.fullmatch(r"\(([A-Z])\) (.+)", line) for line in block.split("\n")]
    found = [match for match in listed if match]
    if "".join(match[1] for match in found) != "".join(labels_of(block.split("\n"))):
        raise UserError(f"{where}: its options are not lines (A), (B) … in order")
    return question, tuple(match[2] for match in found)
