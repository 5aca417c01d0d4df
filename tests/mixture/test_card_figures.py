"""The page and the Markdown show the same figures, and say what is missing."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from card_sets import (
    Page,
    Row,
    markdown_tables,
    request_of,
    some_facts,
    synthetic_rows,
    write_all,
)

from orca.mixture.card import query_card
from orca.mixture.card_page import card_html
from orca.mixture.card_text import card_markdown


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return synthetic_rows(600)


@pytest.fixture(scope="module")
def card(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return query_card(write_all(tmp_path_factory.mktemp("set"), rows), some_facts(rows))


def test_the_prompts_cost_what_the_papers_prices_make_of_them(
    card: dict[str, Any], rows: list[Row]
) -> None:
    page, text = Page(card_html(card)).text, card_markdown(card).replace("\\$", "$")
    for name, step in (("flan5m", 1), ("flan1m", 5)):
        tokens = sum(request_of(row) for row in rows[::step]) // 4
        cost = f"{name} cost about ${tokens * 0.002 / 1000:.2f} with ChatGPT"
        cost += f" and ${tokens * 0.03 / 1000:.2f} with GPT-4"
        assert tokens * 0.002 / 1000 > 0.01
        assert cost in page and cost in text
    for shown in (page, text):
        assert "Responses come on top" in shown and "estimate at 4 characters a token" in shown


def test_fewer_queries_than_asked_for_are_said_at_the_top(
    card: dict[str, Any], rows: list[Row]
) -> None:
    drawn = Counter[str]()
    for (collection, _), n in Counter((row["collection"], row["task"]) for row in rows).items():
        drawn[collection] += n + 2
    assert card["asked"] == {
        "collections": {
            "t0": {"asked": 2_000_000, "drawn": drawn["t0"]},
            "niv2": {"asked": 3, "drawn": drawn["niv2"]},
        },
        "sets": {"flan1m": {"asked": 1_000_000, "queries": len(rows[::5])}},
    }
    missed = [
        f"T0: {drawn['t0']} queries drawn, 2,000,000 asked for: the pool is smaller",
        f"flan1m: {len(rows[::5])} queries, 1,000,000 asked for",
    ]
    page, text = Page(card_html(card)).text, card_markdown(card)
    for shown in (page, text):
        top = shown[: shown.index("Beside Table 3")]
        assert all(line in top for line in missed)
        assert not re.search(r"(CoT|NiV2|FLAN 2021|flan5m): .*asked for", shown)
    table = {row[0]: row for row in markdown_tables(text)["Beside Table 3 of the paper"]}
    assert table["T0"][5:7] == ["2,000,000", f"{drawn['t0']}"]
    assert table["CoT"][5:7] == ["–", f"{drawn['cot']}"]
    assert table["asked for"][7:9] == ["–", "1,000,000"]


def test_a_pool_that_is_large_enough_is_not_called_smaller(
    card: dict[str, Any], rows: list[Row], tmp_path: Path
) -> None:
    facts = some_facts(rows)
    whole = sum(task["candidates"] for task in facts["pool"]["t0"].values())
    facts["asked"] = {"collections": {"t0": whole}, "sets": {}}
    text = card_markdown(query_card(write_all(tmp_path, rows), facts))
    assert f"{whole:,} asked for: the sampler takes no more" in text and "smaller" not in text


def test_tasks_are_counted_alike_everywhere(card: dict[str, Any], rows: list[Row]) -> None:
    with_queries = {(row["collection"], row["task"]) for row in rows}
    some = sum(collection == "niv2" for collection, _ in with_queries)
    tables = markdown_tables(card_markdown(card))
    of_pool = f"{some} of {some + 1}"  # a task of NiV2 gave no query
    whole = f"{len(with_queries)} of {len(with_queries) + 1}"
    for heading in ("Beside Table 3 of the paper", "Tasks by queries"):
        shown = {row[0]: row[1] for row in tables[heading]}
        assert shown["NiV2"] == of_pool and " of " not in shown["T0"]
        assert shown.get("total", whole) == whole
    assert f"| tasks with queries | {whole} |" in card_markdown(card)
    page = Page(card_html(card)).text
    assert page.count(of_pool) == 2 and page.count(whole) == 2


def test_what_was_left_out_is_told_on_both(card: dict[str, Any]) -> None:
    """What the checks found and removed, the rows that are no query, and the excluded tasks."""
    html, text = card_html(card), card_markdown(card)
    page, tables = Page(html).text, markdown_tables(text)
    checks = [["benchmark", "2", "1"], ["language", "0", "0"]]
    assert [row[:3] for row in tables["Hygiene"]] == checks
    for check, found, removed in checks:
        assert f'<td class="text">{check}</td><td>{found}</td><td>{removed}</td>' in html
    assert "| queries that hygiene found | 3 |" in text
    assert "| queries removed by hygiene | 2 |" in text
    assert tables["Rows that are no query"] == [["T0", "empty_query", "3"]]
    assert '<td class="text">empty_query</td><td>3</td>' in html
    assert "<b>3</b><span>rows that are no query</span>" in html
    assert "- NiV2: 2 tasks (task664_mmlu, task685_mmlu)" in text
    assert "NiV2: 2 tasks left out" in page and "task664_mmlu\ntask685_mmlu" in page
    (task,) = (t for t in card["tasks"] if (t["collection"], t["task"]) == ("t0", "task_0"))
    (row,) = re.findall(r'<tr data-collection="t0".*?>task_0<.*?</tr>', html)
    counts = [*task["queries"].values(), task["candidates"], 3, task["sampled"], 2]
    assert re.findall(r"<td>([^<]*)</td>", row) == [f"{n:,}" for n in counts]
