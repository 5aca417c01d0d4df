"""Option blocks are found in every form that FLAN and T0 give them; other lists are left alone."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca.mixture.multiple_choice import LONGEST_ITEM, shows_options

# The forms that FLAN draws from (flan/v2/templates.py): lead-ins, item names, endings.
LEAD_INS = [
    "OPTIONS:",
    "Possible answers:",
    "Available choices:",
    "Options:",
    "OPT:",
    "Choose from:",
    "Choose your answer from:",
    "Available options:",
    "Options are:",
    "Choices:",
    "Pick your answer from:",
    "Select from:",
    "Pick from:",
    "Select from the following.",
    "pick from the following.",
    # of its templates and of other versions
    "Choose your answer.",
    "Select from below.",
    "Now pick one.",
    "Your pick:",
    "What's your choice:",
    "Possible choices:",
]
SIGNS = ["- ", "-", "-- ", "--", "+ ", "+", "* ", "*", "[-] ", "[+] "]
NAMES = ["ABCD", "abcd", "1234", ["i", "ii", "iii", "iv"], ["I", "II", "III", "IV"]]
STYLES = ["{}. ", "{}). ", "({}). ", "[{}]. ", "[{}] ", "({}) ", "{}) "]
GAPS = [" ", "\n", "\n "]
ENDINGS = ["", ";", "."]
OPTIONS = [["yes", "no"], ["Eat apple", "Eat banana", "Eat cashew"], ["It fell, I saw", "a 2.5 b"]]

MARKS = [[sign] * 4 for sign in SIGNS]
MARKS += [[style.format(name) for name in names] for names in NAMES for style in STYLES]


def rendered(lead_in: str, gap: str, marks: list[str], options: list[str], ending: str) -> str:
    """An option block as FLAN's formatter would write it."""
    items = zip(marks, options, strict=False)
    return lead_in + "".join(gap + mark + option + ending for mark, option in items)


@pytest.mark.parametrize("lead_in", LEAD_INS)
@pytest.mark.parametrize(
    "context", ["It fell.\n\n{}", "{}\nQ: Which?", "It fell... {} I think it is"]
)
def test_every_block_with_a_lead_in_is_found_wherever_it_stands(lead_in: str, context: str) -> None:
    blocks = [
        rendered(lead_in, gap, marks, options, ending)
        for gap in GAPS
        for marks in MARKS
        for options in OPTIONS
        for ending in ENDINGS
    ]
    assert len(blocks) == 3 * 45 * 3 * 3
    assert [block for block in blocks if not shows_options(context.format(block))] == []


@pytest.mark.parametrize(
    "context", ["Is it so?\n\n{}", "Is it so?\n{}\nAnswer:", "Is it so?\n{}...A:"]
)
def test_every_block_without_a_lead_in_is_found_after_a_question(context: str) -> None:
    blocks = [
        rendered("", gap, marks, options, ending)
        for gap in GAPS
        for marks in MARKS
        for options in OPTIONS
        for ending in ENDINGS
    ]
    assert [block for block in blocks if not shows_options(context.format(block))] == []


FAR_ANNOUNCEMENTS = [  # an instruction, then the text it is about; forms of FLAN and promptsource
    "Write the next sentence.\n\nHe fell.\n{}",
    "Complete the passage.\n\nHe fell.\n\n{}",
    "Multi-choice problem: He fell. She ran.\n{}",
    "He fell.\n\nCan we conclude that the sentence below is true?\nHe is ill.\n\n{}\nA:",
    "Is it so (see options)?\n\nHe fell.\n\n{}\nThe answer is:",
    "Select the topic that this is about:\n\nHe fell. She ran.\n\n{}...I think the answer is",
    "Exercise: choose the most plausible alternative.\n\nHe fell.  so... \n{}",
    "Pick the more likely continuation to the following sentence:\nHe fell.  as a result of: \n{}",
]


@pytest.mark.parametrize("context", FAR_ANNOUNCEMENTS)
def test_every_block_at_the_end_is_found_when_an_instruction_announced_it(context: str) -> None:
    blocks = [
        rendered("", gap, marks, options, ending).lstrip()
        for gap in GAPS
        for marks in MARKS
        for options in OPTIONS
        for ending in ENDINGS
    ]
    assert [block for block in blocks if not shows_options(context.format(block))] == []
    # the same without an instruction, or with a text after the items, is a list
    assert not shows_options("It was late.\n\nHe fell.\n- It hurt.\n- She ran.")
    assert not shows_options(context.format("- It hurt.\n- She ran.") + "\n\nHe died. " * 2)


