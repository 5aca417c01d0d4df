"""Packing: nothing lost, nothing over-full, nothing moved further than the window allows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orca.stream import Example, Pack, best_fit_decreasing, pack_window

lengths_and_capacity = st.integers(8, 300).flatmap(
    lambda capacity: st.tuples(
        st.lists(st.integers(1, capacity), max_size=120), st.just(capacity), st.integers(1, 40)
    )
)


def example(place: int, length: int) -> Example:
    return Example(f"e{place}", np.zeros(length, np.int32), 0, "", "", "", place=place, rank=place)


def naive_best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """The textbook algorithm, bins scanned one by one."""
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [b for b in bins if sum(lengths[i] for i in b) + lengths[index] <= capacity]
        if fitting:
            max(fitting, key=lambda b: sum(lengths[i] for i in b)).append(index)
        else:
            bins.append([index])
    return bins


def pack_all(lengths: list[int], capacity: int, window: int) -> list[Pack]:
    examples = [example(place, length) for place, length in enumerate(lengths)]
    packs: list[Pack] = []
    carried = None
    for start in range(0, len(examples), window):
        last = start + window >= len(examples)
        done, carried = pack_window(examples[start : start + window], capacity, carried, last)
        packs += done
    assert carried is None
    return packs


@settings(max_examples=200, deadline=None)
@given(lengths_and_capacity)
def test_bins_are_as_full_as_the_textbook_algorithm_makes_them(case: tuple) -> None:
    lengths, capacity, _ = case
    ours = best_fit_decreasing(lengths, capacity)
    naive = naive_best_fit_decreasing(lengths, capacity)
    fills = [sorted(sum(lengths[i] for i in b) for b in bins) for bins in (ours, naive)]
    assert fills[0] == fills[1]


@settings(max_examples=200, deadline=None)
@given(lengths_and_capacity)
def test_every_example_is_in_exactly_one_pack_and_no_pack_is_over_full(case: tuple) -> None:
    lengths, capacity, window = case
    packs = pack_all(lengths, capacity, window)
    places = [e.place for pack in packs for e in pack.examples]
    assert sorted(places) == list(range(len(lengths)))
    assert all(0 < pack.num_tokens <= capacity for pack in packs)


@settings(max_examples=200, deadline=None)
@given(lengths_and_capacity)
def test_no_example_moves_further_than_the_window_allows(case: tuple) -> None:
    lengths, capacity, window = case
    places = [e.place for pack in pack_all(lengths, capacity, window) for e in pack.examples]
    assert all(abs(place - at) <= window - 1 for at, place in enumerate(places))


def test_carrying_fills_packs_that_a_window_alone_leaves_half_empty() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 60, 4_000).tolist()
    packs = pack_all(lengths, 500, 40)
    fill = sum(lengths) / (500 * len(packs))
    alone = [best_fit_decreasing(lengths[start : start + 40], 500) for start in range(0, 4_000, 40)]
    fill_alone = sum(lengths) / (500 * sum(map(len, alone)))
    assert fill > 0.98 > fill_alone
