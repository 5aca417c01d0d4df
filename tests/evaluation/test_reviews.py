"""Scores are read from reviews as FastChat reads them, or as they are stated; never guessed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca.errors import UserError
from orca.evaluation.judge import templates
from orca.evaluation.reviews import (
    Review,
    parse_review,
    published_answers,
    published_scores,
    read_reviews,
    write_reviews,
)
from orca.evaluation.statistics import macro_ratio

LANG, FP16, SMALL = (
    "vicuna-13b_20230322-clean-lang",
    "vicuna-13b_20230322-new-hp-fp16",
    "vicuna-7b_20230322-fp16",
)
TOTALS = {
    "others/review_llama_alpaca-13b": (525, 605),
    f"{LANG}/review_alpaca-13b_vicuna-13b": (583, 704),
    f"{LANG}/review_bard_vicuna-13b": (664, 655.5),
    f"{LANG}/review_gpt35_vicuna-13b": (693, 638),
    f"{LANG}/review_llama-13b_vicuna-13b": (513, 694),
    f"{FP16}/review_alpaca-13b_vicuna-13b-20230322-new-hp-fp16": (576, 696.5),
    f"{FP16}/review_bard_vicuna-13b-20230322-new-hp-fp16": (661.5, 662),
    f"{FP16}/review_gpt35_vicuna-13b-20230322-new-hp-fp16": (684, 633.5),
    f"{FP16}/review_llama_vicuna-13b-20230322-new-hp-fp16": (523, 695),
    f"{SMALL}/review_alpaca-13b_vicuna-7b": (583, 684.5),
    f"{SMALL}/review_bard_vicuna-7b": (660, 630),
    f"{SMALL}/review_gpt35_vicuna-7b": (688, 604),
    f"{SMALL}/review_llama_vicuna-7b": (513, 677.5),
}
"""Sums of the stored scores by file: of the first model (the reference) and of the second."""


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def test_real_reviews_of_gpt4_sum_to_the_published_scores(shared_data: Path) -> None:
    """Vicuna-13B has 638 / 693 = 92.06 % of ChatGPT's, the published "92 %"."""
    directory = shared_data / "vicuna" / "2023_eval" / "review"
    found = {
        str(file.relative_to(directory).with_suffix("")): published_scores(file)
        for file in directory.rglob("*.jsonl")
    }
    assert {name: tuple(np.sum(own, axis=0)) for name, own in found.items()} == TOTALS
    assert {len(own) for own in found.values()} == {80}
    scores = np.array(found[f"{LANG}/review_gpt35_vicuna-13b"])[:, ::-1]
    ratio = macro_ratio([scores]).times(100)
    assert round(ratio.value, 2) == 92.06
    assert ratio.low < 92.06 < ratio.high


