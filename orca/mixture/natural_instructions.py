"""Super-Natural-Instructions (NIv2): a task's definition and an instance, in FLAN's layouts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from orca.errors import UserError
from orca.mixture.pool import Candidate, PoolFile, matching_files, rendered
from orca.mixture.rendering import bad_row, checked, pick
from orca.traces.trace import BadRow

VERSION = 1
"""Of the rendering; another one renders cached files again."""

LAYOUTS = (
    "{Definition}\n\n{input}",
    "You will be given a definition of a task first, then some input of the task.\n"
    "{Definition}\n\n{input}\nOutput:",
    "Definition: {Definition}\nInput: {input}\nOutput:",
    "Instructions: {Definition}\nInput: {input}\nOutput:",
    "{Definition}\nQ: {input}\nA: ",
    "Given the task definition and input, reply with output. {Definition}\n\n{input}\n",
    "Teacher:{Definition}\nTeacher: Now, understand the problem? Solve this instance: {input}\n"
    "Student:",
    "Q: {Definition}\n{input}\nA:",
    "Detailed Instructions: {Definition}\nProblem:{input}\nSolution:",
    "Detailed Instructions: {Definition}\nQ: {input}\nA:",
)
"""FLAN's zero-shot layouts (google-research/FLAN, flan/v2/templates.py): data, kept as they are."""


class NaturalInstructions:
    """Candidates of Super-Natural-Instructions: one an instance, with all its gold outputs.

    The task is the file's name; the layout follows from task and instance number alone. A task may
    have several wordings of its definition: the first is used. White space around definition,
    input and outputs is removed, and outputs that are equal then are kept once.

    Args:
        files: patterns of task files (``task1234_….json``).
    """

    def __init__(self, files: str | Sequence[str]) -> None:
        self.files = files

    def open(self, root: str | None) -> list[PoolFile]:
        """See :class:`orca.mixture.pool.Source`.

        Raises:
            UserError: a file is no task file.
        """
        settings = repr(("niv2", VERSION, LAYOUTS))
        return [
            rendered(name, [path], settings, partial(_render, path))
            for name, path in tqdm(
                matching_files(self.files, root), "NIv2", unit=" tasks", delay=10
            )
        ]


def _render(path: Path) -> Iterator[Candidate]:
    definition, instances = _read(path)
    task = path.stem
    for number, instance in enumerate(instances, start=1):
        try:
            text, outputs = _read_instance(instance)
        except BadRow as error:
            yield bad_row(task, number, error.reason, error.detail)
            continue
        layout = pick(len(LAYOUTS), task, number)
        query = LAYOUTS[layout].format(Definition=definition, input=text)
        yield checked(Candidate(task, query, outputs, number, f"niv2/{layout}", "zs_opt"))


def _read(path: Path) -> tuple[str, list[Any]]:
    """Definition and instances of a task file."""
    try:
        task = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON object ({error}). Is the file complete?") from None
    if not isinstance(task, dict):
        raise UserError(f"{path}: holds {type(task).__name__}, not the JSON object of a task")
    for name in ("Definition", "Instances"):
        if name not in task:
            raise UserError(f"{path}: no field {name!r}, so this is no Natural-Instructions task")
    definition = task["Definition"]
    if isinstance(definition, list) and definition:
        definition = definition[0]
    if not isinstance(definition, str) or not definition.strip():
        raise UserError(f"{path}: field 'Definition' holds no text")
    if not isinstance(task["Instances"], list):
        raise UserError(f"{path}: field 'Instances' is no list")
    return definition.strip(), task["Instances"]


def _read_instance(instance: Any) -> tuple[str, tuple[str, ...]]:
    """Input and gold outputs; raises :class:`BadRow`."""
    if not isinstance(instance, dict):
        raise BadRow("wrong_type", f"the instance is {type(instance).__name__}, not an object")
    text, outputs = instance.get("input"), instance.get("output")
    if text is None:
        raise BadRow("missing_field", "the instance has no field 'input'")
    if not isinstance(text, str):
        raise BadRow("wrong_type", f"field 'input' is {type(text).__name__}, not text")
    if not text.strip():
        raise BadRow("empty_field", "field 'input' is empty")
    if outputs is None:
        raise BadRow("missing_target", "the instance has no field 'output'")
    if not isinstance(outputs, list) or not all(isinstance(one, str) for one in outputs):
        raise BadRow("wrong_type", "field 'output' is no list of texts")
    gold = dict.fromkeys(one.strip() for one in outputs if one.strip())
    if not gold:
        raise BadRow("missing_target", "field 'output' holds no text")
    return text.strip(), tuple(gold)
