"""Validation traces by group: what the held-out loss is known by."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orca.stream import IGNORED
from orca.stream.encode import Example
from orca.stream.packing import Pack
from orca.stream.validation import MOST_GROUPS, REST, ValidationLoader, groups_of
from orca.traces import Trace


def trace(sub_collection: str, task: str) -> Trace:
    return Trace("id", "", "query", "response", sub_collection=sub_collection, task=task)


def test_groups_are_sub_collections_and_tasks_where_there_is_only_one() -> None:
    assert groups_of([trace("cot", "gsm8k"), trace("t0", "piqa")]) == ["cot", "t0"]
    assert groups_of([trace("cot", "gsm8k"), trace("cot", "esnli")]) == ["gsm8k", "esnli"]
    assert groups_of([trace("cot", "gsm8k"), trace("", "piqa")]) == ["cot", REST]
    assert groups_of([trace("", "")]) == [REST]
    assert groups_of([]) == []


@given(st.lists(st.integers(0, 40), min_size=1))
def test_there_are_never_too_many_groups_and_the_largest_keep_their_names(tasks: list[int]) -> None:
    groups = groups_of([trace("", f"task{number}") for number in tasks])
    assert len(groups) == len(tasks) and len(set(groups)) <= MOST_GROUPS
    sizes = Counter(tasks)
    for number, group in zip(tasks, groups, strict=True):
        assert group in (f"task{number}", REST)
        if group == REST:
            others = (sizes[n] for n, g in zip(tasks, groups, strict=True) if g != REST)
            assert all(sizes[number] <= size for size in others)


def packs_of(sizes: dict[str, int]) -> dict[str, list[Pack]]:
    def pack(token: int) -> Pack:
        return Pack([Example("id", np.array([token, 2, 3]), 1, 0, "", "", 0)])

    numbers = iter(range(1_000))
    return {group: [pack(next(numbers)) for _ in range(size)] for group, size in sizes.items()}


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_the_ranks_share_all_packs_once_in_as_many_passes_each(
    sizes: dict[str, int], world_size: int
) -> None:
    packs = packs_of(sizes)
    ranks = [list(ValidationLoader(packs, world_size, rank)) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    seen = Counter(
        (batch.group, int(batch.input_ids[0, 0]))
        for batches in ranks
        for batch in batches
        if (batch.labels != IGNORED).any()
    )
    assert seen == {(g, int(p.examples[0].tokens[0])): 1 for g, own in packs.items() for p in own}


def test_the_first_batches_have_a_share_of_every_group() -> None:
    """What ``trainer.limit_val_batches`` leaves is a sample, not the first groups by name."""
    batches = list(ValidationLoader(packs_of({"a": 8, "b": 8, "c": 4}), 1, 0))
    assert Counter(batch.group for batch in batches[:5]) == {"a": 2, "b": 2, "c": 1}
    assert Counter(batch.group for batch in batches[:10]) == {"a": 4, "b": 4, "c": 2}
