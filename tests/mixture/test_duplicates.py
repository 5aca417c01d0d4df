"""Duplicates are those that a plain comparison of all pairs finds; the first one stays."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_hygiene import batches_of

from orca.errors import UserError
from orca.mixture.duplicates import ExactDuplicates, NearDuplicates
from orca.mixture.hygiene import run_checks


@given(st.lists(st.text(alphabet="aAbß \n\t", max_size=4), max_size=30), st.integers(1, 30))
def test_exact_duplicates_are_equal_but_for_white_space_and_case(
    queries: list[str], size: int
) -> None:
    first: dict[str, int] = {}
    expected = {}
    for i, query in enumerate(queries):
        like = first.setdefault(" ".join(query.casefold().split()), i)
        if like != i:
            expected[f"q{i}"] = f"same text as q{like}"
    found = list(ExactDuplicates().find(batches_of(queries, size)))
    assert [(one.id, one.detail) for one in found] == list(expected.items())


def shingles(text: str, n: int = 5) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return frozenset(tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))


def jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b)


SENTENCE = "a passage of some forty words " + " ".join(f"word{i}" for i in range(34))
PLANTED = [
    SENTENCE,
    SENTENCE.upper() + "!",  # same words
    SENTENCE.replace("word33", "other"),  # one n-gram of 36 differs
    " ".join(reversed(SENTENCE.split())),  # same words, no n-gram shared
    SENTENCE.replace("word10", "x").replace("word20", "y"),  # 26 of 46 n-grams shared
    "short",
    "Short?",
    "",
    "...",  # without words: compared by its signs
]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_planted_near_duplicates_are_found_and_nothing_else(size: int) -> None:
    found = {one.id: one.detail for one in NearDuplicates().find(batches_of(PLANTED, size))}
    assert found == {"q1": "like q0", "q2": "like q0", "q6": "like q5"}


def test_near_duplicates_stay_unless_removal_is_asked_for() -> None:
    text = batches_of(PLANTED)
    after = ExactDuplicates(name="after")
    kept = run_checks([NearDuplicates(), after], lambda: batches_of([*PLANTED, PLANTED[1]]))
    assert len(kept["near_duplicates"]) == 4 and kept["after"] == {"q9": "same text as q1"}
    gone = run_checks([NearDuplicates(remove=True), after], lambda: text)
    assert len(gone["near_duplicates"]) == 3 and not gone["after"]


def test_settings_that_cannot_work_are_refused() -> None:
    for wrong in ({"threshold": 0.0}, {"threshold": 1.1}, {"ngram": 0}, {"num_perm": 100}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            NearDuplicates(**wrong)  # type: ignore[arg-type]


def test_minhash_agrees_with_exact_jaccard_on_t0(shared_data: Path) -> None:
    """Every finding is like its query, and few of the pairs that exact Jaccard has are missed."""
    queries = [
        json.loads(line)["prompt"]
        for name in ("ropes", "wiqa", "ag_news")
        for line in (shared_data / f"t0/{name}.jsonl").open(encoding="utf-8")
    ]
    sets = [shingles(query) for query in queries]
    pairs = {
        (a, b) for a, b in combinations(range(len(sets)), 2) if jaccard(sets[a], sets[b]) >= 0.8
    }
    kept: list[int] = []
    exact = set()
    for i in range(len(sets)):
        if any((j, i) in pairs for j in kept):
            exact.add(i)
        else:
            kept.append(i)
    runs = [
        {one.id: one.detail for one in NearDuplicates().find(batches_of(queries, size))}
        for size in (64, 5_000)
    ]
    assert runs[0] == runs[1]
    found = {int(one[1:]): int(detail.removeprefix("like q")) for one, detail in runs[0].items()}
    assert len(exact) > 100
    assert len(exact - set(found)) < 0.1 * len(exact)
    assert len(set(found) - exact) < 0.1 * len(exact)
    for one, like in found.items():
        assert like < one and like not in found
        assert jaccard(sets[one], sets[like]) > 0.65
