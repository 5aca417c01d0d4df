"""Readers: each public format gives the trace it means, or says what is wrong with the row."""

from __future__ import annotations

from pathlib import Path

import pytest

from orca.traces import READERS, BadRow, RowOrigin, Trace, TraceSource

ORIGIN = RowOrigin(id="file:1", teacher="gpt4", sub_collection="x", task="t")


def read(name: str, row: dict) -> Trace:
    return READERS[name](row, ORIGIN)


def test_openorca_takes_the_sub_collection_from_the_id() -> None:
    row = {"id": "niv.242", "system_prompt": "", "question": "Q", "response": " A \n"}
    trace = read("openorca", row)
    assert (trace.sub_collection, trace.query, trace.response) == ("niv2", "Q", "A")


@pytest.mark.parametrize(
    "row",
    [
        {
            "conversations": [
                {"from": "system", "value": "S", "weight": None},
                {"from": "human", "value": "Q", "weight": 0},
                {"from": "gpt", "value": "A", "weight": 1},
            ]
        },
        {
            "messages": [
                {"role": "system", "content": "S"},
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": "A"},
            ]
        },
    ],
)
def test_both_chat_forms_give_the_same_trace(row: dict) -> None:
    trace = read("chat", row)
    assert (trace.system_message, trace.query, trace.response) == ("S", "Q", "A")


def test_several_exchanges_are_refused_not_cut() -> None:
    turn = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    with pytest.raises(BadRow, match="roles are") as error:
        read("chat", {"messages": turn * 2})
    assert error.value.reason == "not_one_exchange"


def test_alpaca_joins_instruction_and_input() -> None:
    assert read("alpaca", {"instruction": "I", "input": "x", "output": "A"}).query == "I\n\nx"
    assert read("alpaca", {"instruction": "I", "input": "", "output": "A"}).query == "I"


def test_flan_cot_states_the_answer_after_the_rationale() -> None:
    row = {"question": "Q\\nOptions", "answer": "(B)", "rationale": "Because."}
    trace = read("flan_cot", row)
    assert trace.query == "Q\nOptions"
    assert trace.response == "Because.\nThe answer is (B)."
    assert trace.gold_answer == "(B)" and trace.teacher == "human"


def test_prompt_completion_strips_the_end_mark() -> None:
    row = {"prompt": "Q", "completion": " A<|endoftext|>", "template": "tpl"}
    trace = read("prompt_completion", row)
    assert (trace.response, trace.task) == ("A", "tpl")


@pytest.mark.parametrize(
    ("name", "row", "reason", "words"),
    [
        ("openorca", {"question": "Q"}, "missing_field", "no field 'response'"),
        ("openorca", {"question": 3, "response": "A"}, "wrong_type", "is int '3'"),
        ("openorca", {"question": "Q", "response": "  "}, "empty_response", "'response'"),
        ("openorca", {"question": "", "response": "A"}, "empty_field", "'question'"),
        ("chat", {"text": "x"}, "missing_field", "'messages' or 'conversations'"),
        ("chat", {"messages": "x"}, "wrong_type", "not a list"),
        (
            "prompt_completion",
            {"prompt": "Q", "completion": "<|endoftext|>"},
            "empty_response",
            "is empty",
        ),
        ("trace", {"query": "q", "response": "r", "difficulty": "hard"}, "wrong_type", "number"),
    ],
)
def test_a_bad_row_says_which_field_and_why(name: str, row: dict, reason: str, words: str) -> None:
    with pytest.raises(BadRow, match=words) as error:
        read(name, row)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("files", "format", "rows", "empty"),
    [
        ("flan_cot/*_train.tsv", "flan_cot", 33_443, 0),
        ("alpaca_eval/gpt4/model_outputs.json", "alpaca", 805, 0),
        ("alpaca_gpt4_demo/alpaca_en_demo.json", "alpaca", 999, 0),
        ("t0/*.jsonl", "prompt_completion", 4_480, 112),
    ],
)
def test_real_files_of_other_people_are_read_whole(
    shared_data: Path, files: str, format: str, rows: int, empty: int
) -> None:
    source = TraceSource(files, format, root=str(shared_data))
    bad: list[str] = []
    for number in range(len(source)):
        try:
            assert source[number].response
        except BadRow as error:
            bad.append(error.reason)
    assert len(source) == rows and bad == ["empty_response"] * empty
