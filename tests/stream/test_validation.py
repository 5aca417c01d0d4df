"""Validation traces by group: what the held-out loss is known by."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orca.stream.validation import MOST_GROUPS, REST, groups_of
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
