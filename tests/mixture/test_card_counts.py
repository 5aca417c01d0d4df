"""The card's counts are those of a count by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from card_sets import (
    Page,
    Row,
    a_query,
    lengths_of,
    markdown_tables,
    nearest_rank,
    request_of,
    some_facts,
    synthetic_rows,
    write_all,
    write_set,
)

from orca.mixture.card import query_card
from orca.mixture.card_counts import MEASURES
from orca.mixture.card_page import card_html
from orca.mixture.card_text import card_markdown


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return synthetic_rows(600)


@pytest.fixture(scope="module")
def card(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return query_card(write_all(tmp_path_factory.mktemp("set"), rows), some_facts(rows))


@pytest.mark.parametrize(("name", "step"), [("flan5m", 1), ("flan1m", 5)])
def test_the_figures_of_a_set_are_those_of_a_count_by_hand(
    card: dict[str, Any], rows: list[Row], name: str, step: int
) -> None:
    rows = rows[::step]
    one = card["sets"][name]
    assert one["queries"] == len(rows)
    assert one["tasks"] == len({(row["collection"], row["task"]) for row in rows})
    pairs = Counter((row["system_message"], row["query"]) for row in rows)
    assert one["repeats"] == len(rows) - len(pairs) > 0
    repeated = sorted((n for n in pairs.values() if n > 1), reverse=True)
    assert [row["times"] for row in one["repeated"]] == repeated[:5]
    for row in one["repeated"]:
        assert row["times"] == pairs[row["system_message"], row["query"]]
    assert list(one["collections"]) == ["cot", "niv2", "flan2021", "t0"]
    for collection, counted in one["collections"].items():
        mine = [row for row in rows if row["collection"] == collection]
        choices = [row for row in mine if row["multiple_choice"]]
        assert counted["queries"] == len(mine) > 10
        assert counted["share"] == len(mine) / len(rows)
        assert counted["tasks"] == len({row["task"] for row in mine})
        assert counted["multiple_choice"] == len(choices) > 0
        characters = sum(len(row["system_message"]) + len(row["query"]) for row in mine)
        assert counted["request_characters"] == characters
        assert counted["estimated_tokens"] == characters // 4
        messages = Counter(str(row["system_message_id"]) for row in mine)
        assert counted["system_messages"] == messages
        assert counted["targets"] == Counter(str(len(row["targets"])) for row in mine)
        for kind in ("zs_opt", "zs_noopt"):
            found = sum(row["template_type"] == kind for row in choices)
            whole = sum(row["template_type"] == kind for row in mine)
            by_type = counted["template_types"].get(kind, {"found": 0, "not_found": 0})
            assert by_type == {"found": found, "not_found": whole - found}


def test_the_lengths_are_exact_and_every_length_is_in_one_bin(
    card: dict[str, Any], rows: list[Row]
) -> None:
    measured = [(row["collection"], lengths_of(row)) for row in rows]
    for collection, counted in card["sets"]["flan5m"]["collections"].items():
        for measure in MEASURES:
            values = [n[measure] for name, n in measured if name == collection]
            known = [value for value in values if value is not None]
            length = counted["lengths"][measure]
            for percent in (0, 5, 25, 50, 75, 95, 100):
                assert length[f"p{percent}"] == nearest_rank(known, percent)
            assert length["total"] == sum(known)
            for low, high, n in length["bins"]:
                assert n == sum(low <= value < high for value in known)
            assert sum(n for _, _, n in length["bins"]) == len(known) > 0


def test_long_requests_are_counted_at_4_characters_a_token(tmp_path: Path) -> None:
    """8,192 characters are 2,048 tokens, not more; the system message counts too."""
    rows: list[Row] = []
    for characters in (8_191, 8_192, 8_193, 16_384, 16_385, 40_000, 10):
        for collection in ("cot", "t0"):
            row = a_query(len(rows), collection, "task", "", ["yes"])
            row["query"] = "数" * (characters - len(row["system_message"])) or "?"
            rows.append(row)
    paths = {
        "flan5m": write_set(tmp_path / "flan5m", rows),
        "flan1m": write_set(tmp_path / "flan1m", rows[:7]),
    }
    card = query_card(paths, {"name": "x", "seed": 1})
    for name, mine in (("flan5m", rows), ("flan1m", rows[:7])):
        one = card["sets"][name]
        parts = [(one, mine)]
        for collection, counted in one["collections"].items():
            parts.append((counted, [row for row in mine if row["collection"] == collection]))
        for counted, some in parts:
            sizes = [request_of(row) for row in some]
            over = {str(tokens): sum(n / 4 > tokens for n in sizes) for tokens in (2048, 4096)}
            assert counted["requests_over"] == over and over["2048"] > 0
            assert counted["longest_request"] == max(sizes)
            assert counted["estimated_tokens"] == sum(sizes) // 4
    assert card["sets"]["flan5m"]["requests_over"] == {"2048": 8, "4096": 4}
    sent = markdown_tables(card_markdown(card))["What is sent"]
    assert [row[0] for row in sent] == ["CoT", "T0", "all of flan5m", "all of flan1m"]
    total = sum(request_of(row) for row in rows) // 4
    figures = ["14", f"{total:,}", f"{8 / 14:.1%}", f"{4 / 14:.1%}", "10,000", "40,000"]
    assert sent[2][1:] == figures
    page = Page(card_html(card)).text
    assert all(figure in page for figure in figures)
