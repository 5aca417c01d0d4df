"""The query card: its figures are those of a count by hand, and it is safe to read."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orca.errors import UserError
from orca.mixture.card import LONGEST, query_card, save_card
from orca.mixture.card_counts import MEASURES
from orca.mixture.card_page import card_html
from orca.mixture.card_text import card_markdown
from orca.mixture.query import QUERY_SCHEMA
from orca.traces.system_messages import SYSTEM_MESSAGES

Row = dict[str, Any]
MESSAGES = {"cot": (6, 11, 16), "niv2": (1, 9, 15), "flan2021": (3, 4, 7, 8, 10), "t0": (1, 2, 5)}
NASTY = "</pre><script>alert('q')</script><img src=x onerror=alert(1)> | `tick` ``` {{ 7 * 7 }}"
FINDINGS = pa.schema(
    {
        "id": pa.string(),
        "check": pa.string(),
        "detail": pa.string(),
        "removed": pa.bool_(),
        "query": pa.string(),
        "collection": pa.string(),
        "task": pa.string(),
    }
)


def a_query(number: int, collection: str, task: str, query: str, targets: list[str]) -> Row:
    ids = MESSAGES[collection]
    message = ids[number % len(ids)]
    options = "OPTIONS" in query
    return {
        "id": f"{collection}-{number:06}",
        "collection": collection,
        "task": task,
        "template_type": "zs_opt" if options or number % 7 == 0 else "zs_noopt",
        "template": "",
        "system_message_id": message,
        "system_message": SYSTEM_MESSAGES[message],
        "query": query,
        "targets": targets,
        "multiple_choice": options,
        "source_file": f"{collection}.parquet",
        "source_row": number + 1,
    }


def synthetic_rows(count: int, collections: tuple[str, ...] = tuple(MESSAGES)) -> list[Row]:
    """Queries with every kind of white space, other scripts, no and several targets, repeats."""
    draw = random.Random(7)
    words = ["word", "längst", "数学", "x", "\u00a0", "antidisestablishment", "🐋"]
    rows = []
    for number in range(count):
        collection = draw.choice(collections)
        query = "".join(
            draw.choice(words) + draw.choice([" ", "  ", "\n", "\t", "\r\n", "\x0b"])
            for _ in range(draw.choice([1, 3, 20, 400]))
        )
        if draw.random() < 0.1:
            query = NASTY
        if draw.random() < 0.3:
            query += "\nOPTIONS:\n- yes\n- no"
        targets = [
            draw.choice(["yes", "", "a b  c", "長い 答え"]) for _ in range(draw.randrange(4))
        ]
        rows.append(a_query(number, collection, f"task_{draw.randrange(6)}", query, targets))
    return rows


def write_set(directory: Path, rows: list[Row], schema: pa.Schema = QUERY_SCHEMA) -> Path:
    directory.mkdir(parents=True)
    for part in range(2):
        table = pa.Table.from_pylist(rows[part::2], schema)
        pq.write_table(table, directory / f"part-{part:05}.parquet")
    return directory


def some_facts(rows: list[Row]) -> dict[str, Any]:
    counts = Counter((row["collection"], row["task"]) for row in rows)
    pool: dict[str, dict[str, Any]] = {"niv2": {"never_drawn": {"candidates": 5, "sampled": 0}}}
    for (collection, task), n in counts.items():
        known = {"candidates": 10 * n, "few_shot": 3, "sampled": n + 2}
        pool.setdefault(collection, {})[task] = known
    found = {"id": "removed-0", "detail": f"shares 13 words with {NASTY}"}
    return {
        "name": "Test queries <b>5M</b>",
        "seed": 42,
        "pool": pool,
        "bad_rows": {
            "t0": {"reasons": {"empty_query": 3}, "examples": [f"t0.jsonl row 4: {NASTY}"]}
        },
        "excluded": {"niv2": ["task664_mmlu", "task685_mmlu"]},
        "hygiene": {
            "benchmark": {"found": 2, "removed": 1, "examples": [found, {"id": "kept-7"}]},
            "language": {"found": 0, "removed": 0, "examples": []},
        },
        "configuration": {"path": "pool/*.parquet"},
        "versions": {"duckdb": "1"},
        "seconds": {"sample": 1.5},
    }


def write_all(directory: Path, rows: list[Row]) -> dict[str, Path]:
    """A set, a fifth of it, and what hygiene found."""
    findings = [
        {"id": f"removed-{i // 2}", "check": check, "detail": "", "removed": check == "benchmark"}
        | {"query": NASTY + "q" * 2000, "collection": "t0", "task": "task_0"}
        for i, check in enumerate(["benchmark", "benchmark", "benchmark", "language"])
    ]
    pq.write_table(pa.Table.from_pylist(findings, FINDINGS), directory / "findings.parquet")
    return {
        "flan5m": write_set(directory / "flan5m", rows),
        "flan1m": write_set(directory / "flan1m", rows[::5]),
    }


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return synthetic_rows(600)


@pytest.fixture(scope="module")
def card(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return query_card(write_all(tmp_path_factory.mktemp("set"), rows), some_facts(rows))


def lengths_of(row: Row) -> dict[str, int | None]:
    def words(text: str) -> int:
        return len([word for word in re.split(r"[ \t\n\r\f\v]+", text) if word])

    target = row["targets"][0] if row["targets"] else None
    return {
        "query_characters": len(row["query"]),
        "query_words": words(row["query"]),
        "target_characters": None if target is None else len(target),
        "target_words": None if target is None else words(target),
    }


def nearest_rank(values: list[int], percent: int) -> int:
    return sorted(values)[max(1, -(-percent * len(values) // 100)) - 1]


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


def test_every_task_has_its_pool_its_sample_and_what_was_removed(
    card: dict[str, Any], rows: list[Row]
) -> None:
    counts = Counter((row["collection"], row["task"]) for row in rows)
    tasks = {(task["collection"], task["task"]): task for task in card["tasks"]}
    assert len(tasks) == len(card["tasks"]) == len(counts) + 1
    for key, n in counts.items():
        assert tasks[key]["queries"]["flan5m"] == n
        assert (tasks[key]["candidates"], tasks[key]["sampled"]) == (10 * n, n + 2)
    assert tasks["niv2", "never_drawn"]["queries"] == {"flan5m": 0, "flan1m": 0}
    # Two checks found one of the queries, and one of the two ids was found twice by one check.
    assert tasks["t0", "task_0"]["removed"] == 2 == card["hygiene"]["queries_removed"]
    assert tasks["t0", "task_1"]["removed"] == 0


def test_examples_are_deterministic_short_and_show_several_system_messages(
    card: dict[str, Any], rows: list[Row], tmp_path: Path
) -> None:
    shuffled = random.Random(1).sample(rows, len(rows))
    again = query_card(write_all(tmp_path, shuffled), some_facts(rows))
    assert again["examples"] == card["examples"]
    texts = {row["id"]: row["query"] for row in rows}
    cut = 0
    for collection, examples in card["examples"].items():
        messages = [example["message"] for example in examples]
        assert len(set(messages)) == len(messages) == min(4, len(MESSAGES[collection]))
        for example in examples:
            whole = texts[example["id"]]
            cut += len(whole) > LONGEST
            assert example["query"] == whole[:LONGEST] + "…" * (len(whole) > LONGEST)
    assert cut


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


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(html: str, card: dict[str, Any]) -> Page:
    """Nothing is loaded, no text has become markup, and every collection is there."""
    page = Page(html)
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)
    assert page.tags["script"] == page.tags["style"] == 1
    assert not page.tags.keys() & {"img", "link", "iframe", "object", "embed", "image", "base", "a"}
    loading = re.compile(r"on.*|src|srcset|href|xlink:href|action|data|poster|background")
    assert not [name for name, _ in page.attributes if loading.fullmatch(name)]
    assert not [value for name, value in page.attributes if name == "style" and "url" in value]
    for collection in card["sets"]["flan5m"]["collections"]:
        assert f'data-collection="{collection}"' in html
    return page


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
    assert len(widths) < 140  # about two screens


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
