"""The page and the Markdown are safe to read, whatever the texts of others hold."""

from __future__ import annotations

import re
from typing import Any

import pytest
from card_sets import (
    NASTY,
    Page,
    Row,
    check_page,
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


def test_the_page_loads_nothing_and_shows_the_texts_of_others_as_text(
    card: dict[str, Any], rows: list[Row]
) -> None:
    shown = [e["query"] for one in card["examples"].values() for e in one]
    shown += [row["query"] for row in card["sets"]["flan5m"]["repeated"]]
    assert any(NASTY in text for text in shown)
    page = check_page(card_html(card), card)
    assert NASTY in page.text and "Test queries <b>5M</b>" in page.text
    assert {"CoT", "NiV2", "FLAN 2021", "T0"} <= set(
        re.findall(r"CoT|NiV2|FLAN 2021|T0", page.text)
    )
    assert page.tags["path"] == 4 * 4  # collections × measures
    for counted in card["sets"]["flan5m"]["collections"].values():
        longest = {f"{length['p100']:,}" for length in counted["lengths"].values()}
        assert longest <= set(page.text.split())
    for text in (page.text, card_markdown(card)):
        assert "promptsource’s flag" in text and "for NiV2 it is always zs_opt" in text


@pytest.mark.parametrize(
    "name", [NASTY, "</title></h1><b>", "a\n\n# b | c", "{% raw %}", "$x$ `a`"]
)
def test_a_mixture_may_have_any_name(card: dict[str, Any], name: str) -> None:
    named = {**card, "name": name}
    page, plain = check_page(card_html(named), card), Page(card_html(card))
    assert page.tags == plain.tags
    assert page.text.count(name) == plain.text.count(name) + 2
    title = card_markdown(named).splitlines()[0]
    assert title.startswith("# Query card: ") and not re.search(r"(?<!\\)[<|`$]", title)
    assert card_markdown(named).splitlines()[1:] == card_markdown(card).splitlines()[1:]


def test_the_page_says_what_hygiene_found_beside_what_it_removed(card: dict[str, Any]) -> None:
    assert (card["hygiene"]["queries_found"], card["hygiene"]["queries_removed"]) == (3, 2)
    page = Page(card_html(card)).text
    assert "2 found, 2 removed" in page and "by 2 checks, in 3 queries" in page


def test_the_task_table_has_the_sets_beside_the_task(card: dict[str, Any]) -> None:
    html = card_html(card)
    head = re.findall(r"<th[^>]*data-sort>([^<]*)", html)
    assert head[:4] == ["collection", "task", "flan5m", "flan1m"]
    (row,) = re.findall(r"<tr data-collection.*?>never_drawn<.*?</tr>", html)
    cells = re.findall(r"<td>([^<]*)</td>", row)
    assert cells == ["0", "0", "5", "–", "0", "0"] and len(head) == len(cells) + 2


def test_the_markdown_has_well_formed_tables_and_no_markup_from_texts(card: dict[str, Any]) -> None:
    text = card_markdown(card)
    assert "<script" not in text.replace("\\<", "")
    widths: list[int] = []
    for line in text.splitlines():
        width = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if width and widths and widths[-1]:
            assert width == widths[-1], line
        widths.append(width)
    assert sum(width > 0 for width in widths) > 40
    assert len(widths) < 160  # about two screens
