"""Open-ended prompts, answered freely and scored by a judge: Vicuna 80, Awesome 164, WizardLM 218.

Vicuna's are the questions that FastChat published with its judge (nine categories); Awesome's the
roles of awesome-chatgpt-prompts on 24 June 2023, the first day on which there were the paper's 164;
WizardLM's the test set of that project, of 29 skills. A prompt is asked as it stands.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Literal

from orca.errors import UserError
from orca.evaluation.files import folder, json_lines_of, tell_count, text_of, texts
from orca.evaluation.item import Item


class Vicuna:
    """Reads ``path/vicuna/2023_eval/question.jsonl``; an item's group is its category.

    Args:
        path: folder that holds ``vicuna/``.
    """

    name = "vicuna"
    kind: Literal["judged"] = "judged"
    source = "https://github.com/lm-sys/FastChat (fastchat/eval/table before its llm_judge)"

    def __init__(self, path: str | None) -> None:
        self.path = path

    def items(self) -> list[Item]:
        file = folder(self.path, self.name, self.source) / "2023_eval" / "question.jsonl"
        items = []
        for row, value in json_lines_of(file, self.source):
            where = f"{file}, row {row}"
            prompt, category = texts(value, ("text", "category"), where)
            number = _whole(value, "question_id", where)
            items.append(_item(self.name, number, prompt, category))
        return _checked(items, file, 80)


class Awesome:
    """Reads ``path/awesome_prompts/prompts.csv``; an item's group is its act, the role to play.

    Args:
        path: folder that holds ``awesome_prompts/``.
    """

    name = "awesome"
    kind: Literal["judged"] = "judged"
    source = "https://github.com/f/awesome-chatgpt-prompts (commit d7ac663e)"

    def __init__(self, path: str | None) -> None:
        self.path = path

    def items(self) -> list[Item]:
        file = folder(self.path, "awesome_prompts", self.source) / "prompts.csv"
        rows = csv.DictReader(io.StringIO(text_of(file, self.source), newline=""))
        items = []
        for row, value in enumerate(rows):
            prompt, act = texts(value, ("prompt", "act"), f"{file}, row {row}")
            items.append(_item(self.name, row, prompt, act))
        return _checked(items, file, 164)


class WizardLM:
    """Reads ``path/wizardlm/WizardLM_testset.jsonl``; an item's group is its skill.

    Args:
        path: folder that holds ``wizardlm/``.
    """

    name = "wizardlm"
    kind: Literal["judged"] = "judged"
    source = "https://github.com/nlpxucan/WizardLM (data/WizardLM_testset.jsonl)"

    def __init__(self, path: str | None) -> None:
        self.path = path

    def items(self) -> list[Item]:
        file = folder(self.path, self.name, self.source) / "WizardLM_testset.jsonl"
        items = []
        for row, value in json_lines_of(file, self.source):
            where = f"{file}, row {row}"
            prompt, skill = texts(value, ("Instruction", "Skill"), where)
            items.append(_item(self.name, _whole(value, "idx", where), prompt, skill))
        return _checked(items, file, 218)


def _item(benchmark: str, number: int, prompt: str, group: str) -> Item:
    return Item(f"{benchmark}/{number}", benchmark, benchmark, prompt, group=group)


def _whole(row: dict[str, Any], field: str, where: str) -> int:
    if type(row.get(field)) is not int:
        raise UserError(f"{where}: field {field!r} holds no whole number ({row.get(field)!r:.40})")
    number: int = row[field]
    return number


def _checked(items: list[Item], file: Path, expected: int) -> list[Item]:
    """Every prompt has text and a number of its own; the count is told where it is another."""
    ids = set()
    for item in items:
        if item.id in ids:
            raise UserError(f"{file}: {item.id} is there twice")
        if not item.prompt.strip():
            raise UserError(f"{file}: {item.id} has an empty prompt")
        ids.add(item.id)
    if not items:
        raise UserError(f"{file}: no prompts")
    tell_count(items[0].benchmark, len(items), expected)
    return items
