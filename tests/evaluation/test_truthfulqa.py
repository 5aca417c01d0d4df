"""TruthfulQA-MC: the same questions and right answers as the set that the paper used."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from orca.evaluation.item import Item
from orca.evaluation.truthfulqa import TruthfulQA


def chi_square(counts: list[int]) -> float:
    """Pearson's statistic against equal counts."""
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def gold_text(item: Item) -> str:
    return item.options[item.labels.index(item.gold[0])]


def question(prompt: str) -> str:
    return prompt.split("\nAnswer Choices:", 1)[0]


def test_questions_and_right_answers_are_those_of_another_rendering(shared_data: Path) -> None:
    """Its wrong options are its own draw: 277 of the 684 sets are equal, 7 also in their order."""
    file = shared_data / "orca_eval_prompts" / "truthfulqa_orca" / "truthfulqa_mc.jsonl"
    others = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    items = {question(item.prompt): item for item in TruthfulQA(str(shared_data)).items()}
    assert {question(row["question"]) for row in others} == set(items)
    same_set = same_prompt = 0
    for row in others:
        item = items[question(row["question"])]
        texts = re.search(
            r"Choices: \(A\) (.*) \(B\) (.*) \(C\) (.*) \(D\) (.*)\nA: ", row["question"]
        ).groups()  # type: ignore[union-attr]
        assert texts["ABCD".index(row["label"][0])] == gold_text(item)
        same_set += set(texts) == set(item.options)
        same_prompt += row["question"] == item.prompt
    assert (len(others), same_set, same_prompt) == (684, 277, 7)


def test_items_hold_four_different_choices_of_the_source(shared_data: Path) -> None:
    source = json.loads((shared_data / "truthfulqa/v0/mc_task.json").read_text(encoding="utf-8"))
    items = TruthfulQA(str(shared_data)).items()
    rows = [int(item.id.rsplit("/", 1)[1]) for item in items]
    assert rows == [row for row, value in enumerate(source) if len(value["mc1_targets"]) >= 4]
    for row, item in zip(rows, items, strict=True):
        targets = source[row]["mc1_targets"]
        assert len({*item.options}) == 4 and {*item.options} <= set(targets)
        assert targets[gold_text(item)] == 1
    assert len({item.group for item in items}) == 38


def test_the_right_option_has_no_favourite_place(shared_data: Path) -> None:
    """Chi-square with 3 degrees of freedom: 7.81 is exceeded by 5 %, 4.64 by 20 % of fair draws."""
    found = []
    for seed in range(20):
        gold = Counter(item.gold[0] for item in TruthfulQA(str(shared_data), seed).items())
        found.append(chi_square([gold[label] for label in "ABCD"]))
    assert found[0] < 7.81
    assert max(found) < 14.32  # 0.25 %: 5 % of 20 fair seeds have one above
    assert sum(value > 4.64 for value in found) <= 9  # 4 expected; more than 9: 0.3 %


def test_every_wrong_choice_can_be_drawn(shared_data: Path) -> None:
    """Also the last ones of a question with many; the draw is not of the first three."""
    source = json.loads((shared_data / "truthfulqa/v0/mc_task.json").read_text(encoding="utf-8"))
    row = max(range(len(source)), key=lambda row: len(source[row]["mc1_targets"]))
    targets = source[row]["mc1_targets"]
    assert len(targets) == 13
    draw = TruthfulQA(None)._draw
    seen = Counter[str]()
    for number in range(600):
        options, gold = draw(f"{source[row]['question']} {number}", targets)
        assert targets[options[gold]] == 1
        seen.update(options)
    wrong = [seen[choice] for choice, right in targets.items() if not right]
    assert seen.total() == 2400 and sum(wrong) == 1800
    assert chi_square(wrong) < 24.7  # 11 degrees of freedom, 1 %


def test_another_seed_asks_the_same_questions_in_another_way(shared_data: Path) -> None:
    zero, one = (TruthfulQA(str(shared_data), seed).items() for seed in (0, 1))
    assert [item.id for item in zero] == [item.id for item in one]
    assert [gold_text(item) for item in zero] == [gold_text(item) for item in one]
    assert sum(a.prompt != b.prompt for a, b in zip(zero, one, strict=True)) > 600
