"""System messages are uniform, belong to the collection and depend on seed and id alone."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orca.errors import UserError
from orca.mixture.messages import SYSTEM_MESSAGE_IDS, SystemMessages
from orca.traces import SYSTEM_MESSAGES

ROOT = Path(__file__).resolve().parents[2]
DRAWS = 20_000
CASES = [(name, choice) for name in SYSTEM_MESSAGE_IDS for choice in (False, True)]


def too_uneven(counts: Counter[int], size: int) -> bool:
    """Chi-square above its 99.99 % point (Wilson and Hilferty's approximation)."""
    expected = sum(counts.values()) / size
    chi_square = sum((counts[key] - expected) ** 2 / expected for key in counts)
    free = size - 1
    limit = free * (1 - 2 / (9 * free) + 3.719 * math.sqrt(2 / (9 * free))) ** 3
    return len(counts) < size or chi_square > limit


def drawn(messages: SystemMessages, collection: str, multiple_choice: bool) -> Counter[int]:
    return Counter(
        messages.choose(f"{collection}.{i}", collection, multiple_choice) for i in range(DRAWS)
    )


def test_the_check_of_evenness_sees_a_message_that_comes_a_fifth_too_often() -> None:
    assert not too_uneven(Counter({1: 10_050, 2: 9_950}), 2)
    assert too_uneven(Counter({1: 4_800, 2: 4_000, 3: 4_000, 4: 3_600, 5: 3_600}), 5)
    assert too_uneven(Counter({1: 20_000}), 2)


@pytest.mark.parametrize(("collection", "multiple_choice"), CASES)
def test_each_message_of_a_collection_is_equally_likely(
    collection: str, multiple_choice: bool
) -> None:
    messages = SystemMessages(seed=3)
    counts = drawn(messages, collection, multiple_choice)
    assert set(counts) == set(messages.ids(collection, multiple_choice))
    assert not too_uneven(counts, len(messages.ids(collection, multiple_choice)))


def test_the_sets_are_those_that_three_transcriptions_of_figure_6_agree_on() -> None:
    plain = {name: SystemMessages().ids(name, False) for name in SYSTEM_MESSAGE_IDS}
    assert plain == {
        "cot": (6, 11, 16),
        "niv2": (1, 2, 5, 7, 9, 12, 13, 14, 15),
        "t0": (1, 2, 3, 5, 7),
        "flan2021": (3, 4, 7),
    }


def test_8_and_10_go_only_to_multiple_choice_and_only_in_flan_2021() -> None:
    for collection, multiple_choice in CASES:
        expected = {8, 10} if collection == "flan2021" and multiple_choice else set()
        for option in ("added", "only_8_10"):
            counts = drawn(SystemMessages(0, option), collection, multiple_choice)
            assert {8, 10} & set(counts) == expected


def test_only_8_10_leaves_flan_2021_nothing_else_and_other_collections_alone() -> None:
    counts = drawn(SystemMessages(0, "only_8_10"), "flan2021", True)
    assert set(counts) == {8, 10} and not too_uneven(counts, 2)
    added, only = SystemMessages(0), SystemMessages(0, "only_8_10")
    for collection, multiple_choice in CASES:
        if (collection, multiple_choice) != ("flan2021", True):
            assert added.ids(collection, multiple_choice) == only.ids(collection, multiple_choice)


def test_every_message_of_table_2_is_reached_and_no_other() -> None:
    reached = {number for ids in SYSTEM_MESSAGE_IDS.values() for number in ids}
    assert reached == set(SYSTEM_MESSAGES) == set(range(1, 17))


def test_the_choice_is_the_same_in_any_process() -> None:
    program = (
        "from orca.mixture.messages import SystemMessages as S\n"
        "print([S(7).choose(f'flan2021.{i:x}', 'flan2021', True) for i in range(50)])"
    )
    outputs = set()
    for hash_seed in ("0", "1", "random"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", program]
        outputs.add(
            subprocess.run(command, env=environment, capture_output=True, check=True).stdout
        )
    here = [SystemMessages(7).choose(f"flan2021.{i:x}", "flan2021", True) for i in range(50)]
    assert {output.decode().strip() for output in outputs} == {str(here)}


def test_the_choice_is_pinned_so_that_query_sets_can_be_made_again() -> None:
    """A change of the hash would silently give every query another message."""
    messages = SystemMessages(seed=0)
    chosen = [messages.choose(f"niv2.{i}", "niv2", False) for i in range(12)]
    assert chosen == [12, 2, 14, 14, 7, 1, 14, 14, 5, 14, 15, 13]


def test_the_order_of_the_queries_does_not_matter() -> None:
    messages = SystemMessages(seed=1)
    ids = [f"cot.{i}" for i in range(200)]
    forwards = {one: messages.choose(one, "cot", False) for one in ids}
    assert {one: messages.choose(one, "cot", False) for one in reversed(ids)} == forwards


def test_ids_that_differ_only_in_prefix_or_seed_get_independent_messages() -> None:
    """Pairs of messages are as frequent as independence says: 25 cells, all alike."""
    one, other = SystemMessages(seed=0), SystemMessages(seed=1)
    by_prefix, by_seed = Counter(), Counter()
    for i in range(DRAWS):
        first = one.choose(f"t0.{i}", "t0", False)
        by_prefix[first, one.choose(f"flan.t0.{i}", "t0", False)] += 1
        by_seed[first, other.choose(f"t0.{i}", "t0", False)] += 1
    assert not too_uneven(by_prefix, 25) and not too_uneven(by_seed, 25)


def test_unknown_collections_and_options_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'dialog'.*cot, niv2, t0, flan2021"):
        SystemMessages().choose("dialog.1", "dialog", False)
    with pytest.raises(UserError, match="'added' or 'only_8_10'"):
        SystemMessages(multiple_choice="only")  # type: ignore[arg-type]
