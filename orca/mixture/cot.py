"""FLAN's chain-of-thought tables: the plain questions and their inversions.

FLAN holds every one of its nine datasets twice: as questions, and with the roles of question,
answer and rationale exchanged. Both together are the 18 tasks and 150K queries of the paper.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from orca.errors import UserError
from orca.mixture.pool import Candidate, PoolFile, matching_files, rendered
from orca.mixture.rendering import bad_row, checked, pick
from orca.traces.files import open_rows
from orca.traces.formats import RowOrigin, read_flan_cot
from orca.traces.trace import BadRow

VERSION = 2
"""Of the rendering; another one renders cached files again."""

PREFIX = {
    **dict.fromkeys(
        ("gsm8k", "strategyqa", "creak", "qasc", "esnli", "ecqa", "sensemaking"), "cot"
    ),
    **dict.fromkeys(("aqua", "qed"), "stream"),
}
"""Datasets, each with the first word of its two task names in FLAN."""

INVERSIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "question_answer_to_rationale": (
        ("{question}\nThe answer is {answer}.\nExplain step by step why.", "{rationale}"),
        (
            "Question: {question}\nCorrect answer: {answer}\n"
            "Which reasoning leads from the question to this answer?",
            "{rationale}",
        ),
        (
            "Here is a question with its answer.\n\n{question}\n\nAnswer: {answer}\n\n"
            "Write down the reasoning that connects the two.",
            "{rationale}",
        ),
    ),
    "rationale_answer_to_question": (
        ("Reasoning: {rationale}\nAnswer: {answer}\nWhich question was asked?", "{question}"),
        (
            'Somebody came to the answer "{answer}" in this way:\n{rationale}\n'
            "Write the question that they had in front of them.",
            "{question}",
        ),
        (
            "Write a question that the following reasoning solves and whose answer is {answer}."
            "\n\n{rationale}",
            "{question}",
        ),
    ),
    "rationale_to_question_answer": (
        (
            "{rationale}\n\nWhich question does this reasoning solve, and what is the answer?",
            "Question: {question}\nAnswer: {answer}",
        ),
        (
            "Reasoning: {rationale}\nReconstruct the question and its answer.",
            "Question: {question}\nAnswer: {answer}",
        ),
        (
            "Read this explanation. Then state what was asked and what the final answer is.\n\n"
            "{rationale}",
            "Question: {question}\nAnswer: {answer}",
        ),
    ),
    "answer_to_question_rationale": (
        (
            'Make up a question whose answer is "{answer}", and explain how one gets there.',
            "Question: {question}\nExplanation: {rationale}",
        ),
        (
            "Answer: {answer}\nGive a question with this answer, then the reasoning behind it.",
            "Question: {question}\nExplanation: {rationale}",
        ),
        (
            'Which question could be answered with "{answer}"? Justify the answer step by step.',
            "Question: {question}\nExplanation: {rationale}",
        ),
    ),
}
"""FLAN's four kinds of inversion, each with layouts of (query, target) in our own words."""

CLOSED_ANSWERS = frozenset({"strategyqa", "creak", "qasc", "esnli", "sensemaking", "aqua"})
"""Datasets whose answer is a letter, yes or no: alone it asks nothing, and thousands of rows would
share one query. Their rows are not inverted from the answer alone."""

OPTIONS = re.compile(r"^options:", re.IGNORECASE | re.MULTILINE)


class CotTables:
    """Candidates of FLAN's CoT tables: columns question, answer, rationale; no header.

    The dataset is the file's name up to ``_train``. Layouts follow from dataset and row alone.

    Args:
        files: patterns of ``.tsv`` files (also ``.gz``, ``.zst``).
        inverted: adds a second candidate for every row, of the task ``cot_input_inversion_…``.
    """

    def __init__(self, files: str | Sequence[str], inverted: bool = True) -> None:
        self.files = files
        self.inverted = inverted

    def open(self, root: str | None) -> list[PoolFile]:
        """See :class:`orca.mixture.pool.Source`."""
        found = [(name, path, _dataset(path)) for name, path in matching_files(self.files, root)]
        settings = repr(("cot", VERSION, INVERSIONS, self.inverted))
        return [
            rendered(name, [path], settings, partial(self._render, path, dataset))
            for name, path, dataset in found
        ]

    def _render(self, path: Path, dataset: str) -> Iterator[Candidate]:
        task = f"{PREFIX[dataset]}_{dataset}"
        (rows,) = open_rows(glob.escape(str(path)))
        for number in range(len(rows)):
            line = rows.row_number(number)
            try:
                row = rows[number]
                trace = read_flan_cot(row, RowOrigin(id=""))
            except BadRow as error:
                yield bad_row(task, line, error.reason, error.detail)
                continue
            kind = _template_type(trace.query)
            yield checked(Candidate(task, trace.query, (trace.response,), line, "", kind))
            if self.inverted:
                yield checked(_inverted(dataset, line, row))


def _inverted(dataset: str, line: int, row: Mapping[str, str]) -> Candidate:
    kinds = [
        kind
        for kind in INVERSIONS
        if not (dataset in CLOSED_ANSWERS and kind == "answer_to_question_rationale")
    ]
    kind = kinds[pick(len(kinds), dataset, line, "kind")]
    layout = pick(len(INVERSIONS[kind]), dataset, line, "layout")
    texts = {name: text.replace("\\n", "\n").strip() for name, text in row.items()}
    texts["answer"] = texts["answer"].removesuffix(".")
    query, target = (text.format_map(texts) for text in INVERSIONS[kind][layout])
    task = f"{PREFIX[dataset]}_input_inversion_{dataset}"
    return Candidate(task, query, (target,), line, f"{kind}/{layout}", _template_type(query))


def _template_type(query: str) -> str:
    return "zs_opt" if OPTIONS.search(query) else "zs_noopt"


def _dataset(path: Path) -> str:
    name = path.name.split(".", 1)[0].removesuffix("_train")
    if name not in PREFIX:
        known = ", ".join(f"{one}_train.tsv" for one in PREFIX)
        raise UserError(f"{path}: unknown task {name!r}. FLAN's CoT files are {known}")
    return name
