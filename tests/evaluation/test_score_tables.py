"""New columns stand beside the paper's cells, under the name of their protocol."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from orca.errors import UserError
from orca.evaluation.comparison import Comparison
from orca.evaluation.open_ended_tables import Judged, open_ended_table
from orca.evaluation.paper import AGIEVAL, BBH, ORCA, VICUNA, PaperTable
from orca.evaluation.scores import AVERAGE, Score
from orca.evaluation.statistics import Interval
from orca.evaluation.table import Table
from orca.evaluation.tables import (
    accuracy_table,
    averages_table,
    column_head,
    comparison_table,
    detail_table,
    system_message_table,
)

REVIEWS = "vicuna-13b_20230322-clean-lang/review_gpt35_vicuna-13b.jsonl"
RUN = column_head("smollm2", "orca")
GAIN = f"average's gain over {VICUNA}, %"


def make_scores(benchmark: str, accuracies: dict[str, float]) -> list[Score]:
    """Scores with intervals of ± 0.02 and the macro average."""
    average = float(np.mean(list(accuracies.values())))
    return [
        Score(
            benchmark=benchmark,
            task=task,
            items=100,
            draws=1,
            accuracy=Interval(value, value - 0.02, value + 0.02),
            spread=None,
            stated=Interval(value / 2, 0.0, value),
            format_failures=0.125,
            stated_failures=0.5,
            chance=0.2,
            failed=0,
        )
        for task, value in {**accuracies, AVERAGE: average}.items()
    ]


def column(table: Table, name: str) -> dict[str, str]:
    place = table.head.index(name)
    return {row[0]: row[place] for row in table.texts()}


@pytest.mark.parametrize(("benchmark", "paper"), [("agieval", AGIEVAL), ("bbh", BBH)])
def test_orcas_own_cells_as_a_run_give_the_papers_average_and_gain(
    benchmark: str, paper: PaperTable
) -> None:
    cells = dict(zip(paper.tasks, (c / 100 for c in paper.columns[ORCA]), strict=True))
    table = accuracy_table({RUN: make_scores(benchmark, dict(reversed(cells.items())))})
    assert [row[0] for row in table.texts()] == [*paper.tasks.values(), AVERAGE, GAIN]
    run, printed = column(table, RUN), column(table, ORCA)
    gain, _, bounds = run.pop(GAIN).partition(" [")
    own = {"agieval": 42.1, "bbh": 113.7}[benchmark]
    assert printed.pop(GAIN) == str(own)
    assert column(table, VICUNA)[GAIN] == "–"
    assert all(run[task].split(" [")[0] == cell for task, cell in printed.items())
    assert printed[AVERAGE] == str(paper.averages[ORCA])
    # of averages, where the paper's own is printed with one decimal
    assert float(gain) == pytest.approx(own, abs=0.5)
    low, high = (float(bound) for bound in bounds.strip("]").split(", "))
    assert high - low == pytest.approx(100 * 4 / paper.averages[VICUNA], abs=0.2)
    assert run["LSAT-AR" if benchmark == "agieval" else "Navigate"] in (
        "21.3 [19.3, 23.3]",
        "57.6 [55.6, 59.6]",
    )
    assert table.notes == ()


def test_a_slice_is_set_beside_averages_over_the_same_tasks() -> None:
    table = accuracy_table({RUN: make_scores("agieval", {"lsat-ar": 0.25, "aqua-rat": 0.25})})
    assert column(table, ORCA) == {
        "AQuA-RAT": "27.9", "LSAT-AR": "21.3", AVERAGE: "24.6", GAIN: "21.8",
    }  # fmt: skip
    assert table.notes == (
        "2 tasks, where Table 8 has 8: the paper's averages here are over the tasks shown.",
    )


def test_a_task_or_benchmark_that_the_paper_has_no_cells_of_shows_none() -> None:
    table = accuracy_table({RUN: make_scores("agieval", {"gaokao": 0.25, "aqua-rat": 0.25})})
    assert column(table, ORCA) == {"AQuA-RAT": "27.9", "gaokao": "–", AVERAGE: "–"}
    table = accuracy_table({RUN: make_scores("truthfulqa", {"truthfulqa": 0.4})})
    assert table.head == ("task", "items", RUN)
    assert column(table, RUN) == {"truthfulqa": "40.0 [38.0, 42.0]"}, "one task is its own average"


def test_the_averages_of_all_benchmarks_stand_in_one_table() -> None:
    head = column_head("smollm2", "orca")
    table = averages_table(
        {
            "agieval": {head: make_scores("agieval", dict.fromkeys(AGIEVAL.tasks, 0.3))},
            "truthfulqa": {head: make_scores("truthfulqa", {"truthfulqa": 0.4})},
        }
    )
    rows = [dict(zip(table.head, row, strict=True)) for row in table.texts()]
    assert rows[0] == {
        "benchmark": "agieval", "tasks": "8", "items": "100", "chance": "20.0",
        VICUNA: "29.3", ORCA: "41.7", "ChatGPT": "47.2", "GPT-4": "62.0",
        RUN: "30.0 [28.0, 32.0]", f"{RUN}: no label found": "12.5",
    }  # fmt: skip
    assert (rows[1][ORCA], rows[1][RUN], rows[1]["tasks"]) == ("–", "40.0 [38.0, 42.0]", "1")


def test_runs_that_do_not_fit_together_are_refused() -> None:
    one = make_scores("agieval", {"lsat-ar": 0.2})
    for other in (make_scores("agieval", {"lsat-rc": 0.2}), make_scores("bbh", {"lsat-ar": 0.2})):
        with pytest.raises(UserError, match="the runs a, b do not have the same tasks"):
            accuracy_table({"a": one, "b": other})


def test_the_detail_table_has_chance_and_failures_in_per_cent() -> None:
    table = detail_table(RUN, make_scores("agieval", {"lsat-ar": 0.3}))
    assert len(table.rows) == 1
    first = dict(zip(table.head, table.texts()[0], strict=True))
    assert first == {
        "task": "LSAT-AR",
        "items": "100",
        "draws": "1",
        "no answer came": "0",
        "chance": "20.0",
        "first capital": "30.0 [28.0, 32.0]",
        "spread over draws": "–",
        "stated answer": "15.0 [0.0, 30.0]",
        "no capital found": "12.5",
        "no statement found": "50.0",
    }


def test_system_messages_stand_beside_table_9() -> None:
    runs = {
        column_head("smollm2", "orca", 1): make_scores("agieval", {"lsat-ar": 0.2, "sat-en": 0.5}),
        column_head("smollm2", "orca", 5): make_scores("agieval", {"lsat-ar": 0.3, "sat-en": 0.4}),
    }
    table = system_message_table(runs)
    assert table.head[1:4] == (
        "Orca-13B, empty (1)",
        "Orca-13B, follow well (5)",
        "Orca-13B, detailed answer (2)",
    )
    assert table.head[4:] == ("smollm2 (orca, message 1)", "smollm2 (orca, message 5)")
    assert table.texts()[0][:4] == ["LSAT-AR", "21.3", "19.6", "20.9"]
    assert any("the average is 40.0" in note for note in table.notes)  # (30 + 50) / 2
    assert any("4.4" in note and "4.6" in note for note in table.notes)
    other = system_message_table({RUN: make_scores("bbh", {"navigate": 0.5})})
    assert other.head == ("task", RUN) and other.notes == ()


def real_review_scores(shared_data: Path, file: str) -> np.ndarray:
    """[80, 2]: of the second assistant and of the first, which is the reference."""
    lines = (shared_data / "vicuna/2023_eval/review" / file).read_text().splitlines()
    return np.array([json.loads(line)["score"][::-1] for line in lines], float)


def test_real_reviews_give_the_published_score_of_vicuna(shared_data: Path) -> None:
    scores = real_review_scores(shared_data, REVIEWS)
    assert scores.sum(axis=0).tolist() == [638, 693]
    table = open_ended_table({RUN: [Judged("vicuna", "ChatGPT", scores)]})
    (row,) = table.texts()
    assert row[:5] == ["vicuna", "ChatGPT", "92.0", "101.5", "10.4"]
    assert row[5].startswith("92.1 [")
    value = table.rows[0][5]
    assert isinstance(value, Interval) and round(value.value, 2) == 92.06


def test_averages_of_judged_sets_are_beside_the_papers_over_the_same_sets() -> None:
    def judged(name: str, reference: str, score: float, unparsed: int = 0) -> Judged:
        return Judged(name, reference, np.tile([score, 10.0], (20, 1)), unparsed)

    sets = [judged("vicuna", "ChatGPT", 8), judged("awesome", "ChatGPT", 7, 2)]
    table = open_ended_table({RUN: sets})
    assert table.texts()[-1] == [
        "average", "ChatGPT", "89.2", "99.8", "11.8", "75.0 [75.0, 75.0]", "-15.9", "2",
    ]  # fmt: skip
    sets += [judged("wizardlm", "ChatGPT", 9), judged("vicuna", "my-judge", 9)]
    rows = open_ended_table({RUN: sets}).texts()
    assert rows[-1][:6] == ["average", "ChatGPT", "85.2", "94.8", "11.3", "80.0 [80.0, 80.0]"]
    assert rows[3][:6] == ["vicuna", "my-judge", "–", "–", "–", "90.0 [90.0, 90.0]"]
    with pytest.raises(UserError, match="other sets"):
        open_ended_table({"a": sets, "b": sets[:1]})


def test_a_comparison_says_how_many_items_changed_and_how_sure_it_is() -> None:
    one = Comparison(
        "agieval", AVERAGE, 10, 3, 0.5, 0.4, Interval(0.1, -0.1, 0.3), 0.0312, 0.00123,
        ("a", "b"), ("c",),
    )  # fmt: skip
    table = comparison_table("after", "before", [one])
    assert table.texts() == [
        ["average", "10", "50.0", "40.0", "10.0 [-10.0, 30.0]", "0.031", "2", "1", "0.0012"]
    ]
    assert table.notes == (
        "Compared are the 10 items that both runs have answered.",
        "3 items have an answer in one run only and are left out.",
    )
    few = dataclasses.replace(one, p_value=None, unpaired=0)
    table = comparison_table("after", "before", [few])
    assert table.texts()[0][5] == "–"
    assert table.notes[1:] == (
        "Fewer than 30 items have no bootstrap p-value: it would be too small.",
    )


def test_markdown_is_a_table_and_values_are_plain() -> None:
    table = Table(
        "T", ("task", "n", "x"), (("a|b", 1200, Interval(1.0, 0.25, 2.0)), ("c", 1, None)), ("N.",)
    )
    assert table.markdown() == (
        "### T\n\n"
        "| task | n | x |\n| --- | ---: | ---: |\n"
        "| a\\|b | 1,200 | 1.0 [0.2, 2.0] |\n| c | 1 | – |\n\n"
        "N."
    )
    head, rows = table.values()
    assert head == ["task", "n", "x", "x, low", "x, high"]
    assert rows == [["a|b", 1200, 1.0, 0.25, 2.0], ["c", 1, None, None, None]]
