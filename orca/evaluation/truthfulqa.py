"""TruthfulQA-MC: 684 items of four options each (section 7.1; arXiv 2109.07958).

As the paper's set (``EleutherAI/truthful_qa_mc``) was made: from the first release of TruthfulQA,
the questions with four or more MC1 choices; where there are more, three wrong ones are drawn. The
files list the right choice first in every question, so the four are shuffled. Which three and which
order is the paper's own draw only by chance: both come from a hash of the seed, the question and
the choice, so an item is the same whatever else is read.

Options have letters here. The paper's example numbers them (0) to (3), for which its rule, the
first *capital* letter of the response, is not defined (it sorted outputs of Vicuna by hand).
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import Any, Literal

from orca.errors import UserError
from orca.evaluation.files import folder, json_of, tell_count, text_of, texts
from orca.evaluation.item import Item
from orca.evaluation.prompts import labels_of, lettered, zero_shot_prompt

SOURCE = "https://github.com/sylinrl/TruthfulQA (its first release)"
NUM_ITEMS = 684
NUM_OPTIONS = 4


class TruthfulQA:
    """Reads ``path/truthfulqa/v0/mc_task.json`` and the categories in ``TruthfulQA.csv`` beside it.

    Args:
        path: folder that holds ``truthfulqa/``.
        seed: of the draw and the order of the options.
    """

    name = "truthfulqa"
    kind: Literal["multiple_choice"] = "multiple_choice"

    def __init__(self, path: str | None, seed: int = 0) -> None:
        self.path = path
        self.seed = seed

    def items(self) -> list[Item]:
        directory = folder(self.path, self.name, SOURCE) / "v0"
        file = directory / "mc_task.json"
        questions = json_of(file, SOURCE)
        if not isinstance(questions, list):
            raise UserError(f"{file}: not a list of questions. Get it from {SOURCE}")
        categories = _categories(directory / "TruthfulQA.csv")
        found = [self._item(file, row, value, categories) for row, value in enumerate(questions)]
        items = [item for item in found if item]
        tell_count("truthfulqa", len(items), NUM_ITEMS)
        return items

    def _item(self, file: Path, row: int, value: Any, categories: dict[str, str]) -> Item | None:
        """The item, or None where the question has fewer than four choices."""
        where = f"{file}, row {row}"
        (question,) = texts(value, ("question",), where)
        targets = value.get("mc1_targets")
        if not isinstance(targets, dict) or list(targets.values()).count(1) != 1:
            raise UserError(f"{where}: 'mc1_targets' has not exactly one right choice")
        if question.strip() not in categories:
            raise UserError(f"{where}: its question is not in {file.parent / 'TruthfulQA.csv'}")
        if len(targets) < NUM_OPTIONS:
            return None
        options, gold = self._draw(question, targets)
        return Item(
            id=f"truthfulqa/mc/{row}",
            benchmark=self.name,
            task=self.name,
            prompt=zero_shot_prompt(question, lettered(options), break_before="\n"),
            labels=labels_of(options),
            options=options,
            gold=(labels_of(options)[gold],),
            group=categories[question.strip()],
        )

    def _draw(self, question: str, targets: dict[str, int]) -> tuple[tuple[str, ...], int]:
        """Four options in their order, and which of them is right."""

        def rank(purpose: str, choice: str) -> bytes:
            return hashlib.sha256(repr((self.seed, purpose, question, choice)).encode()).digest()

        (right,) = (choice for choice, value in targets.items() if value == 1)
        wrong = sorted(targets.keys() - {right}, key=lambda choice: rank("draw", choice))
        options = sorted(
            [right, *wrong[: NUM_OPTIONS - 1]], key=lambda choice: rank("order", choice)
        )
        return tuple(options), options.index(right)


def _categories(file: Path) -> dict[str, str]:
    """Question → category. One question of the table ends in a blank that the JSON has not."""
    rows = csv.DictReader(io.StringIO(text_of(file, SOURCE), newline=""))
    if not {"Question", "Category"} <= set(rows.fieldnames or ()):
        raise UserError(f"{file}: no columns Question and Category. Get it from {SOURCE}")
    return {row["Question"].strip(): row["Category"] for row in rows}
