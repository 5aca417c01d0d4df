"""The paper's rule and the stated answer."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orca.evaluation.bbh import BBH, TASKS
from orca.evaluation.extraction import AGIEVAL_LETTERS, first_capital, stated_label

ABCD = ("A", "B", "C", "D")
OPTIONS = ("Paris", "not London", "Rome or Milan", "1")
ANY_LABELS = st.integers(1, 18).map(lambda count: tuple("ABCDEFGHIJKLMNOPQR"[:count]))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("(C)", "C"),
        ("The answer is (C).", "C"),
        ("As the passage says (C)", "A"),
        ("Answer: (B)", "A"),
        ("Based on the text, (C)", "B"),
        ("Every reader knows (C)", ""),  # E is an answer in AGIEval's code: a wrong one
        ("none of them", ""),
        ("", ""),
    ],
)
def test_the_papers_rule_takes_the_first_capital(text: str, label: str) -> None:
    assert first_capital(text, ABCD) == label


def test_labels_beyond_f_widen_the_letters() -> None:
    labels = tuple("ABCDEFGHIJKLMNOPQR")
    assert first_capital("the colour is (R)", labels) == "R"
    assert first_capital("the colour is (R), not (C)", ABCD) == "C"


@given(st.text() | st.text("ABCDEFGHab (.)"), ANY_LABELS)
def test_the_papers_rule_is_what_agievals_code_does(text: str, labels: tuple[str, ...]) -> None:
    """For up to six options its ``find_first_capital_letter``; an id that is no option is none."""
    letters = AGIEVAL_LETTERS if len(labels) <= 6 else "".join(labels)
    match = re.search(f"[{letters}]", text)
    assert first_capital(text, labels) == (match[0] if match and match[0] in labels else "")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("(C)", "C"),
        ("C", "C"),
        ("C.", "C"),
        ("**C**", "C"),
        ("(b)", "B"),
        ("A) Paris", "A"),
        ("D. 1", "D"),
        ("Paris.", "A"),
        ("paris, because it is", "A"),
        ("not London", "B"),
        ("The answer is (C).", "C"),
        ("The answer is not London", "B"),
        ("The answer is Rome or Milan.", "C"),
        ("The answer is the city on the Seine, (A).", "A"),
        ('The answer is "Paris".', "A"),
        ("The answer is Paris (A).", "A"),
        ("The answer is 1", "D"),
        ("The answer to this question is (C) Rome or Milan.", "C"),
        ("The correct answer is:\n\n(B) not London", "B"),
        ("The correct option is **(B) not London**, since (A) is too far.", "B"),
        ("Answer: B\nBecause (A) is wrong.", "B"),
        ("A: (B)", "B"),
        ("I would choose (D).", "D"),
        ("The answer is (C), not (A).", "C"),
        ("The answer is (B), and here is why: (A) is too far.", "B"),
        ("(B) is right, while (A) is wrong.", "B"),
        ("$\\boxed{\\text{C}}$", "C"),
        ("As the passage says (C)", "C"),
        ("Based on the passage, (C) is correct.", "C"),
        ("Option B, not London, is the best choice here.", "B"),
        ("B is the correct answer.", "B"),
        ("(A) is wrong. (B) is wrong. So it is (C).", "C"),
        ("The answer is A. Wait, the answer is B.", "B"),
        ("I first thought that the answer is (A).\nThe answer is (D).", "D"),
        ("A is wrong, B is right", "B"),
        ("A is right, B is wrong", "A"),
        ("Both A and B are wrong; C is correct.", "C"),
        ("(A) is not right and (C) is also correct.", "C"),
        ("They are not the same, so D is the answer.", "D"),
        ("I do not think that (A) is correct. (B) is the right answer.", "B"),
        ("Option A is not right, option C is the best one", "C"),
        ("If the answer is (A), then x; so not. It must be (D).", "D"),
        ("The answer is (B). If the answer was A, or if the answer is A, he lies.", "B"),
        ("If the man is tall, the answer is (A).", "A"),
        ("The answer is B and the reason is that", "B"),
        ("The answer is (B) and (A) is wrong.", "B"),
        ("The answer is C because (A) is too far.", "C"),
        ("The answer is (D), and he had to wait there.", "D"),
        ("The answer is (D). Wait for him, he said.", "D"),
        (f"The answer is {'the city that lies on the Seine, ' * 9}(A). He is there.", "A"),
        ("(A) is far.\n(B) is near.\nSo I take (B)", "B"),
        ("The answer is indeed B, not London.", "B"),
        ("(A) is correct, they say. The answer is (B).", "B"),
        ("B. not London\nIt is near.", "B"),
        ("We looked at a map.\nC.", "C"),
        ("He took option A so B is right", "B"),
        (f"He took option B,{' which is near' * 9}, and it is the best one.", "B"),
        ("The answer is A (it has a tower)", "A"),
        ("A:\n\nAs we saw, (C)", "C"),
        ("A: as we saw, (C)", "C"),
    ],
)
def test_a_stated_answer_is_found(text: str, label: str) -> None:
    assert stated_label(text, ABCD, OPTIONS) == label


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n \n",
        "I do not know.",
        "(A) or (B)",
        "The answer is (A) or (B).",
        "The answer is (A) and (B).",
        "(A), (B), (C), (D)",
        "(A) Paris\n(B) not London\n(C) Rome or Milan\n(D) 1",
        "not (A)",
        "(A), which is wrong",
        "The answer is (A) and (B), not (C).",
        "The answer is A, B.",
        "The answer is Paris or not London.",
        "The answer is not (A).",
        "Option B is not correct",
        "The answer is (F).",
        "The answer is (None of the above).",
        "The answer is none of these: (A)",
        "The answer is A. Wait, no.",
        "The answer is A dog",
        "The answer is 12",
        "The answer is 1.5",
        "The answer is Paris (B).",
        "Let us look at (A).\nIt says that the city is large, which",
        "If we look at (B), it is the best plan ever. This is",
        "A dog is in Paris",
        "A dog in the park is the best choice here.",
        "A and his brother are late",
        "Vitamin C is the best choice.",
        "Option A cannot be, so the other is correct",
        "Answer is A, no wait, B",
        "The answer is (A), no wait",
        "The answer is (A), wait, it is cold there.",
        "The answer is the city with a tower, (A). Wait, it is cold there.",
        "The answer is (A).\nThe answer is B or C",
        "The answer is (A).\nThe answer is none of these",
        "The answer is (A).\nThe answer is neither of these",
        "(A) is correct. On second thought, it is cold.",
        "The answer is (A). Scratch that.",
        "The answer is (A). My mistake: it is cold there.",
        "The answer is (A). I was wrong about it.",
        "The answer is (A). But that is not right.",
        "The answer is (A). This is wrong.",
        "If the answer is (A), then he lies.",
        "If (A) is correct, then he lies.",
        "We ask whether the answer is (A) again",
        "I don't think B is right",
        "The answer is A and B are both right",
        "The answer is A and maybe B too",
        "The answer is (A) and not London",
        "The answer is Paris and its river",
        "A) Paris (C)",
        "It lies on the way from (A) to (C)",
        "(A) Paris\nThis is one.\n(B) not London",
        "A:",
        "**A:** He says that it is large.",
        "It is a question.\nA: He says that it is large.",
        "A: the one\nB: the other",
    ],
)
def test_no_answer_is_a_format_failure(text: str) -> None:
    assert stated_label(text, ABCD, OPTIONS) == ""


@pytest.mark.parametrize(
    "heading",
    [
        " ### Human:\n",
        "\n\n### System:\n",
        "\n### Assistant:\n",
        "<|im_end|>\n<|im_start|>user\n",
        "<|im_start|>assistant\n",
        "\nUser: ",
        "\nHuman: ",
        "\nQ: ",
        "\n**Question:** ",
    ],
)
def test_an_invented_turn_is_not_read(heading: str) -> None:
    """Neither over a stated answer nor in place of one."""
    assert stated_label(f"Answer: B, as he says.{heading}The answer is (C)", ABCD, OPTIONS) == "B"
    assert stated_label(f"I do not know.{heading}The answer is (C)", ABCD, OPTIONS) == ""
    assert first_capital(f"as he says{heading.lower()}the answer is (C)", ABCD) == "C"


@pytest.mark.parametrize(
    "text",
    [
        "### Assistant:\n(C)",
        "\n<|im_start|>assistant\n(C)",
        "Q: Which is it?\nA: (C)",
        "## Human rights\nThe User: he asked a Question: who?\nThe answer is (C)",
    ],
)
def test_a_heading_above_the_answer_and_mere_words_end_nothing(text: str) -> None:
    assert stated_label(text, ABCD, OPTIONS) == "C"


def test_a_text_that_two_options_have_states_neither() -> None:
    assert stated_label("The answer is 8.75.", ABCD[:3], ("8.75", "8.79", "8.75")) == ""
    assert stated_label("The answer is (C) 8.75.", ABCD[:3], ("8.75", "8.79", "8.75")) == "C"


def test_the_longest_option_counts_where_one_begins_with_another() -> None:
    options = ("valid", "valid, but not sound")
    assert stated_label("The answer is valid, but not sound.", ABCD[:2], options) == "B"
    assert stated_label("The answer is valid.", ABCD[:2], options) == "A"
    assert stated_label("invalid", ABCD[:2], ("valid", "invalid")) == "B"


OPTION = st.text("abcdefghij XYZ0189", min_size=1, max_size=12).map(str.strip).filter(bool)
TEMPLATES = ("The answer is {}.", "Answer: {}", "{}", "So, as we saw, the correct option is {}")


@given(
    st.lists(OPTION, min_size=2, max_size=18, unique_by=str.lower),
    st.data(),
    st.sampled_from(TEMPLATES),
    st.sampled_from(("({id})", "{id}.", "({id}) {text}", "{id}) {text}", "**({id})**", "{id}")),
)
def test_an_option_stated_by_its_id_is_found(
    options: list[str], data: st.DataObject, template: str, form: str
) -> None:
    labels = tuple("ABCDEFGHIJKLMNOPQR"[: len(options)])
    index = data.draw(st.integers(0, len(options) - 1))
    text = template.format(form.format(id=labels[index], text=options[index]))
    assert stated_label(text, labels, options) == labels[index]


@given(st.text() | st.text("ABCD().:*\n isnotwar", max_size=300), ANY_LABELS, st.data())
@example("The answer is", ("A",), None)
def test_any_text_gives_a_label_or_none(text: str, labels: tuple[str, ...], data: object) -> None:
    options = [f"option {label}" for label in labels]
    if data is not None:
        count = len(labels)
        options = data.draw(st.lists(st.text(max_size=9), min_size=count, max_size=count))  # type: ignore[attr-defined]
    for found in (first_capital(text, labels), stated_label(text, labels, options)):
        assert found == "" or found in labels


@pytest.mark.parametrize(
    "piece",
    ["\n", "A", "(A) ", "answer is ", "answer to ", "* ", "(A) is x ", "so A is ", "if ", "### "],
)
def test_time_grows_with_the_length_and_not_with_its_square(piece: str) -> None:
    text = piece * (40_000 // len(piece))
    start = time.process_time()
    stated_label(text, ABCD, OPTIONS)
    assert time.process_time() - start < 2


def test_real_outputs_state_what_their_last_words_say(shared_data: Path) -> None:
    """All 11,022 outputs of code-davinci-002 on BBH, against their own form: "So the answer is X."

    In a direct output X is all there is. X is an option's id or text, or no option was stated.
    """
    items = {item.id: item for item in BBH(str(shared_data)).items()}
    compared = failures = 0
    for mode in ("cot", "direct"):
        for task in TASKS:
            file = shared_data / "bbh" / "codex_outputs" / mode / f"{task}.jsonl"
            for line in file.read_text(encoding="utf-8").split("\n"):
                if not line:
                    continue
                row = json.loads(line)
                item = items[f"bbh/{task}/{row['example_index']}"]
                said = row["prediction"].split("answer is ")[-1].strip().removesuffix(".")
                pairs = zip(item.labels, item.options, strict=True)
                expected = next((a for a, text in pairs if said in (f"({a})", text)), "")
                assert stated_label(row["prediction"], item.labels, item.options) == expected
                compared += 1
                failures += expected == ""
    assert (compared, failures) == (11_022, 152)
