"""Scores count what the samples say; comparisons pair items."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from orca.errors import UserError
from orca.evaluation.comparison import compare
from orca.evaluation.item import Item, Sample
from orca.evaluation.scores import AVERAGE, Score, grade, score
from orca.evaluation.statistics import mcnemar


def make_items(task: str, count: int, labels: str = "ABCD", gold: str = "A") -> list[Item]:
    return [
        Item(
            id=f"agieval/{task}/{i}",
            benchmark="agieval",
            task=task,
            prompt=f"Q: {i}?",
            labels=tuple(labels),
            options=tuple(labels),
            gold=tuple(gold),
        )
        for i in range(count)
    ]


def make_sample(item: Item, first: str, stated: str = "", draw: int = 0) -> Sample:
    return Sample(
        item=item.id,
        benchmark=item.benchmark,
        task=item.task,
        draw=draw,
        seed=draw,
        system_message=1,
        prompt=item.prompt,
        text=f"{first} it is",
        finish_reason="stop",
        gold=item.gold,
        first_capital=first,
        stated=stated,
    )


def answers(items: list[Item], firsts: str, draw: int = 0) -> list[Sample]:
    """One answer to each item; "-" has no label."""
    pairs = zip(items, firsts, strict=True)
    return [make_sample(item, first.replace("-", ""), draw=draw) for item, first in pairs]


def by_task(scores: list[Score]) -> dict[str, Score]:
    return {one.task: one for one in scores}


def test_every_figure_of_a_task_by_hand() -> None:
    items = make_items("aqua-rat", 5)
    samples = [
        make_sample(items[0], "A", "A"),
        make_sample(items[1], "A", "B"),
        make_sample(items[2], "", "B"),
        make_sample(items[3], "", ""),
        dataclasses.replace(make_sample(items[4], "", ""), finish_reason="failed"),
    ]
    found = by_task(score(grade(samples, items)))["aqua-rat"]
    assert (found.items, found.draws, found.failed, found.spread) == (4, 1, 1, None)
    assert found.accuracy.value == 2 / 4
    assert found.stated.value == 1 / 4
    assert (found.format_failures, found.stated_failures) == (2 / 4, 1 / 4)
    assert found.chance == 1 / 4


def test_the_average_is_over_tasks_and_not_over_items() -> None:
    small, large = make_items("sat-en", 2, "AB"), make_items("lsat-ar", 6, "ABCDE")
    samples = answers(small, "AA") + answers(large, "AAABB-")
    found = by_task(score(grade(samples, small + large)))
    assert list(found) == ["sat-en", "lsat-ar", AVERAGE]
    assert found[AVERAGE].accuracy.value == (1 + 3 / 6) / 2
    assert found[AVERAGE].format_failures == (0 + 1 / 6) / 2
    assert found[AVERAGE].chance == (1 / 2 + 1 / 5) / 2
    assert found[AVERAGE].items == 8


def test_one_label_of_two_that_are_right_is_a_likelier_guess() -> None:
    items = make_items("geometric", 1, "ABCD") + make_items("other", 1, "ABCD", gold="AB")
    found = by_task(score(grade(answers(items, "AB"), items)))
    assert (found["geometric"].chance, found["other"].chance) == (1 / 4, 2 / 4)


def test_chance_is_that_of_the_answered_items() -> None:
    items = make_items("geometric", 1, gold="A") + make_items("geometric", 2, gold="AB")[1:]
    samples = answers(items, "AB")
    samples[1] = dataclasses.replace(samples[1], finish_reason="failed")
    assert by_task(score(grade(samples, items)))["geometric"].chance == 1 / 4


def test_draws_of_an_item_are_one_value_and_their_spread_is_told() -> None:
    items = make_items("sat-en", 4)
    samples = answers(items, "AAAB") + answers(items, "AABB", draw=1)
    found = by_task(score(grade(samples, items)))["sat-en"]
    assert (found.items, found.draws) == (4, 2)
    assert found.accuracy.value == (1 + 1 + 0.5 + 0) / 4
    assert found.spread == pytest.approx(np.std([3 / 4, 2 / 4], ddof=1))


def test_order_of_samples_does_not_matter_but_tasks_keep_that_of_the_items() -> None:
    items = make_items("sat-en", 9) + make_items("lsat-ar", 7)
    samples = answers(items, "AAABBBCCCDDDAAAA")
    assert score(grade(samples, items)) == score(grade(samples[::-1], items))


def test_what_cannot_be_scored_is_a_sentence() -> None:
    items = make_items("sat-en", 3)
    samples = answers(items, "AAA")
    with pytest.raises(UserError, match="agieval/sat-en/2, which is no item"):
        grade(samples, items[:2])
    with pytest.raises(UserError, match="draw 0 of agieval/sat-en/1 twice"):
        grade([*samples, samples[1]], items)
    failed = [dataclasses.replace(one, finish_reason="failed") for one in samples]
    assert grade(failed, items) == [], "a task without an answer has no grades"


def test_items_that_were_not_asked_are_left_out() -> None:
    items = make_items("sat-en", 30) + make_items("lsat-ar", 5)
    found = score(grade(answers(items[:3], "AAB"), items))
    assert [(one.task, one.items) for one in found] == [("sat-en", 3), (AVERAGE, 3)]


def test_items_won_and_lost_are_named_and_tested() -> None:
    items = make_items("sat-en", 5) + make_items("lsat-ar", 3)
    first = grade(answers(items, "AAABB" + "BBA"), items)
    second = grade(answers(items, "ABBAB" + "BAA"), items)
    found = {one.task: one for one in compare(first, second)}
    assert list(found) == ["sat-en", "lsat-ar", AVERAGE]
    assert found["sat-en"].won == ("agieval/sat-en/1", "agieval/sat-en/2")
    assert found["sat-en"].lost == ("agieval/sat-en/3",)
    assert found["lsat-ar"].lost == ("agieval/lsat-ar/1",)
    average = found[AVERAGE]
    assert (len(average.won), len(average.lost), average.items) == (2, 2, 8)
    assert average.mcnemar == mcnemar(2, 2)
    assert average.first == (3 / 5 + 1 / 3) / 2
    assert average.difference.value == pytest.approx((1 / 5 - 1 / 3) / 2)
    assert average.difference.value == pytest.approx(average.first - average.second)


def test_only_what_both_runs_have_answered_is_compared() -> None:
    items = make_items("sat-en", 6) + make_items("lsat-ar", 2) + make_items("sat-math", 2)
    first = grade(answers(items[:4], "AAAA") + answers(items[6:8], "AA"), items)
    second = grade(answers(items[2:6], "BBBB") + answers(items[8:], "AA"), items)
    task, average = compare(first, second)
    assert (task.task, task.items, task.unpaired) == ("sat-en", 2, 4)
    assert task.won == ("agieval/sat-en/2", "agieval/sat-en/3")
    assert average.difference == task.difference
    assert (average.items, average.unpaired) == (2, 8), "items of tasks that one run lacks count"
    with pytest.raises(UserError, match="no answered item in common"):
        compare(first, grade(answers(items[8:], "AA"), items))


def test_several_draws_are_compared_by_their_means_and_have_no_mcnemar() -> None:
    items = make_items("sat-en", 2)
    first = grade(answers(items, "AA") + answers(items, "BA", draw=1), items)
    second = grade(answers(items, "BA"), items)
    task = compare(first, second)[0]
    assert (task.won, task.lost, task.mcnemar) == (("agieval/sat-en/0",), (), None)
    assert task.difference.value == 0.25


def test_a_run_compared_with_itself_differs_in_nothing() -> None:
    items = make_items("sat-en", 40)
    run = grade(answers(items, "AB" * 20), items)
    for one in compare(run, run):
        assert (one.won, one.lost, one.p_value, one.mcnemar) == ((), (), 1.0, 1.0)
        assert one.difference.value == 0 and one.difference.low == -one.difference.high


def test_comparing_the_other_way_round_mirrors_everything() -> None:
    rng = np.random.default_rng(0)
    items = make_items("sat-en", 80) + make_items("lsat-ar", 50)
    runs = [grade(answers(items, "".join(rng.choice(list("AB"), 130))), items) for _ in range(2)]
    for one, other in zip(compare(*runs), compare(*runs[::-1]), strict=True):
        assert one.won == other.lost and one.won
        assert one.difference.value == -other.difference.value
        assert one.mcnemar == other.mcnemar
        assert one.p_value is not None and other.p_value is not None
        assert math.isclose(one.p_value, other.p_value, abs_tol=0.03)
