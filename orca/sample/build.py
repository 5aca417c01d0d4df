"""Builds the sample set: ``python -m orca.sample.build [--out DIR] [--check]``.

Every answer is computed by our own procedure, scored by the checker of reasoning-gym and read
back from the response; the build stops at the first one that does not hold. The same versions of
the code and of reasoning-gym give the same bytes on any machine.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import reasoning_gym

from orca.sample import SAMPLE_DIR
from orca.sample.families_arithmetic import ARITHMETIC
from orca.sample.families_base import Family, Item, Problem
from orca.sample.families_choice import CHOICE
from orca.sample.families_logic import LOGIC
from orca.sample.families_text import TEXT
from orca.sample.voices import FREE_MESSAGE_IDS, MESSAGE_IDS, respond, stated_answer
from orca.traces.system_messages import SYSTEM_MESSAGES

FAMILIES: tuple[Family, ...] = (*ARITHMETIC, *TEXT, *LOGIC, *CHOICE)
TRAIN_PER_FAMILY = 56
HELD_OUT_PER_FAMILY = 16
STAGE2_SIZE = 420
SEED = 2306_02707
MAX_DRAWS = 50_000

Record = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A problem with its place in the set: its id and the system message it is asked under."""

    id: str
    task: str
    message_id: int
    problem: Problem


def normal_form(query: str) -> str:
    """Case and white space aside, the text of a query."""
    return re.sub(r"\s+", " ", query).strip().lower()


def verify(family: Family, item: Item, problem: Problem, checker: Any) -> None:
    """Raises ValueError unless the checker accepts the answer and no other option."""
    place = f"{family.name}, item {item['metadata']['source_index']}"
    if checker.score_answer(problem.answer_text, item) != 1.0:
        raise ValueError(f"{place}: {problem.answer_text!r} is not the answer {item['answer']!r}")
    for choice in problem.choices:
        is_gold = choice.letter == problem.gold
        if is_gold == bool(choice.fault):
            raise ValueError(f"{place}: option {choice.label!r} is wrongly explained")
        if not is_gold and checker.score_answer(choice.text, item) == 1.0:
            raise ValueError(f"{place}: option {choice.label!r} is right as well")


def draw_questions(family: Family) -> tuple[list[Question], list[Question]]:
    """Training and held-out questions of one family, no two alike."""
    wanted = TRAIN_PER_FAMILY + HELD_OUT_PER_FAMILY
    checker = reasoning_gym.create_dataset(
        family.name, seed=SEED, size=MAX_DRAWS, **dict(family.config)
    )
    problems: dict[str, Problem] = {}
    for index in range(MAX_DRAWS):
        if len(problems) == wanted:
            break
        item = checker[index]
        problem = family.solve(item, Random(f"{family.name} options {index}"))
        if problem is None or problem.identity in problems:
            continue
        verify(family, item, problem, checker)
        problems[problem.identity] = problem
    else:
        raise ValueError(f"{family.name}: only {len(problems)} of {wanted} questions found")
    ordered = list(problems.values())
    # Late draws of a small family are its rare questions, so the split must not follow the draw.
    Random(f"{family.name} split").shuffle(ordered)
    ids = _message_ids(family, wanted)
    questions = [
        Question(f"sample.{family.name}.{number:05d}", family.name, message_id, problem)
        for number, (message_id, problem) in enumerate(zip(ids, ordered, strict=True))
    ]
    return questions[:TRAIN_PER_FAMILY], questions[TRAIN_PER_FAMILY:]


def _message_ids(family: Family, count: int) -> list[int]:
    """System messages in random order, each used about equally often."""
    allowed = MESSAGE_IDS if family.multiple_choice else FREE_MESSAGE_IDS
    rng = Random(f"{family.name} messages")
    ids: list[int] = []
    while len(ids) < count:
        ids.extend(rng.sample(allowed, len(allowed)))
    return ids[:count]


def record(question: Question, voice: str) -> Record:
    """The trace of ``question`` in one voice."""
    problem, rng = question.problem, Random(f"{question.id} {voice}")
    response = respond(problem, question.message_id, voice, rng)
    stated = stated_answer(response, question.message_id)
    if stated != problem.gold:
        raise ValueError(f"{question.task}, {question.id}: states {stated!r}, not {problem.gold!r}")
    return {
        "id": question.id,
        "system_message": SYSTEM_MESSAGES[question.message_id],
        "query": problem.query,
        "response": response,
        "teacher": f"synthetic-{voice}",
        "sub_collection": "reasoning_gym",
        "task": question.task,
        "gold_answer": problem.gold,
        "difficulty": float(problem.difficulty),
    }


