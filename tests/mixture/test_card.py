"""The query card of a set: its tasks, its examples, and which sets it can be made of."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from card_sets import (
    MESSAGES,
    Row,
    a_query,
    check_page,
    lengths_of,
    nearest_rank,
    some_facts,
    synthetic_rows,
    write_all,
    write_set,
)

from orca.errors import UserError
from orca.mixture.card import LONGEST, query_card, save_card
from orca.mixture.card_counts import MEASURES
from orca.mixture.card_page import card_html
from orca.mixture.card_text import card_markdown


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return synthetic_rows(600)


@pytest.fixture(scope="module")
def card(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return query_card(write_all(tmp_path_factory.mktemp("set"), rows), some_facts(rows))


def test_every_task_has_its_pool_its_sample_and_what_was_removed(
    card: dict[str, Any], rows: list[Row]
) -> None:
    counts = Counter((row["collection"], row["task"]) for row in rows)
    tasks = {(task["collection"], task["task"]): task for task in card["tasks"]}
    assert len(tasks) == len(card["tasks"]) == len(counts) + 1
    for key, n in counts.items():
        assert tasks[key]["queries"]["flan5m"] == n
        assert (tasks[key]["candidates"], tasks[key]["sampled"]) == (10 * n, n + 2)
        assert tasks[key]["few_shot"] == 3
    assert tasks["niv2", "never_drawn"]["queries"] == {"flan5m": 0, "flan1m": 0}
    assert tasks["niv2", "never_drawn"]["few_shot"] is None, "nobody told"
    # Two checks found one of the queries, one was found twice by one check, and one was kept.
    assert tasks["t0", "task_0"]["removed"] == 2 == card["hygiene"]["queries_removed"]
    assert tasks["t0", "task_1"]["removed"] == 0


def test_examples_are_deterministic_short_and_show_several_system_messages(
    card: dict[str, Any], rows: list[Row], tmp_path: Path
) -> None:
    shuffled = random.Random(1).sample(rows, len(rows))
    again = query_card(write_all(tmp_path, shuffled), some_facts(rows))
    assert again["examples"] == card["examples"]
    texts = {row["id"]: (row["query"], row["targets"]) for row in rows}
    cut = 0
    for collection, examples in card["examples"].items():
        messages = [example["message"] for example in examples]
        assert len(set(messages)) == len(messages) == min(4, len(MESSAGES[collection]))
        for example in examples:
            whole, targets = texts[example["id"]]
            cut += len(whole) > LONGEST
            assert (example["targets"], example["num_targets"]) == (targets[:3], len(targets))
            assert example["query"] == whole[:LONGEST] + "…" * (len(whole) > LONGEST)
    assert cut


def test_the_card_has_what_the_builder_tells(card: dict[str, Any], rows: list[Row]) -> None:
    facts = some_facts(rows)
    for name in ("name", "seed", "bad_rows", "excluded", "configuration", "versions", "seconds"):
        assert card[name] == facts[name] != {}
    for name, check in facts["hygiene"].items():
        shown = card["hygiene"]["checks"][name]
        assert (shown["found"], shown["removed"]) == (check["found"], check["removed"])


def test_the_card_says_whether_the_sample_lies_in_the_whole_set(
    rows: list[Row], tmp_path: Path
) -> None:
    other = {**rows[0], "id": "from-elsewhere"}
    paths = {
        "flan5m": write_set(tmp_path / "flan5m", rows),
        "flan1m": write_set(tmp_path / "flan1m", [*rows[:9], other]),
    }
    card = query_card(paths, {"name": "x", "seed": 1})
    assert "outside" not in card["sets"]["flan5m"]
    assert card["sets"]["flan1m"]["outside"] == 1


def test_the_saved_json_is_the_card(card: dict[str, Any], tmp_path: Path) -> None:
    save_card(card, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "query_card.json").read_text("utf-8")) == card
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        "query_card.json",
        "query_card.html",
        "query_card.md",
    }


@pytest.mark.parametrize("collections", [("t0",), ("own",), ("cot", "own")])
def test_a_card_of_one_set_without_facts_has_no_empty_parts(
    collections: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MESSAGES, "own", (2, 5))
    rows = synthetic_rows(30, collections)
    for row in rows:
        row.update(template_type=None, targets=[], query="what?")
    paths = {"flan5m": write_set(tmp_path / "flan5m", rows)}
    card = query_card(paths, {"name": "small", "seed": 0})
    assert set(card["sets"]["flan5m"]["collections"]) == set(collections)
    assert all(task["removed"] is None for task in card["tasks"])
    for text in (check_page(card_html(card), card).text, card_markdown(card)):
        assert not re.search(r"\b(None|nan|inf|Undefined)\b", text)
        assert "asked for" not in text and "Fewer queries" not in text
        for absent in ("Hygiene", "Rows that are no query", "left out", "Made with"):
            assert absent not in text
        assert all(collection in text or collection in card["paper"] for collection in collections)


def test_a_set_without_a_query_still_has_a_card(tmp_path: Path) -> None:
    card = query_card({"flan5m": write_set(tmp_path / "flan5m", [])}, {"name": "none", "seed": 0})
    assert card["sets"]["flan5m"]["queries"] == 0 and card["tasks"] == []
    assert "none" in check_page(card_html(card), card).text and "| queries | 0 |" in card_markdown(
        card
    )


def test_a_directory_that_is_no_query_set_is_named(rows: list[Row], tmp_path: Path) -> None:
    facts = {"name": "x", "seed": 1}
    with pytest.raises(UserError, match="nothing here"):
        query_card({"flan5m": tmp_path / "nothing here"}, facts)
    other = write_set(tmp_path / "other", [{"text": "a"}], pa.schema({"text": pa.string()}))
    with pytest.raises(UserError, match=r"other .*query set"):
        query_card({"flan5m": other}, facts)


@pytest.mark.parametrize("name", ["task=other/multiple_choice=true", "out[1]", "a*", "it's"])
def test_the_figures_do_not_depend_on_the_directorys_name(
    card: dict[str, Any], rows: list[Row], tmp_path: Path, name: str
) -> None:
    """No name gives columns, and none is a pattern: the directory beside it is another set."""
    for place, written in ((name, rows), (name.replace("[1]", "1").replace("*", "b"), rows[:50])):
        if not (tmp_path / place).exists():
            (tmp_path / place).mkdir(parents=True)
            write_all(tmp_path / place, written)
    paths = {one: tmp_path / name / one for one in ("flan5m", "flan1m")}
    assert query_card(paths, some_facts(rows)) == card


def json_lines(file: Path, most: int) -> list[Row]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, most)]


def real_rows(shared: Path) -> list[Row]:
    """A few real queries of each collection; the texts are put together simply."""
    rows: list[Row] = []

    def add(collection: str, task: str, query: str, targets: list[str]) -> None:
        rows.append(a_query(len(rows), collection, task, query, targets))

    for file in sorted((shared / "flan_cot").glob("*_train.tsv")):
        with file.open(encoding="utf-8", newline="") as lines:
            for question, answer, _ in list(csv.reader(lines, delimiter="\t", quoting=3))[:60]:
                query = question.replace("\\n", "\n")
                add("cot", f"cot_{file.stem.removesuffix('_train')}", query, [answer])
    for file in sorted((shared / "niv2" / "tasks").glob("*.json"))[:20]:
        task = json.loads(file.read_text("utf-8"))
        for instance in task["Instances"][:30]:
            query = f"{task['Definition'][0]}\n\nInput: {instance['input']}\nOutput:"
            add("niv2", file.stem, query, instance["output"])
    for file in sorted((shared / "t0").glob("*.jsonl"))[:20]:
        for row in json_lines(file, 60):
            answer = row["completion"].removesuffix("<|endoftext|>")
            add("t0", row["template"], row["prompt"], [answer])
    for file in sorted((shared / "flan2021_raw").glob("*.jsonl")):
        for row in json_lines(file, 80):
            options = "".join(f"\n- {label}" for label in row["labels"])
            query = f"{row['sentence']}\nOPTIONS:{options}"
            add("flan2021", row["dataset"], query, [row["label"]])
    return rows


def test_a_card_of_real_queries(shared_data: Path, tmp_path: Path) -> None:
    rows = real_rows(shared_data)
    card = query_card(write_all(tmp_path, rows), some_facts(rows))
    assert card["sets"]["flan5m"]["queries"] == len(rows) > 1_000
    for collection, counted in card["sets"]["flan5m"]["collections"].items():
        values = [lengths_of(row) for row in rows if row["collection"] == collection]
        for measure in MEASURES:
            known = [value[measure] for value in values if value[measure] is not None]
            assert counted["lengths"][measure]["p50"] == nearest_rank(known, 50)
    save_card(card, tmp_path / "card")
    check_page((tmp_path / "card" / "query_card.html").read_text("utf-8"), card)
