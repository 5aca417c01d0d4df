"""The shipped sample keeps the promises of its card."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from orca.sample import SAMPLE_DIR
from orca.sample.voices import ANSWER_FIRST, MESSAGE_IDS, stated_answer
from orca.traces.system_messages import MULTIPLE_CHOICE_ONLY, SYSTEM_MESSAGES

FIELDS = [
    "id",
    "system_message",
    "query",
    "response",
    "teacher",
    "sub_collection",
    "task",
    "gold_answer",
    "difficulty",
]
FILES = ("stage1_train", "stage2_train", "held_out")
MESSAGE_ID = {text: number for number, text in SYSTEM_MESSAGES.items()}


@cache
def records(name: str) -> list[dict[str, Any]]:
    with (SAMPLE_DIR / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def words(query: str) -> str:
    """A query without case, white space or order of its words."""
    return " ".join(sorted(re.findall(r"\w+|[^\w\s]", query.lower())))


def test_a_fresh_build_gives_the_shipped_bytes() -> None:
    pytest.importorskip("reasoning_gym")
    from orca.sample.build import build

    for name, text in build().items():
        assert (SAMPLE_DIR / name).read_bytes() == text.encode("utf-8"), name


def test_check_names_the_file_that_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("reasoning_gym")
    from orca.sample.build import main

    assert main(["--out", str(tmp_path)]) == 0
    assert main(["--out", str(tmp_path), "--check"]) == 0
    with (tmp_path / "held_out.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert main(["--out", str(tmp_path), "--check"]) == 1
    assert "held_out.jsonl" in capsys.readouterr().err


def test_a_wrong_answer_stops_the_build() -> None:
    pytest.importorskip("reasoning_gym")
    from dataclasses import replace
    from random import Random

    import reasoning_gym

    from orca.sample.build import FAMILIES, verify

    family = next(family for family in FAMILIES if family.name == "spell_backward")
    checker = reasoning_gym.create_dataset(family.name, seed=1, size=50, **dict(family.config))
    solved = [(item, family.solve(item, Random(0))) for item in checker]
    item, problem = next((item, problem) for item, problem in solved if problem is not None)
    verify(family, item, problem, checker)
    with pytest.raises(ValueError, match="spell_backward, item"):
        verify(family, item, replace(problem, gold=problem.gold + "x"), checker)


@pytest.mark.parametrize("name", FILES)
def test_every_record_has_the_fields_in_order(name: str) -> None:
    for record in records(name):
        assert list(record) == FIELDS
        assert isinstance(record["difficulty"], float)
        assert record["sub_collection"] == "reasoning_gym"
        assert record["teacher"] == f"synthetic-{'long' if name == 'stage2_train' else 'short'}"


@pytest.mark.parametrize("name", FILES)
def test_no_file_repeats_a_question(name: str) -> None:
    asked = Counter(" ".join(record["query"].lower().split()) for record in records(name))
    assert max(asked.values()) == 1


def test_there_are_many_families_and_three_are_multiple_choice() -> None:
    families = {record["task"] for record in records("stage1_train")}
    choosing = {record["task"] for record in records("stage1_train") if is_choice(record)}
    assert len(families) >= 14
    assert len(choosing) >= 3
    assert families == {record["task"] for record in records("held_out")}


def test_no_held_out_question_is_in_training_even_with_its_words_reordered() -> None:
    training = {words(record["query"]) for record in records("stage1_train")}
    assert not training & {words(record["query"]) for record in records("held_out")}


def test_every_family_has_sixteen_held_out_questions() -> None:
    assert set(Counter(record["task"] for record in records("held_out")).values()) == {16}


def test_stage_two_asks_questions_of_stage_one_under_the_same_message() -> None:
    first = {record["id"]: record for record in records("stage1_train")}
    for record in records("stage2_train"):
        same = first[record["id"]]
        for field in ("system_message", "query", "task", "gold_answer", "difficulty"):
            assert record[field] == same[field]
        assert record["response"] != same["response"]


@pytest.mark.parametrize("name", FILES)
def test_every_response_states_its_gold_answer_where_the_message_wants_it(name: str) -> None:
    for record in records(name):
        message_id = MESSAGE_ID[record["system_message"]]
        sentence = f"The answer is {record['gold_answer']}."
        assert record["response"].count("The answer is") == 1
        if message_id in ANSWER_FIRST:
            assert record["response"].startswith(sentence)
        else:
            assert record["response"].endswith(sentence)
        assert stated_answer(record["response"], message_id) == record["gold_answer"]


def is_choice(record: dict[str, Any]) -> bool:
    return "\nOPTIONS:\n(A) " in record["query"]


@pytest.mark.parametrize("name", FILES)
def test_multiple_choice_messages_go_with_multiple_choice_questions_alone(name: str) -> None:
    for record in records(name):
        if MESSAGE_ID[record["system_message"]] in MULTIPLE_CHOICE_ONLY:
            assert is_choice(record)
            letters = re.findall(r"^\((\w)\) ", record["query"], flags=re.MULTILINE)
            for letter in letters:
                assert f"({letter})" in record["response"]
        if is_choice(record):
            assert f"\n({record['gold_answer']}) " in record["query"]


@pytest.mark.parametrize("name", FILES)
def test_message_fifteen_gets_parts_with_usages(name: str) -> None:
    parts = re.compile(r"Part #\d: .+\nUsage: .+(\nPart #\d: .+\nUsage: .+)+")
    for record in records(name):
        follows_format = parts.fullmatch(record["response"]) is not None
        assert follows_format == (MESSAGE_ID[record["system_message"]] == 15)


def test_the_right_option_has_no_favourite_letter() -> None:
    letters = Counter(r["gold_answer"] for r in records("stage1_train") if is_choice(r))
    assert max(letters.values()) < 0.45 * letters.total()


@pytest.mark.parametrize(("name", "least"), [("stage1_train", 10), ("stage2_train", 5)])
def test_every_message_is_used_often_enough(name: str, least: int) -> None:
    used = Counter(MESSAGE_ID[record["system_message"]] for record in records(name))
    assert set(used) == set(MESSAGE_IDS)
    assert min(used.values()) >= least


def test_the_long_voice_is_about_half_as_long_again_on_the_same_queries() -> None:
    short = {record["id"]: len(record["response"]) for record in records("stage1_train")}
    long = records("stage2_train")
    ratio = mean(len(record["response"]) for record in long) / mean(
        short[record["id"]] for record in long
    )
    assert 1.3 < ratio < 1.8


def test_queries_and_short_responses_are_short() -> None:
    for field in ("query", "response"):
        assert mean(len(record[field].split()) for record in records("stage1_train")) <= 45


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE_DIR.iterdir()) < 2_600_000


EQUALITY = re.compile(r"(?<![\d.])(?<![a-z] [-+] )\d+(?: [-+×/] \d+)*(?: = \d+(?: [-+×/] \d+)*)+")
REMAINDER = re.compile(r"(\d+) / (\d+) leaves (\d+)")
COMPARISON = re.compile(r"(\d+) ([<>]) (\d+): ")


@pytest.mark.parametrize("name", FILES)
def test_every_equality_remainder_and_comparison_is_true(name: str) -> None:
    found = 0
    for record in records(name):
        response = record["response"]
        for match in EQUALITY.finditer(response):
            sides = [eval(s.replace("×", "*")) for s in match[0].split(" = ")]  # digits and signs
            assert len(set(sides)) == 1, match[0]
            found += 1
        for number, divisor, rest in REMAINDER.findall(response):
            assert int(number) % int(divisor) == int(rest)
        for left, sign, right in COMPARISON.findall(response):
            assert (int(left) < int(right)) == (sign == "<") and left != right
    assert found > len(records(name)) / 2


def test_the_card_says_that_the_traces_are_synthetic() -> None:
    card = (SAMPLE_DIR / "README.md").read_text(encoding="utf-8")
    assert "SYNTHETIC" in card
    assert "GPT-4" in card
