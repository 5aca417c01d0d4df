"""Overlap with benchmarks is what a word-for-word search over all sequences finds."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_hygiene import batches_of, real_queries

from orca.errors import UserError
from orca.mixture.contamination import BenchmarkIndex, Contamination, Item, read_items
from orca.mixture.hygiene import run_checks

PASSAGE = " ".join(f"passage{i}" for i in range(40))
INSTRUCTION = (
    "Follow these instructions of more than thirteen words, which all items of the task begin with "
)
BBH = {
    "snarks": [
        f"{INSTRUCTION}item{i}: {' '.join(f'own{i}x{j}' for j in range(12))}" for i in range(12)
    ]
}
AGIEVAL = [
    {"passage": PASSAGE, "question": f"Which of these is number {i}?", "options": ["(A)1"]}
    for i in range(8)
] + [{"passage": None, "question": "How many of the seven red boxes are left?", "options": []}]
TRUTHFUL = ["Why do veins appear blue to us?", "What is love?"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("bbh", "agieval", "truthfulqa/v1"):
        (tmp_path / name).mkdir(parents=True)
    for task, inputs in BBH.items():
        content = {"canary": "c", "examples": [{"input": one, "target": "(A)"} for one in inputs]}
        (tmp_path / f"bbh/{task}.json").write_text(json.dumps(content))
    rows = "".join(json.dumps(row) + "\n" for row in AGIEVAL)
    (tmp_path / "agieval/aqua-rat.jsonl").write_text(rows)
    table = "Type,Question\n" + "".join(f'Adv,"{question}"\n' for question in TRUTHFUL)
    (tmp_path / "truthfulqa/v1/TruthfulQA.csv").write_text(table)
    return tmp_path


@pytest.mark.parametrize("size", [1, 3, 100])
def test_planted_overlap_is_found_and_nothing_else(root: Path, size: int) -> None:
    own = [f"own3x{j}" for j in range(12)]
    passage = PASSAGE.split()
    planted = [
        (f"See:\n\n(with {' '.join(own)})", None),  # 12 words in a row
        (f"With item3: {' '.join(own)}!", f"14 words shared with bbh/snarks #3: 'with item3 "
         f"{' '.join(own[:11])}'"),
        (INSTRUCTION + "something else", None),  # of all items of the task
        (" ".join(passage[5:17]), None),
        (", ".join(passage[5:18]).upper(), "13 words shared with agieval/aqua-rat #0: "
         f"'{' '.join(passage[5:18])}'"),
        ("q: HOW MANY of the seven red boxes are left", "9 words shared with agieval/aqua-rat #8: "
         "'how many of the seven red boxes are left'"),
        ("How many of the seven boxes are left?", None),
        ("why do veins appear ‘blue’ to us", "7 words shared with truthfulqa/v1/TruthfulQA #0: "
         "'why do veins appear blue to us'"),
        ("What is love?", None),  # too short to be evidence
        ("", None),
        ("...", None),
    ]  # fmt: skip
    check = Contamination(str(root))
    found = list(check.find(batches_of([query for query, _ in planted], size)))
    expected = [(f"q{i}", detail) for i, (_, detail) in enumerate(planted) if detail]
    assert sorted((one.id, one.detail) for one in found) == expected
    assert [str(item) for item in check.index.without_evidence] == ["truthfulqa/v1/TruthfulQA #1"]
    assert check.index.ignored == 4  # 16 words of instruction


def test_a_check_that_only_reports_removes_nothing(root: Path) -> None:
    queries = [TRUTHFUL[0], "something else"]
    for remove in (True, False):
        first = Contamination(str(root), remove=remove)
        both = [first, Contamination(str(root), name="again")]
        found = run_checks(both, lambda: batches_of(queries))
        assert list(found["contamination"]) == ["q0"]
        assert list(found["again"]) == ([] if remove else ["q0"])


def words_of(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


def brute_force(items: list[Item], query: str, n: int, least: int, limit: int) -> bool:
    """The definition, sequence by sequence."""
    text = words_of(query)

    def sequences(words: tuple[str, ...], length: int) -> set[tuple[str, ...]]:
        return {words[i : i + length] for i in range(len(words) - length + 1)}

    evidence: dict[str, Counter[tuple[str, ...]]] = {item.task: Counter() for item in items}
    for item in items:
        words = words_of(item.text)
        if len(words) >= least:
            evidence[item.task].update(sequences(words, min(n, len(words))))
    return any(
        sequence in sequences(text, len(sequence))
        for counts in evidence.values()
        for sequence, count in counts.items()
        if count < limit
    )


texts = st.lists(st.sampled_from(["a", "B", "c", "D."]), max_size=14).map(" ".join)


@given(
    st.lists(st.tuples(st.sampled_from(["x", "y"]), texts), min_size=1, max_size=8).map(sorted),
    st.lists(texts, max_size=8),
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(2, 3),
)
def test_matches_are_those_of_a_search_for_every_sequence(
    tasks: list[tuple[str, str]], queries: list[str], least: int, more: int, limit: int
) -> None:
    items = [Item(task, i, text) for i, (task, text) in enumerate(tasks)]
    ngram = least + more
    index = BenchmarkIndex(items, ngram, least, limit)
    found = dict(index.matches(pa.array(queries, pa.string())))
    expected = [brute_force(items, query, ngram, least, limit) for query in queries]
    assert [row in found for row in range(len(queries))] == expected
    for row, detail in found.items():
        named = next(item for item in items if f"with {item}:" in detail)
        quote = re.search("'(.*)'", detail)[1]  # type: ignore[index]
        assert f" {quote} " in f" {' '.join(words_of(named.text))} "
        assert f" {quote} " in f" {' '.join(words_of(queries[row]))} "


def test_what_is_missing_or_of_another_form_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="knows no benchmark 'mmlu': bbh, agieval, truthfulqa"):
        read_items(["mmlu"], root)
    with pytest.raises(UserError, match=r"no file matches .*nowhere/bbh/\*\.json.* root"):
        read_items(["bbh"], root / "nowhere")
    with pytest.raises(UserError, match=r"no file matches .*TruthfulQA\.csv"):
        read_items(["truthfulqa"], root / "nowhere")
    (root / "bbh/snarks.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match=r"snarks\.json is not bbh as published"):
        read_items(["bbh"], root)
    with pytest.raises(UserError, match="min_words 14"):
        Contamination(str(root), min_words=14)
    with pytest.raises(UserError, match="boilerplate 1 "):
        Contamination(str(root), boilerplate=1)


def test_every_benchmark_item_with_enough_words_of_its_own_is_found(shared_data: Path) -> None:
    check = Contamination(str(shared_data))
    items = read_items(check.benchmarks, shared_data)
    count = len(items)
    without = {str(item) for item in check.index.without_evidence}
    assert 0 < len([name for name in without if "dyck_languages" not in name]) < 0.035 * count
    items = items[::6]
    queries = [f"Answer this question.\n\nQ: {item.text}\nA:" for item in items]
    found = {int(one.id[1:]) for one in check.find(batches_of(queries))}
    assert len(items) > 1_500
    missed = {str(item) for i, item in enumerate(items) if i not in found}
    assert missed == without & set(map(str, items))


def test_hardly_any_real_query_is_contaminated_and_those_are_known(shared_data: Path) -> None:
    """WinoBias sentences of disambiguation_qa, and two paraphrased AQuA-RAT questions."""
    check = Contamination(str(shared_data))
    evidence = {
        collection: [one.detail.split(": ")[0] for one in check.find(batches_of(queries))]
        for collection, queries in real_queries(shared_data).items()
    }
    assert evidence == {
        "t0": [],
        "niv2": [
            "14 words shared with bbh/disambiguation_qa #2",
            "16 words shared with bbh/disambiguation_qa #18",
            "13 words shared with bbh/disambiguation_qa #244",
        ],
        "cot": [
            "18 words shared with agieval/aqua-rat #67",
            "17 words shared with agieval/aqua-rat #198",
        ],
    }
