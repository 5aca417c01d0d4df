"""The paper's averages and gains come out of its cells, but for the misprints that are named."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest

from orca.evaluation.paper import (
    AGIEVAL,
    BBH,
    FLAN_1M_ONLY,
    GAINS,
    MISPRINTS,
    OPEN_ENDED,
    OPEN_ENDED_AVERAGES,
    ORCA,
    SYSTEM_MESSAGES,
    TABLES,
    VICUNA,
    OpenEnded,
    PaperTable,
    relative_gain,
)


@pytest.mark.parametrize(
    ("table", "num_tasks", "rounding"),
    [(AGIEVAL, 8, 0.05), (SYSTEM_MESSAGES, 8, 0.05), (FLAN_1M_ONLY, 8, 0.005), (BBH, 23, 0.05)],
    ids=lambda value: value.source if isinstance(value, PaperTable) else "",
)
def test_every_printed_average_is_the_mean_of_its_column(
    table: PaperTable, num_tasks: int, rounding: float
) -> None:
    assert len(table.tasks) == num_tasks
    assert table.columns.keys() == table.averages.keys()
    for name, cells in table.columns.items():
        assert len(cells) == num_tasks
        places = 0.05 if name == ORCA else rounding  # printed with one decimal everywhere
        assert mean(cells) == pytest.approx(table.averages[name], abs=places + 1e-9), name


def test_averages_differ_from_those_of_items() -> None:
    """The check above can tell the macro average from the micro average."""
    sizes = [254, 651, 230, 510, 269, 220, 206, 206]
    by_items = sum(n * cell for n, cell in zip(sizes, AGIEVAL.columns[ORCA], strict=True)) / 2546
    assert abs(by_items - 41.7) > 0.5


def test_relative_gains_are_those_of_averages_before_rounding() -> None:
    for name, table in TABLES.items():
        gain = relative_gain(mean(table.columns[ORCA]), mean(table.columns[VICUNA]))
        assert gain == pytest.approx(GAINS[name], abs=0.05), name
    assert GAINS == {"agieval": 42.1, "bbh": 113.7}


def test_tables_agree_where_they_repeat_each_other() -> None:
    assert AGIEVAL.columns[ORCA] == SYSTEM_MESSAGES.columns["empty"] == FLAN_1M_ONLY.columns[ORCA]


def gains_within_rounding(row: OpenEnded) -> tuple[float, float]:
    """Least and greatest gain of cells that round to the printed ones, and its own rounding."""
    least = relative_gain(row.orca - 0.05, row.vicuna + 0.05)
    return least - 0.05, relative_gain(row.orca + 0.05, row.vicuna - 0.05) + 0.05


def test_gains_of_table_7_are_those_of_its_cells_but_for_one() -> None:
    for row in (*OPEN_ENDED, OPEN_ENDED_AVERAGES[0]):
        least, most = gains_within_rounding(row)
        assert least <= row.gain <= most, row
    wrong = OPEN_ENDED_AVERAGES[1]
    least, most = gains_within_rounding(wrong)
    assert wrong.gain == MISPRINTS[0].printed < least
    assert round(relative_gain(wrong.orca, wrong.vicuna), 1) == MISPRINTS[0].computed


def test_averages_of_table_7_are_the_means_of_its_sets() -> None:
    for average in OPEN_ENDED_AVERAGES:
        rows = [row for row in OPEN_ENDED if row.reference == average.reference]
        assert len(rows) == 3
        assert mean(row.vicuna for row in rows) == pytest.approx(average.vicuna, abs=0.05)
        assert mean(row.orca for row in rows) == pytest.approx(average.orca, abs=0.05)


def test_the_gap_of_the_best_messages_is_not_the_one_in_the_caption() -> None:
    best = mean(max(cells) for cells in zip(*SYSTEM_MESSAGES.columns.values(), strict=True))
    gap = mean(AGIEVAL.columns["ChatGPT"]) - best
    assert round(gap, 1) == MISPRINTS[1].computed != MISPRINTS[1].printed


def test_an_average_over_some_tasks_is_over_their_cells() -> None:
    assert AGIEVAL.average(ORCA, ["aqua-rat", "lsat-ar"]) == 24.6
    everything = list(FLAN_1M_ONLY.tasks)
    assert FLAN_1M_ONLY.average("FLAN-1M only", everything) == 37.18  # as printed
    assert FLAN_1M_ONLY.average("FLAN-1M only", everything[:4]) == 28.5
    assert AGIEVAL.average(ORCA, ["aqua-rat", "gaokao"]) is None
    assert AGIEVAL.cell(ORCA, "gaokao") is None


def test_tasks_are_named_as_the_public_files(shared_data: Path) -> None:
    assert set(AGIEVAL.tasks) <= {file.stem for file in shared_data.glob("agieval/*.jsonl")}
    sizes = [
        len(json.loads((shared_data / f"bbh/{task}.json").read_text())["examples"])
        for task in BBH.tasks
    ]
    assert sum(sizes) == 5_511