def test_every_real_review_is_read(shared_data: Path) -> None:
    """All 1,040, of which 1,038 as stored: two stored scores contradict the review's own text."""
    directory = shared_data / "vicuna" / "2023_eval"
    category = {row["question_id"]: row["category"] for row in rows(directory / "question.jsonl")}
    seen: Counter[tuple[bool, bool]] = Counter()
    for file in sorted((directory / "review").rglob("*.jsonl")):
        for row in rows(file):
            math = category[row["question_id"]] == "math"
            pair = parse_review(row["text"], "math" if math else "general")
            assert pair is not None, (file, row["question_id"])
            seen[math, pair == tuple(row["score"])] += 1
            if pair != tuple(row["score"]):
                assert (row["question_id"], row["score"], pair) == (70, [10, 2], (10, 4))
                assert "Assistant 1: 10\nAssistant 2: 4\n" in row["text"]
            if math:
                assert parse_review(row["text"], "general") is None
    assert seen == {(False, True): 1001, (True, True): 37, (True, False): 2}


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("8 9\nBoth are good.", (8, 9)),
        ("8, 9.5", (8, 9.5)),
        ("\n 10 0\nwhy", (10, 0)),
        ("8 9 7\nwhy", None),
        ("8/10 9/10\nwhy", None),
        ("8 11\nwhy", None),
        ("-1 5\nwhy", None),
        ("nan inf\nwhy", None),
        ("Assistant 1: 8\nAssistant 2: 9", None),
        ("Both are good.\n8 9", None),
        ("", None),
    ],
)
def test_general_reviews_are_read_by_their_first_line(text: str, pair: Any) -> None:
    assert parse_review(text, "general") == pair
    assert parse_review(text, "coding") == pair


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("f(2) = 39\n\nScores:\nAssistant 1: 8\nAssistant 2: 3 (wrong)", (8, 3)),
        ("Solved.\n\n**Scores:**\n\n**Assistant 1:** 8/10\n\n**Assistant 2:** 3/10", (8, 3)),
        ("Solved.\nAssistant 1: 8/10 - good\nAssistant 2: 3/10 - bad", (8, 3)),
        ("Solved.\n```python\n(8, 3)\n```\nThe first is better.", (8, 3)),
        ("Solved.\nOutput: (8, 3)", (8, 3)),
        ("Solved.\n(8, 3)", (8, 3)),
        ("Scores:\nAssistant 1: 8\nAssistant 2: 3\n\nThe tuple is (8, 3).", (8, 3)),
        # Two statements differ.
        ("Scores:\nAssistant 1: 8\nAssistant 2: 3\n\nThe tuple is (8, 4).", None),
        # Points, results and answers are no scores.
        ("The endpoints are (2, 8) and (10, 4).\nBoth are right.", None),
        ("Assistant 1: 8\nAssistant 2: 3\nBoth are wrong.", None),
        ("Results are:\nAssistant 1: 5x - 1\nAssistant 2: 6 units", None),
        ("Scores:\nAssistant 1: 8 units\nAssistant 2: 3 units", None),
        ("Scores:\nAssistant 1: 80\nAssistant 2: 30", None),
        ("Scores:\nAssistant 2: 3\nAssistant 1: 8", None),
        ("I would give Assistant 1 a score of 8 and Assistant 2 a score of 3.", (8, 3)),
    ],
)
def test_math_reviews_are_read_where_they_state_one_pair(text: str, pair: Any) -> None:
    assert parse_review(text, "math") == pair


def test_a_review_that_was_cut_states_no_last_number() -> None:
    """The 1 may be the beginning of a 10."""
    assert parse_review("Scores:\nAssistant 1: 8\nAssistant 2: 1", "math", cut=True) is None
    assert parse_review("8 1", "general", cut=True) is None
    assert parse_review("8 1\nBecause", "general", cut=True) == (8, 1)


@given(st.text(), st.sampled_from(["general", "coding", "math"]))
def test_scores_are_in_range_whatever_the_text(text: str, category: str) -> None:
    pair = parse_review(text, category)
    assert pair is None or all(0 <= score <= 10 for score in pair)


@given(st.floats(0, 10), st.floats(0, 10), st.text())
def test_two_numbers_on_the_first_line_are_read(first: float, second: float, rest: str) -> None:
    first, second = round(first, 1), round(second, 1)
    assert parse_review(f"{first} {second}\n{rest}", "general") == (first, second)


def test_templates_are_fastchats(shared_data: Path) -> None:
    directory = shared_data / "vicuna" / "2023_eval"
    known = templates()
    prompts = {row["prompt_id"]: row for row in rows(directory / "prompt.jsonl")}
    reviewers = rows(directory / "reviewer.jsonl")
    assert {one["category"] for one in reviewers} == set(known["instructions"])
    for one in reviewers:
        prompt = prompts[one["prompt_id"]]
        assert prompt["system_prompt"] == known["system"]
        assert prompt["prompt_template"] == known["template"]
        assert prompt["defaults"]["prompt"] == known["instructions"][one["category"]]
        sampling = {"temperature": known["temperature"], "max_tokens": known["max_tokens"]}
        assert one["metadata"] == sampling


def test_reviews_come_back_from_parquet(tmp_path: Path) -> None:
    review = Review(
        "vicuna/1", "vicuna", "generic", 0, 1, "reference_first", "p", "8 9", "stop", 9, 8, "m"
    )
    unread = Review(
        "vicuna/2", "vicuna", "generic", 0, 1, "reference_first", "p", "?", "stop", None, None, "m"
    )
    write_reviews([review, unread], tmp_path / "new" / "reviews.parquet")
    assert read_reviews(tmp_path / "new" / "reviews.parquet") == [review, unread]


def test_published_files_of_another_form_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"score": [-1, -1]}\n')
    with pytest.raises(UserError, match="row 0: 'score' is no pair"):
        published_scores(file)
    file.write_text('{"question_id": 1, "text": "a"}\n{"text": "b"}\n')
    with pytest.raises(UserError, match="row 1: no whole number in 'question_id'"):
        published_answers(file)
