"""Planted pieces of benchmark items are found in traces, wherever they stand, and nothing else."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orca.evaluation import contamination
from orca.evaluation.contamination import overlap, parts, trace_texts
from orca.evaluation.item import Item
from orca.traces import TraceSource

PASSAGE = " ".join(f"passage{i}" for i in range(30))


def make_item(
    name: str, question: str, options: tuple[str, ...] = ("yes", "no"), context: str = ""
) -> Item:
    """As the paper asks: context, question, options."""
    labels = tuple("ABCDEFG"[: len(options)])
    listed = " ".join(f"({label}) {text}" for label, text in zip(labels, options, strict=True))
    prompt = (
        f"{context}Q: {question}\nAnswer Choices: {listed}\n"
        f"A: Among A through {labels[-1]}, the answer is"
    )
    benchmark, task, _ = name.split("/")
    return Item(name, benchmark, task, prompt, labels, options, ("A",))


STATEMENTS = tuple(" ".join(f"{side}{j}" for j in range(14)) for side in ("left", "right"))
ITEMS = [
    make_item("agieval/lsat-rc/0", "Which of these is the main point?", context=PASSAGE),
    make_item("agieval/lsat-rc/1", "What would the author most likely add?", context=PASSAGE),
    make_item("truthfulqa/mc/0", "Why do veins appear blue to us?"),
    make_item("truthfulqa/mc/1", "What?"),
    make_item("bbh/snarks/0", "Which statement is sarcastic?", STATEMENTS),
    Item("vicuna/vicuna/0", "vicuna", "vicuna", "How can I improve my time management skills?"),
    Item("toxigen/toxigen/0", "toxigen", "toxigen", " ".join(f"group{i}" for i in range(20))),
]


def test_what_is_searched_for_is_the_item_without_the_words_of_the_prompts_form() -> None:
    assert parts(ITEMS[0].prompt) == (
        PASSAGE,
        "Which of these is the main point?\n",
        "(A) yes (B) no",
    )
    assert parts(ITEMS[5].prompt) == ("", ITEMS[5].prompt, "")


@pytest.mark.parametrize("block", [1, 300, 1_000_000])
def test_planted_overlap_is_found_and_counted(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(contamination, "_CHARACTERS_AT_ONCE", block)
    passage = PASSAGE.split()
    texts = [
        ("0", " ".join(passage[:12])),  # one word too few
        ("1", "See: " + " ".join(passage[3:16])),
        ("2", "And more: " + ", ".join(passage[3:20]).upper()),
        ("3", "why do veins appear ‘blue’ to us"),
        ("4", "What is the main point? Which of these is the main point?"),
        ("5", "Answer Choices: (A) yes (B) no A: Among A through B, the answer is"),
        ("6", f"sarcasm: {STATEMENTS[1]}"),
        ("7", "tell me: how can I improve my time management skills"),
        ("8", ITEMS[6].prompt),
        ("9", ""),
    ]
    report = overlap(ITEMS, iter(texts))
    assert report.texts == len(texts)
    found = {one.item: (one.texts, one.words, one.where) for one in report.overlaps}
    assert found == {
        "agieval/lsat-rc/0": (2, 17, "2"),
        "agieval/lsat-rc/1": (2, 17, "2"),
        "truthfulqa/mc/0": (1, 7, "3"),
        "bbh/snarks/0": (1, 14, "6"),
        "vicuna/vicuna/0": (1, 8, "7"),
        "toxigen/toxigen/0": (1, 20, "8"),
    }
    quotes = {one.item: one.quote for one in report.overlaps}
    assert quotes["truthfulqa/mc/0"] == "why do veins appear blue to us"
    assert quotes["agieval/lsat-rc/0"] == " ".join(passage[3:16])
    assert quotes["toxigen/toxigen/0"] == ""
    assert report.without_evidence == ("truthfulqa/mc/1",)
    assert report.found()["agieval", "lsat-rc"] == 2
    assert report.table().texts()[0] == ["agieval", "lsat-rc", "2", "2", "100.0"]
    assert "10 texts" in report.table().notes[0]


def test_the_evidence_of_an_item_is_the_longer_of_question_and_question_with_options() -> None:
    text = "Why do veins appear blue to us? (A) yes (B) no"
    (found,) = overlap(ITEMS, [("0", text), ("1", text[:31])]).overlaps
    assert (found.texts, found.words, found.where) == (2, 11, "0")


def test_a_question_counts_once_among_those_that_have_its_words() -> None:
    """Words that nine items of a task have are evidence, of ten they are not: though each item
    is searched for in parts that share them."""
    stem = " ".join(f"stem{i}" for i in range(13))
    for count in (9, 10):
        items = [make_item(f"bbh/navigate/{i}", f"{stem} own{i}") for i in range(count)]
        assert len(overlap(items, [("0", stem)]).overlaps) == (9 if count == 9 else 0)


def test_an_instruction_is_no_part_of_a_question_and_a_passage_is() -> None:
    """Under a passage a short question is nothing to be found by; under a description it is."""
    question = "how many of the boxes are left"
    description = "Task description: Count what is left of the boxes in the text."
    ten = [make_item(f"bbh/a/{i}", f"{question} {i}?", context=description) for i in range(10)]
    under_passage = make_item("agieval/b/0", f"{question} 3?", context=PASSAGE)
    report = overlap([*ten, under_passage], [("0", f"{question} 3")])
    assert [one.item for one in report.overlaps] == ["bbh/a/3"]
    nine = overlap(ten[:9], [("0", f"{question} 3")])  # too few for a description
    assert nine.overlaps == ()


def test_query_and_response_of_traces_are_read(
    make_source: Callable[[list[dict[str, Any]]], TraceSource],
) -> None:
    source = make_source(
        [
            {"id": "a", "query": "Why do veins appear blue to us?", "response": "Light."},
            {"id": "b", "query": "no response"},
            {"id": "c", "query": "Name a piece.", "response": f"Here: {STATEMENTS[0]}"},
        ]
    )
    assert [where for where, _ in trace_texts(source)] == [
        "query of a",
        "response of a",
        "query of c",
        "response of c",
    ]
    report = overlap(ITEMS, trace_texts(source))
    found = {one.item: one.where for one in report.overlaps}
    assert found == {"truthfulqa/mc/0": "query of a", "bbh/snarks/0": "response of c"}


def aqua_items(shared_data: Path) -> list[Item]:
    lines = (shared_data / "agieval/aqua-rat.jsonl").read_text().rstrip("\n").split("\n")
    rows = map(json.loads, lines)
    return [
        make_item(
            f"agieval/aqua-rat/{i}", row["question"], tuple(one[3:] for one in row["options"])
        )
        for i, row in enumerate(rows)
    ]


def cot_texts(shared_data: Path, name: str) -> Iterator[tuple[str, str]]:
    with (shared_data / f"flan_cot/{name}_train.tsv").open(newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        for number, (question, _, rationale) in enumerate(rows):
            yield f"question {number}", question.replace("\\n", "\n")
            yield f"rationale {number}", rationale.replace("\\n", "\n")


def test_real_training_questions_that_are_test_questions_are_found(shared_data: Path) -> None:
    items = aqua_items(shared_data)
    report = overlap(items, cot_texts(shared_data, "aqua"))
    assert report.texts == 2 * 2_728
    found = {one.item: (one.texts, one.words, one.where) for one in report.overlaps}
    assert found == {  # paraphrased: other names, other numbers, or the same options
        "agieval/aqua-rat/67": (1, 18, "question 1299"),
        "agieval/aqua-rat/165": (4, 19, "question 478"),
        "agieval/aqua-rat/198": (1, 17, "question 2438"),
    }
    report = overlap(items, cot_texts(shared_data, "gsm8k"))
    assert (report.texts, report.overlaps) == (2 * 7_473, ())


def test_every_item_is_found_in_its_own_text(shared_data: Path) -> None:
    items = aqua_items(shared_data)
    report = overlap(items, ((item.id, " ".join(parts(item.prompt))) for item in items))
    assert len(items) == 254
    assert [one.item for one in report.overlaps] == [item.id for item in items]
    assert sum(one.where == one.item for one in report.overlaps) > 250
    assert report.without_evidence == ()


def test_the_items_that_share_text_are_listed_and_all_of_them_are_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = [("1", PASSAGE), ("2", STATEMENTS[0]), ("3", ITEMS[6].prompt)]
    report = overlap(ITEMS, iter(texts))
    listed = report.item_table()
    assert [row[0] for row in listed.rows][:2] == ["agieval/lsat-rc/0", "agieval/lsat-rc/1"]
    assert [row[1] for row in listed.rows] == sorted((r[1] for r in listed.rows), reverse=True)
    assert len(listed.rows) == 4 and not listed.notes
    report.save(tmp_path / "overlap.json")
    saved = json.loads((tmp_path / "overlap.json").read_text())
    assert {one["item"] for one in saved} == {row[0] for row in listed.rows}
    assert "group1" not in (tmp_path / "overlap.json").read_text() + listed.markdown()
    monkeypatch.setattr(contamination, "MOST_LISTED", 1)
    assert len(report.item_table().rows) == 1
    assert "The first 1 of 4; all are in overlap.json." in report.item_table().notes