def build() -> dict[str, str]:
    """The text of every file of the sample, by file name."""
    train: list[Question] = []
    held_out: list[Question] = []
    for family in FAMILIES:
        for_training, for_testing = draw_questions(family)
        train += for_training
        held_out += for_testing
    seen = Counter(normal_form(question.problem.query) for question in (*train, *held_out))
    repeated = [query for query, count in seen.items() if count > 1]
    if repeated:
        raise ValueError(f"asked more than once: {repeated[0]!r}")
    # Whoever takes the first records of a file should meet every family.
    Random("train order").shuffle(train)
    Random("held-out order").shuffle(held_out)
    again = sorted(Random("stage 2").sample(range(len(train)), STAGE2_SIZE))
    stage1 = [record(question, "short") for question in train]
    stage2 = [record(train[index], "long") for index in again]
    short_again = [stage1[index] for index in again]
    testing = [record(question, "short") for question in held_out]
    return {
        "stage1_train.jsonl": _json_lines(stage1),
        "stage2_train.jsonl": _json_lines(stage2),
        "held_out.jsonl": _json_lines(testing),
        "README.md": _card(stage1, stage2, short_again, testing),
    }


def _json_lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in records)


def _mean_words(records: Sequence[Record], key: str) -> float:
    return mean(len(entry[key].split()) for entry in records)


def _card(
    stage1: Sequence[Record],
    stage2: Sequence[Record],
    short_again: Sequence[Record],
    held_out: Sequence[Record],
) -> str:
    short_length = mean(len(entry["response"]) for entry in short_again)
    long_length = mean(len(entry["response"]) for entry in stage2)
    in_stage2 = Counter(entry["task"] for entry in stage2)
    rows, examples = [], []
    for family in FAMILIES:
        example = next(
            entry
            for entry in stage1
            if entry["task"] == family.name and entry["system_message"] == ""
        )
        kind = "multiple choice" if family.multiple_choice else "free answer"
        rows.append(
            f"| {family.name} | {kind} | {TRAIN_PER_FAMILY} | {in_stage2[family.name]} "
            f"| {HELD_OUT_PER_FAMILY} |"
        )
        query = example["query"].replace("\n", "\n> ")
        response = example["response"]
        examples.append(f"### {family.name}\n\n> {query}\n\n{response}\n")
    table = "\n".join(rows)
    return f"""# Sample of synthetic explanation traces

These traces are SYNTHETIC: filled from templates in this repository, and neither ChatGPT's nor
GPT-4's. They have the form of Orca's data (system message, query, response) and exist so that
training can be tried without a download. They say nothing about the data of the Orca paper.

## How they are built

`python -m orca.sample.build` draws questions from reasoning-gym {version("reasoning-gym")}
(Apache-2.0), shortens their wording where it is long, solves each with a procedure of its own and
words the procedure in two voices under {len(MESSAGE_IDS)} of the paper's 16 system messages
(number 14, on translation, is left out; 8 and 10 are kept for multiple choice). Every answer is
scored by the checker of reasoning-gym. `--check` builds again and compares the bytes.

| file | records | voice | mean words of query | mean words of response |
| --- | ---: | --- | ---: | ---: |
{_file_row("stage1_train.jsonl", stage1, "short")}
{_file_row("stage2_train.jsonl", stage2, "long")}
{_file_row("held_out.jsonl", held_out, "short")}

The queries of stage 2 are a uniform sample of those of stage 1, under the same system message. On
these queries the mean response has {short_length:.0f} characters in the short voice and
{long_length:.0f} in the long voice, {long_length / short_length:.2f} times as many. No question
of `held_out.jsonl` is in the training files, not even with its words or numbers in another order.

A record has the fields `id`, `system_message`, `query`, `response`, `teacher`, `sub_collection`,
`task`, `gold_answer` and `difficulty` (larger is harder, inside one task). Every response states
`The answer is X.` with X the gold answer: as the first sentence under messages 8 and 10, as the
last one otherwise.

## Families

| family | kind | stage 1 | stage 2 | held out |
| --- | --- | ---: | ---: | ---: |
{table}

## One example each

Short voice, with the empty system message.

{chr(10).join(examples)}"""


def _file_row(name: str, records: Sequence[Record], voice: str) -> str:
    query, response = _mean_words(records, "query"), _mean_words(records, "response")
    return f"| {name} | {len(records)} | {voice} | {query:.1f} | {response:.1f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    parser = argparse.ArgumentParser(description="Build the sample set of synthetic traces.")
    parser.add_argument("--out", type=Path, default=SAMPLE_DIR, help="folder of the files")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file would change"
    )
    options = parser.parse_args(arguments)
    differing = []
    for name, text in build().items():
        path, data = options.out / name, text.encode("utf-8")
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        elif not path.is_file() or path.read_bytes() != data:
            differing.append(name)
    for name in differing:
        print(f"{name} differs from a fresh build", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
