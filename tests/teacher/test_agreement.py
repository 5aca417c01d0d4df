"""A response disagrees with a target only where both are answers of one kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca.teacher.agreement import Agreement, agreement
from orca.traces.formats import RowOrigin, read_flan_cot

CHOICE = "Which is a fruit?\nOptions:\n(A) iron\n(B) red apple\n(C) not a stone"
BULLETS = "Where does one borrow coffee?\nOptions:\n- friend's house\n- supermarket\n- no shop"
LABELS = "Is the tweet positive, negative or very negative? Tweet: Barack Obama is in Hawaii."


@pytest.mark.parametrize(
    ("response", "target", "query", "expected"),
    [
        ("The answer is 1,000.", "1000", "", "agrees"),
        ("Answer: $12", "12 ", "", "agrees"),
        ("The answer is twelve apples.", "12", "", "agrees"),
        ("The answer is 3.3333.", "3.33", "", "agrees"),
        ("The answer is 3.34", "3.33", "", "disagrees"),
        ("The answer is 13.", "12", "", "disagrees"),
        ("The answer is 3 + 4 = 7.", "7", "", "cannot tell"),
        ("The answer is 1.2 million.", "1200000", "", "cannot tell"),
        ("The answer is 0.5.", "50%", "", "cannot tell"),
        ("There are 2 boxes.\nSo he has 14 apples.", "14", "", "agrees"),
        ("There are 2 boxes.\nSo he has 14 apples.", "15", "", "disagrees"),
        ("There are 2 boxes.\nSo he has 2 times 7 apples.", "14", "", "cannot tell"),
        ("As many as 3 + 6 = 9 films.", "9", "", "cannot tell"),
        (
            "We look.\nSo the 19 year old is Ann.",
            "2",
            "The 19 year old is 1. Eve 2. Ann",
            "cannot tell",
        ),
        ("J. Hoover was a director.", "yes", "Options:\n- yes\n- no", "cannot tell"),
        ("B. The text says so.", "(A)", CHOICE, "cannot tell"),
        ("The answer is B.", "(B)", CHOICE, "agrees"),
        ("The answer is (A).", "B", CHOICE, "disagrees"),
        ("**Answer:** red apple", "(B)", CHOICE, "agrees"),
        ("The answer is (B) a red apple.", "red apple", CHOICE, "agrees"),
        ("The answer is (A)", "red apple", CHOICE, "disagrees"),
        ("The answer is not a stone.", "(A)", CHOICE, "disagrees"),
        ("The answer is (A) or (B).", "(C)", CHOICE, "cannot tell"),
        ("(A) is a metal.\n(C) is odd.\nAnd so on.", "(B)", CHOICE, "cannot tell"),
        ("(B)\nIron is a metal.", "(B)", CHOICE, "agrees"),
        ("The answer is a vegetable.", "(B)", CHOICE, "cannot tell"),
        ("The answer is the supermarket.", "friend's house", BULLETS, "disagrees"),
        ("The answer is friend’s house.", "friend's house", BULLETS.replace("'", "’"), "agrees"),
        ("Yes, because it is.", "yes", "", "agrees"),
        ("No, it is not so.", "Yes", "", "disagrees"),
        ("The answer is false.", "True", "", "disagrees"),
        ("No one knows.", "yes", "", "cannot tell"),
        ("The answer is neither yes nor no.", "yes", "", "cannot tell"),
        ("Positive.", "positive", LABELS, "agrees"),
        ("Negative.", "positive", LABELS, "disagrees"),
        ("The answer is very negative.", "negative", LABELS, "cannot tell"),
        ("The answer is Obama.", "Barack Obama", LABELS, "cannot tell"),
        ("The answer is Hawaii.", "Barack Obama", LABELS, "disagrees"),
        ("The answer is the president.", "Barack Obama", LABELS, "cannot tell"),
        ("Here is a poem about the sea.", "A poem of the sea and of its many ships", "", None),
        ("", "yes", "", "cannot tell"),
        ("Yes.", "", "", "cannot tell"),
    ],
)
def test_an_answer_against_a_target(
    response: str, target: str, query: str, expected: Agreement | None
) -> None:
    assert agreement(response, (target,), query) == (expected or "cannot tell")


@pytest.mark.parametrize(
    "text", ["7" * 6000, "1/0", "." * 6000, " \n" * 6000, "the answer is" * 600]
)
def test_long_and_odd_texts_are_compared_quickly(text: str) -> None:
    assert agreement(f"The answer is {text}", ("5",), text) in ("disagrees", "cannot tell")
    assert agreement(text, ("5", text), "") in ("agrees", "cannot tell")


def test_any_target_counts_and_all_must_be_contradicted() -> None:
    assert agreement("The answer is 4.", ("3", "4")) == "agrees"
    assert agreement("The answer is 4.", ("3", "5")) == "disagrees"
    assert agreement("The answer is 4.", ("3", "some long text without an end")) == "cannot tell"
    assert agreement("The answer is 4.", ()) == "cannot tell"


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_numbers_agree_when_they_are_equal(said: int, gold: int) -> None:
    expected = "agrees" if said == gold else "disagrees"
    for response in (f"The answer is {said:,}.", f"So it is\n**{said}**", f"Answer: {said}.0"):
        assert agreement(response, (str(gold),)) == expected
        assert agreement(response, (f"{said:,}",)) == "agrees"


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=40), st.text(max_size=200))
def test_no_text_breaks_the_comparison(response: str, target: str, query: str) -> None:
    assert agreement(response, (target,), query) in ("agrees", "disagrees", "cannot tell")
    assert agreement(f"The answer is {target}", (target,), query) != "disagrees"


def test_cot_rows_agree_with_their_own_answer_and_no_other(shared_data: Path) -> None:
    files = sorted(shared_data.glob("flan_cot/*_train.tsv"))
    assert len(files) == 7
    for file in files:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1][::20]
        names = ("question", "answer", "rationale")
        rows = [dict(zip(names, line.split("\t"), strict=True)) for line in lines]
        traces = [read_flan_cot(row, RowOrigin(id="")) for row in rows]
        for one, other in zip(traces, traces[1:] + traces[:1], strict=True):
            gold = (one.gold_answer or "",)
            assert agreement(one.response, gold, one.query) == "agrees"
            if other.gold_answer != one.gold_answer and file.name != "ecqa_train.tsv":
                # ecqa's options are texts of their own query, which another's does not show
                assert agreement(other.response, gold, one.query) == "disagrees", (one, other)


@pytest.mark.parametrize(("mode", "least"), [("cot", 0.7), ("direct", 0.9)])
def test_real_outputs_are_judged_as_exact_match_judges_them(
    shared_data: Path, mode: str, least: float
) -> None:
    wrong = told = 0
    files = sorted(shared_data.glob(f"bbh/codex_outputs/{mode}/*.jsonl"))
    assert len(files) == 27
    for file in files:
        examples = json.loads((shared_data / "bbh" / f"{file.stem}.json").read_text())["examples"]
        for line in file.read_text(encoding="utf-8").splitlines()[::5]:
            row = json.loads(line)
            stated = row["prediction"].split("the answer is ")[-1].strip().removesuffix(".")
            query = examples[row["example_index"]]["input"]
            found = agreement(row["prediction"], (row["target"],), query)
            if stated.strip() == row["target"]:
                assert found == "agrees", row
            else:
                assert found != "agrees", row
                wrong, told = wrong + 1, told + (found == "disagrees")
    assert wrong > 200 and told > least * wrong