@pytest.mark.parametrize("labels", [["yes", "no"], ["Negative", "Positive"], ["False.", "True."]])
def test_a_closing_block_of_labels_needs_no_instruction(labels: list[str]) -> None:
    block = rendered("", "\n", MARKS[0], labels, "")
    assert shows_options("He fell.\nPredict the sentiment of this tweet." + block)
    assert not shows_options(
        "He fell.\nPredict the sentiment of this tweet." + block + "\n\nHe ran."
    )


WORDS = st.lists(
    st.sampled_from(["the", "boy", "ran", "a", "dog", "it", "was", "3", "o'clock"]), min_size=1
)


@given(
    before=WORDS,
    options=st.lists(WORDS, min_size=2, max_size=4),
    lead_in=st.sampled_from(LEAD_INS),
    marks=st.sampled_from(MARKS),
    gap=st.sampled_from(GAPS),
    ending=st.sampled_from(ENDINGS),
)
def test_a_block_needs_two_items(
    before: list[str],
    options: list[list[str]],
    lead_in: str,
    marks: list[str],
    gap: str,
    ending: str,
) -> None:
    text = " ".join(before) + ".\n"
    items = [" ".join(option) for option in options]
    assert shows_options(text + rendered(lead_in, gap, marks, items, ending))
    assert not shows_options(text + rendered(lead_in, gap, marks, items[:1], ending))
    assert not shows_options(text + lead_in)


@pytest.mark.parametrize(
    "query",
    [
        "Select from below.\n   + Eat apple;\n   + Eat banana;\n   + Eat cashew;",
        "Choices: (1). Eat apple; (2). Eat banana; (3). Eat cashew;",
        "Options: A). Eat apple B). Eat banana C). Eat cashew",
        "Which is it?\nOptions:\n- (A) DNA\n- (B) photosynthesis",  # FLAN CoT, qasc
        "Why?\nA. Because .\nB. So .",  # cosmos_qa without prompt
        "Question: Where are they? \n\n- At home\n\n- In class",  # dream
        "It is not heated.\n\n- A: more\n- B: less\n- C: no effect",  # wiqa
        "Which one is it?\n\nA: grateful\n\nB: super\n\nC: amazing",  # social_i_qa
        "How is she?\n\nPossible answers: grateful, super, amazing",
        "Choose from the following list: \nDescription, Entity, Person",  # trec
        "Pick one of: red, green, blue",
        'Choose between "ice" and  "snow".\nQuestion: Which is smoother?',  # quarel
        "The _ was old. (A) ham (B) mushroom",  # winogrande
        "Sentence 5: It is low / Option 1: He slept. / Option 2: He ate.",
        "Genre. Choices: 1. FACE-TO-FACE, 2. GOVERNMENT, 3. LETTERS",
        "Answer Choices: (A)5(√3 + 1) (B)6(√3 + √2)",
        "Options: a ) 12 , b ) 13 , c ) 14",  # MathQA
        "Options: - a. - the.",
        "Choose the more plausible cause.\n\nI ran.\n(1)I fled.(2)I read.",  # NiV2, task827
        "Categories: Description, Entity, Person\n\nWhat category best describes: Who?",  # trec
        "Descriptors: Description, Entity, Person\n\nBest Descriptor?",
        "Given a list of categories: company, artist, film, what does the text show?",  # dbpedia
        'What is the most sensical answer between "ice" and  "snow"?',  # quarel
    ],
)
def test_forms_of_real_tasks_are_found(query: str) -> None:
    assert shows_options(query)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "Is it positive or negative?",
        "Do they mean the same? Yes or no?",
        "Write a summary:\n- The mayor resigned.\n- The council met.",
        "How do I bake bread? Steps below.\n1. Mix flour.\n2. Add water.\n3. Bake.",
        "Answer the questions. Is he well?\n1. Who came?\n2. What was said?",  # CoQA
        "(1) It is a seat.\n(2) It is seated.\n\nDo these two sentences mean the same thing?",
        "The contract binds (a) the buyer and (b) the seller (c) jointly.",
        "- How are you?\n- Fine.\n- And she?\n- Well.\nSummarize the dialogue.",
        "How are you?\nA: Fine.\nB: Good.\nA: Bye.\nB: Bye.",
        "He chose to stay - the weather - as he said - was fine. J. A. Smith and K. B. Jones came.",
        "def choose(a, b):\n    return a - b if a else b",
        "| option | price |\n| --- | --- |\n| red | 3 |\n| blue | 4 |",
        "- The oxygen is picked-up by cells\n- The cells bind it\n- It circulates",
        "Choose your answer: is it true, if ever, that he came?",
        "She had the option to leave, or to stay.",
        "He said that one can choose only between Islam and barbarism.",  # MultiRC
        "Animals have been put into three categories: birds, fish and mammals.",
        "What is the final step of the following process:\n- A tree grows\n- Seeds fall",  # wiqa
        "Write the Excel function of each description.\n\n- Counts days\n- Finds a text",
        "Can you write an email?\n\nNotes:\n- a refund is due\n- be polite",
        "Summarize the article.\n\nThe plan:\n\n- more trains\n- fewer cars\n\nAnswer:",
        "Choose your words well. " + "He spoke. " * 50 + "\nHe spoke.\n\nHe said:\n- a word\n- two",
        "Is he well?\nHe fell.\n1. Who came?\n2. What was said?",
        "You can pick half the roses, 3 tulips or 2 lilies. How many are there?",
    ],
)
def test_other_lists_are_no_options(query: str) -> None:
    assert not shows_options(query)


