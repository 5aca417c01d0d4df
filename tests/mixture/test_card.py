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
        "asked": {
            "collections": {"t0": 2_000_000, "niv2": 3, "cot": None},
            "sets": {"flan5m": None, "flan1m": 1_000_000},
        },
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
        assert counted["estimated_tokens"] == characters // 4
        messages = Counter(str(row["system_message_id"]) for row in mine)
        assert counted["system_messages"] == messages
        assert counted["targets"] == Counter(str(len(row["targets"])) for row in mine)
        for kind in ("zs_opt", "zs_noopt"):
            found = sum(row["template_type"] == kind for row in choices)
            whole = sum(row["template_type"] == kind for row in mine)
            by_type = counted["template_types"].get(kind, {"found": 0, "not_found": 0})
            assert by_type == {"found": found, "not_found": whole - found}


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    """The first table below every heading, without its head."""
    tables: dict[str, list[list[str]]] = {}
    for part in text.split("\n## ")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("| ")][2:]
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        tables[part.splitlines()[0]] = cells
    return tables


def request_of(row: Row) -> int:
    return len(row["system_message"]) + len(row["query"])


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


def test_the_page_says_what_hygiene_found_beside_what_it_removed(card: dict[str, Any]) -> None:
    assert (card["hygiene"]["queries_found"], card["hygiene"]["queries_removed"]) == (2, 2)
    page = Page(card_html(card)).text
    assert "2 found, 2 removed" in page and "by 2 checks, in 2 queries" in page


def test_the_task_table_has_the_sets_beside_the_task(card: dict[str, Any]) -> None:
    html = card_html(card)
    head = re.findall(r"<th[^>]*data-sort>([^<]*)", html)
    assert head[:4] == ["collection", "task", "flan5m", "flan1m"]
    (row,) = re.findall(r"<tr data-collection.*?>never_drawn<.*?</tr>", html)
    cells = re.findall(r"<td>([^<]*)</td>", row)
    assert cells == ["0", "0", "5", "–", "0", "0"] and len(head) == len(cells) + 2


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
    for counted in card["sets"]["flan5m"]["collections"].values():
        longest = {f"{length['p100']:,}" for length in counted["lengths"].values()}
        assert longest <= set(page.text.split())
    for text in (page.text, card_markdown(card)):
        assert "promptsource’s flag" in text and "for NiV2 it is always zs_opt" in text


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
