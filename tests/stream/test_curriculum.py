"""Curriculum policies are pure functions of (source, seed, epoch)."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import rows_of_length

from orca.errors import UserError
from orca.stream import AsGiven, ByDifficulty, ByLength, BySubCollection, Shuffle
from orca.stream.curriculum import hashed_numbers
from orca.traces import TraceSource

LENGTHS = [30, 10, 20, 10, 40, 5]


def test_every_policy_gives_a_permutation_and_repeats_it(make_source) -> None:
    source = make_source(rows_of_length(LENGTHS))
    for policy in (AsGiven(), Shuffle(), ByLength(), ByDifficulty(), BySubCollection([""])):
        first, again = (policy.order(source, 3, 1).tolist() for _ in range(2))
        assert first == again and sorted(first) == list(range(6)), policy.describe()


def test_a_shuffle_differs_between_epochs_and_seeds_and_is_uniform() -> None:
    class Many:
        def __len__(self) -> int:
            return 1_000

    orders = [Shuffle().order(Many(), seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for i in range(3):
        for j in range(i):
            assert (orders[i] == orders[j]).mean() < 0.02
    first = [int(Shuffle().order(Many(), 0, epoch)[0]) // 100 for epoch in range(1_000)]
    counts = np.bincount(first, minlength=10)
    assert ((counts - 100) ** 2 / 100).sum() < 27.9  # chi-square, 9 degrees, p = 0.001


def test_the_shuffle_is_the_same_on_every_machine() -> None:
    # splitmix64 by its definition, in plain Python integers
    def splitmix(value: int) -> int:
        mask = 2**64 - 1
        value = (value + 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    start = splitmix((5 * 0xD1342543DE82EF95 + 2) % 2**64)
    expected = [splitmix((i + start) % 2**64) for i in range(4)]
    assert hashed_numbers(4, 5, 2).tolist() == expected


def test_length_and_difficulty_sort_and_descend(make_source) -> None:
    source = make_source(rows_of_length(LENGTHS))
    for policy, sign in (
        (ByLength(), 1),
        (ByLength(descending=True), -1),
        (ByDifficulty(), 1),
        (ByDifficulty(descending=True), -1),
    ):
        order = policy.order(source, 0, 0)
        sorted_lengths = [LENGTHS[i] for i in order]
        assert sorted_lengths == sorted(LENGTHS, reverse=sign < 0)


def test_difficulties_that_do_not_compare_are_ranked_within_their_task(make_source) -> None:
    """Digits of a sum, and letters of a word: the easiest of both come first."""
    rows = rows_of_length([5] * 8)
    difficulties = {"sums": [1, 2, 2, 3], "letters": [90, 60, 80, 70]}
    values = [(task, value) for task, own in difficulties.items() for value in own]
    for row, (task, value) in zip(rows, values, strict=True):
        row |= {"task": task, "difficulty": value}
    source = make_source(rows)
    found = [values[i] for i in ByDifficulty(within="task").order(source, 0, 0)]
    assert {*found[:2]} == {("sums", 1), ("letters", 60)}
    assert {*found[-2:]} == {("sums", 3), ("letters", 90)}
    for task, own in difficulties.items():
        assert [value for name, value in found if name == task] == sorted(own)
    assert [value for _, value in (values[i] for i in ByDifficulty().order(source, 0, 0))] == (
        sorted(value for _, value in values)
    )
    with pytest.raises(UserError, match="within='colour' is none of task"):
        ByDifficulty(within="colour")


def test_length_is_that_of_what_the_student_is_shown(make_source) -> None:
    rows = rows_of_length([30, 10, 20])
    for row, message in zip(rows, ("", "m" * 100, "m" * 50), strict=True):
        row["system_message"] = message
    source = make_source(rows)
    assert ByLength().order(source, 0, 0).tolist() == [0, 2, 1]
    plain = TraceSource([one.patterns[0] for one in source.sets], "trace", system_message="")
    assert ByLength().order(plain, 0, 0).tolist() == [1, 2, 0]
    assert plain.sizes().tolist() == [32, 12, 22], "of query and response"


def test_a_missing_difficulty_is_named(make_source) -> None:
    rows = rows_of_length(LENGTHS)
    del rows[2]["difficulty"]
    with pytest.raises(UserError, match=r"1 of 6 have none, first .*row 3"):
        ByDifficulty().order(make_source(rows), 0, 0)


def test_sub_collections_follow_each_other_and_an_unlisted_one_is_named(make_source) -> None:
    rows = rows_of_length([5] * 6)
    for row, name in zip(rows, "abcabc", strict=True):
        row["sub_collection"] = name
    source = make_source(rows)
    order = BySubCollection(["c", "a", "b"]).order(source, 0, 0)
    assert "".join("abcabc"[i] for i in order) == "ccaabb"
    assert BySubCollection().order(source, 0, 0).tolist()[:2] in ([0, 3], [3, 0])
    with pytest.raises(UserError, match=r"\['b'\]"):
        BySubCollection(["c", "a"]).order(source, 0, 0)
