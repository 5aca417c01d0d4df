"""The scores that the paper prints (arXiv 2306.02707), in per cent, to stand beside new ones.

Cells are as printed: one decimal, two in the FLAN-1M column. The tasks' names are those of the
public files. Accuracy on TruthfulQA-MC (Figures 14 and 15) and toxicity (Figures 18 and 19) are
graphics without numbers, so there is nothing of them here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import mean
from types import MappingProxyType

VICUNA = "Vicuna-13B"
ORCA = "Orca-13B"


@dataclass(frozen=True)
class PaperTable:
    """A table of accuracies.

    Attributes:
        source: number of the table.
        tasks: the paper's name of each task, by the name of its file.
        columns: for each model (or system message) its cells in the order of ``tasks``.
        averages: as printed below each column; plain means over the tasks.
    """

    source: str
    tasks: Mapping[str, str]
    columns: Mapping[str, tuple[float, ...]]
    averages: Mapping[str, float]

    def cell(self, column: str, task: str) -> float | None:
        """None: the paper has no such task."""
        names = list(self.tasks)
        return self.columns[column][names.index(task)] if task in names else None

    def average(self, column: str, tasks: Collection[str]) -> float | None:
        """As printed over all tasks, else over the cells of ``tasks``; None: one has no cell."""
        if set(tasks) == set(self.tasks):
            return self.averages[column]
        cells = [self.cell(column, task) for task in tasks]
        known = [cell for cell in cells if cell is not None]
        return round(mean(known), 1) if cells and len(known) == len(cells) else None


@dataclass(frozen=True, slots=True)
class OpenEnded:
    """A row of Table 7: the candidate's total score in per cent of the reference's.

    Attributes:
        gain: of Orca over Vicuna in per cent, as printed.
    """

    benchmark: str
    reference: str
    vicuna: float
    orca: float
    gain: float


def _by_column(
    heads: tuple[str, ...], rows: tuple[tuple[float, ...], ...]
) -> Mapping[str, tuple[float, ...]]:
    return MappingProxyType(dict(zip(heads, zip(*rows, strict=True), strict=True)))


_AGIEVAL_TASKS = MappingProxyType(
    {
        "aqua-rat": "AQuA-RAT",
        "logiqa-en": "LogiQA",
        "lsat-ar": "LSAT-AR",
        "lsat-lr": "LSAT-LR",
        "lsat-rc": "LSAT-RC",
        "sat-math": "SAT-Math",
        "sat-en": "SAT-English",
        "sat-en-without-passage": "SAT-English w/o passage",
    }
)

AGIEVAL = PaperTable(
    "Table 8",
    _AGIEVAL_TASKS,
    _by_column(
        ("human average", "human top", "TD-003", "ChatGPT", "GPT-4", VICUNA, ORCA),
        (
            (85, 100, 29.9, 31.9, 40.6, 20.1, 27.9),
            (86, 95, 22.7, 35.0, 49.3, 29.8, 35.2),
            (56, 91, 21.7, 24.4, 35.2, 20.4, 21.3),
            (56, 91, 47.5, 52.6, 80.6, 32.6, 43.9),
            (56, 91, 64.7, 65.4, 85.9, 32.7, 57.3),
            (66, 94, 35.5, 42.7, 64.6, 28.6, 32.3),
            (66, 94, 74.8, 81.1, 88.8, 44.2, 76.7),
            (66, 94, 38.4, 44.2, 51.0, 26.2, 38.8),
        ),
    ),
    MappingProxyType(
        {
            "human average": 67.1,
            "human top": 93.8,
            "TD-003": 41.9,
            "ChatGPT": 47.2,
            "GPT-4": 62.0,
            VICUNA: 29.3,
            ORCA: 41.7,
        }
    ),
)

SYSTEM_MESSAGE_IDS: Mapping[int, str] = MappingProxyType(
    {1: "empty", 5: "follow well", 2: "detailed answer"}
)
"""What Table 9 calls the system messages, by their ids in Table 2."""

SYSTEM_MESSAGES = PaperTable(
    "Table 9",
    _AGIEVAL_TASKS,
    _by_column(
        ("empty", "follow well", "detailed answer"),
        (
            (27.9, 21.3, 25.2),
            (35.2, 36.4, 37.2),
            (21.3, 19.6, 20.9),
            (43.9, 44.3, 44.3),
            (57.3, 60.2, 61.7),
            (32.3, 27.3, 30.0),
            (76.7, 73.8, 74.3),
            (38.8, 39.3, 38.8),
        ),
    ),
    MappingProxyType({"empty": 41.7, "follow well": 40.3, "detailed answer": 41.6}),
)

FLAN_1M_ONLY = PaperTable(
    "Table 10",
    _AGIEVAL_TASKS,
    _by_column(
        ("FLAN-1M only", ORCA),
        (
            (21.65, 27.9),
            (31.95, 35.2),
            (18.7, 21.3),
            (41.76, 43.9),
            (51.67, 57.3),
            (26.82, 32.3),
            (68.45, 76.7),
            (36.41, 38.8),
        ),
    ),
    MappingProxyType({"FLAN-1M only": 37.18, ORCA: 41.7}),
)

BBH = PaperTable(
    "Table 11",
    MappingProxyType(
        {
            "boolean_expressions": "Boolean Expressions",
            "causal_judgement": "Causal Judgement",
            "date_understanding": "Date Understanding",
            "disambiguation_qa": "Disambiguation QA",
            "formal_fallacies": "Formal Fallacies",
            "geometric_shapes": "Geometric Shapes",
            "hyperbaton": "Hyperbaton",
            "logical_deduction_five_objects": "Logical Deduction (5 objects)",
            "logical_deduction_seven_objects": "Logical Deduction (7 objects)",
            "logical_deduction_three_objects": "Logical Deduction (3 objects)",
            "movie_recommendation": "Movie Recommendation",
            "navigate": "Navigate",
            "penguins_in_a_table": "Penguins in a Table",
            "reasoning_about_colored_objects": "Reasoning about Colored Objects",
            "ruin_names": "Ruin Names",
            "salient_translation_error_detection": "Salient Translation Error Detection",
            "snarks": "Snarks",
            "sports_understanding": "Sports Understanding",
            "temporal_sequences": "Temporal Sequences",
            "tracking_shuffled_objects_five_objects": "Tracking Shuffled Objects (5 objects)",
            "tracking_shuffled_objects_seven_objects": "Tracking Shuffled Objects (7 objects)",
            "tracking_shuffled_objects_three_objects": "Tracking Shuffled Objects (3 objects)",
            "web_of_lies": "Web of Lies",
        }
    ),
    _by_column(
        ("ChatGPT", "GPT-4", VICUNA, ORCA),
        (
            (82.8, 77.6, 40.8, 72.0),
            (57.2, 59.9, 42.2, 59.9),
            (42.8, 74.8, 10.0, 50.0),
            (57.2, 69.2, 18.4, 63.6),
            (53.6, 64.4, 47.2, 56.0),
            (25.6, 40.8, 3.6, 20.8),
            (69.2, 62.8, 44.0, 64.0),
            (38.8, 66.8, 4.8, 39.6),
            (39.6, 66.0, 1.2, 36.0),
            (60.4, 94.0, 16.8, 57.6),
            (55.4, 79.5, 43.4, 78.3),
            (55.6, 68.8, 46.4, 57.6),
            (45.9, 76.7, 15.1, 42.5),
            (47.6, 84.8, 12.0, 48.4),
            (56.0, 89.1, 15.7, 39.5),
            (40.8, 62.4, 2.0, 40.8),
            (59.0, 87.6, 28.1, 62.4),
            (79.6, 84.4, 48.4, 67.2),
            (35.6, 98.0, 16.0, 72.0),
            (18.4, 25.2, 9.2, 15.6),
            (15.2, 25.2, 5.6, 14.0),
            (31.6, 42.4, 23.2, 34.8),
            (56.0, 49.6, 41.2, 51.2),
        ),
    ),
    MappingProxyType({"ChatGPT": 48.9, "GPT-4": 67.4, VICUNA: 23.3, ORCA: 49.7}),
)

TABLES: Mapping[str, PaperTable] = MappingProxyType({"agieval": AGIEVAL, "bbh": BBH})
"""By benchmark: the table that new scores stand in."""

GAINS: Mapping[str, float] = MappingProxyType({"agieval": 42.1, "bbh": 113.7})
"""Of Orca's average over Vicuna's in per cent, as printed in Tables 8 and 11."""

OPEN_ENDED = (
    OpenEnded("vicuna", "ChatGPT", 92.0, 101.5, 10.4),
    OpenEnded("vicuna", "GPT-4", 73.8, 87.7, 18.9),
    OpenEnded("awesome", "ChatGPT", 86.5, 98.1, 13.5),
    OpenEnded("awesome", "GPT-4", 77.8, 89.3, 14.9),
    OpenEnded("wizardlm", "ChatGPT", 77.1, 84.9, 10.1),
    OpenEnded("wizardlm", "GPT-4", 69.1, 78.4, 13.5),
)
"""Table 7."""

OPEN_ENDED_AVERAGES = (
    OpenEnded("average", "ChatGPT", 85.2, 94.8, 11.3),
    OpenEnded("average", "GPT-4", 73.6, 85.1, 13.5),
)
"""Table 7, below the sets."""

AGIEVAL_WINS = (325, 450)
"""Examples of AGIEval that Orca has right and ChatGPT wrong, and the reverse (section 6.1)."""


def relative_gain(new: float, old: float) -> float:
    """In per cent. The paper's are those of averages that are not yet rounded."""
    return 100 * (new / old - 1)


@dataclass(frozen=True, slots=True)
class Misprint:
    """A number that the paper prints and that its own cells do not give."""

    where: str
    printed: float
    computed: float


MISPRINTS = (
    Misprint("Table 7, average gain with GPT-4 as reference", 13.5, 15.6),
    Misprint("Table 9, gap to ChatGPT of the best system message for each task", 4.4, 4.6),
)
"""They stay as printed wherever they are shown; ``computed`` is said beside them."""