PARTS = [
    "- ",
    "\n",
    " ",
    "A",
    "a",
    ". ",
    "1) ",
    "(B)",
    "?",
    ":",
    "no",
    "pick",
    "\n- a",
    "between",
    ",",
]


@given(st.lists(st.sampled_from(PARTS)).map("".join))
def test_every_text_has_an_answer_that_white_space_around_it_does_not_change(text: str) -> None:
    assert shows_options(text + " \n") == shows_options(text.rstrip())


def test_items_longer_than_the_bound_are_not_searched_to_the_end() -> None:
    item = "word " * (LONGEST_ITEM // 5 - 2)
    assert shows_options(f"Options:\n- {item}\n- no")
    assert not shows_options(f"Options:\n- {item * 2}\n- no")


LONG = ["-", "- ", "\n- ", "?", "? (1) ", "?\n-", "opt:-", "choose ", "option: (1) ", ". (A) "]
LONG += ["i). ", " ", "\n", "\n\t", "_", "choose between x ", "choices:a", "?\n- a?", "?\n-i). "]
LONG += ["\n- a", "\n-", "choose\n- a\n", "\na. b", "\n \t- yes", "categories: ", "...\n A: "]
LONG += ['answer between "', "\n\n\n1. ", "\r", "\n- no\n\n"]


@pytest.mark.parametrize("part", LONG)
def test_long_inputs_take_no_more_time_per_character(part: str) -> None:
    """100 kB of the worst parts known take well below a second; quadratic time takes minutes."""
    started = time.process_time()
    shows_options(part * (100_000 // len(part)))
    assert time.process_time() - started < 3


def test_real_rows_of_flan_cot_are_told_apart(shared_data: Path) -> None:
    """FLAN writes the blocks of these tables as a line `Options:`; nothing else in them is one."""
    found = lacking = 0
    for name in ("aqua", "ecqa", "qasc", "creak", "sensemaking", "gsm8k", "strategyqa"):
        text = (shared_data / "flan_cot" / f"{name}_train.tsv").read_text(encoding="utf-8")
        for line in text.split("\n")[:1500]:
            query = line.split("\t")[0].replace("\\n", "\n")
            expected = re.search(r"^Options:$", query, re.MULTILINE) is not None
            assert shows_options(query) == expected, query
            found, lacking = found + expected, lacking + (not expected)
    assert found > 4000 and lacking > 2000


def test_summaries_and_generation_of_t0_are_never_multiple_choice(shared_data: Path) -> None:
    count = 0
    for name in ("xsum", "cnn_dailymail_3_0_0", "multi_news", "samsum", "wiki_bio", "gigaword"):
        for line in (shared_data / "t0" / f"{name}.jsonl").read_text("utf-8").splitlines():
            assert not shows_options(json.loads(line)["prompt"]), line
            count += 1
    assert count > 300
