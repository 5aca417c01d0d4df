"""A gate rejects what it is for, and lets the answers of real teachers pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from orca.config import CONF_DIR
from orca.errors import UserError
from orca.teacher.gates import Empty, Gate, Language, Refusal, Repetition, WrongAnswer, run_gates
from orca.teacher.request import Request

ASKED = Request("q", "", "What is the capital of France?")


def gates(option: str) -> list[Gate]:
    config = yaml.safe_load((CONF_DIR / "gates" / f"{option}.yaml").read_text()) or {}
    return [instantiate(one, _convert_="all") for one in config.values()]


def test_every_option_is_built_and_the_first_gate_that_rejects_is_named() -> None:
    standard = gates("standard")
    assert gates("none") == []
    names = ["empty", "refusal", "repetition", "language", "wrong_answer"]
    assert [gate.name for gate in standard] == names
    asked = Request("q", "", "2 + 2?", targets=("4",))
    assert run_gates(standard, asked, "Two and two make four.\nThe answer is 4.") is None
    assert run_gates(standard, asked, " \n") == ("empty", "no text")
    assert run_gates(standard, asked, "The answer is 5.") == (
        "wrong_answer",
        "the gold answer is 4",
    )
    both = "I'm sorry, but I can't assist with that. The answer is 5"
    assert run_gates([Empty(), WrongAnswer(), Refusal()], asked, both) == (
        "wrong_answer",
        "the gold answer is 4",
    )
    assert run_gates([], asked, "") is None


@settings(deadline=None)
@given(st.text(max_size=300))
def test_only_white_space_is_empty_and_no_text_breaks_a_gate(text: str) -> None:
    assert (Empty().reject(ASKED, text) is not None) == (not text.strip())
    run_gates(gates("standard"), Request("q", "", text, targets=(text, "(A)")), text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "As an AI language model, I cannot give medical advice.",
        "I’m sorry, but as an AI language model I don’t have access to current prices.",
        "I am sorry, but I am an AI language model and cannot access the weather.",
        "Sorry, I am unable to help with this.",
        "I cannot provide instructions for that.",
        "I apologize, but I won't be able to do so.",
    ],
)
def test_a_refusal_is_the_whole_response(text: str) -> None:
    assert Refusal().reject(ASKED, text)
    assert Refusal().reject(ASKED, f"{text} However, here is what is known: it is Paris.") is None
    assert Refusal().reject(ASKED, f"The teacher of the story said: {text}") is None
    assert Refusal(max_characters=len(text) - 1).reject(ASKED, text) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear about your friend's loss. Be there for them.",
        "I cannot help the way I feel about the Lord up high.",
        "As an AI assistant, I would help the customer by the following steps.",
        "It cannot be determined from the passage who won.",
        "No, I cannot conclude that from the premise.",
        "As an AI, I don't have a house, but I can describe one: it is red.",
    ],
)
def test_an_answer_is_no_refusal(text: str) -> None:
    assert Refusal().reject(ASKED, text) is None


@settings(deadline=None)
@given(st.text("abcdefg hij.\n", min_size=1, max_size=60).filter(str.strip), st.integers(0, 3))
def test_a_loop_is_found_wherever_it_begins(sentence: str, before: int) -> None:
    opening = "".join(f"Fact {i}: {i * i} is the square of {i}. " for i in range(before))
    loop = opening + sentence * (2000 // len(sentence))
    long_enough = len(" ".join(loop.split())) >= 1000
    assert (Repetition().reject(ASKED, loop) is not None) or not long_enough


def test_what_is_no_loop_passes_and_shares_are_shares() -> None:
    counting = ", ".join(map(str, range(1000)))
    assert Repetition().reject(ASKED, counting) is None
    assert Repetition().reject(ASKED, "no " * 20) is None  # shorter than min_characters
    assert Repetition().reject(ASKED, "no " * 200) == "99% stood there before"
    for wrong in ({"max_share": 1.5}, {"max_share": 0.0}, {"window": 0}):
        with pytest.raises(UserError, match="gate 'repetition'"):
            Repetition(**wrong)  # type: ignore[arg-type]


GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren."
SPANISH = "Todos los seres humanos nacen libres e iguales en dignidad y derechos."


def test_a_language_that_nobody_asked_for_is_rejected() -> None:
    gate = Language()
    assert gate.reject(ASKED, GERMAN) == "de with probability 1.00"
    assert gate.reject(ASKED, "All human beings are born free and equal in dignity.") is None
    assert gate.reject(ASKED, "Nein") is None
    assert gate.reject(ASKED, "12 34 56 78") is None
    assert gate.reject(Request("q", "", GERMAN), GERMAN) is None
    assert gate.reject(Request("q", "", GERMAN), SPANISH)
    translated = Request("q", "", "Translate this sentence to German.", targets=(GERMAN,))
    assert gate.reject(translated, GERMAN) is None
    assert Language(("en", "de")).reject(ASKED, GERMAN) is None
    with pytest.raises(UserError, match=r"gate 'language'.*'english'"):
        Language(("english",))


def real_answers(shared_data: Path) -> list[tuple[Request, str]]:
    """Answers of three teachers to the instructions of AlpacaEval."""
    rows = [
        row
        for file in sorted(shared_data.glob("alpaca_eval/*/model_outputs.json"))
        for row in json.loads(file.read_text(encoding="utf-8"))
    ]
    return [(Request("q", "", row["instruction"]), row["output"]) for row in rows]


def test_real_answers_are_hardly_ever_rejected(shared_data: Path) -> None:
    answers = real_answers(shared_data)
    assert len(answers) == 3 * 805
    standard = gates("standard")
    found = [run_gates(standard, request, text) for request, text in answers]
    counts = {name: sum(one is not None and one[0] == name for one in found) for name in NAMES}
    assert 5 <= counts["refusal"] <= 20
    assert counts["repetition"] == 4  # read: all four are loops
    assert counts["language"] <= 4  # three of them asked-for translations without a target
    assert counts["wrong_answer"] == 0  # no targets


NAMES = ("empty", "refusal", "repetition", "language", "wrong_answer")
