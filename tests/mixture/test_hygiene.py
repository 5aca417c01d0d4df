"""Checks of a query set see each query once, and only those that remove take queries away."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca.errors import UserError
from orca.mixture.hygiene import Finding, Language, Lengths, run_checks


def batches_of(
    queries: list[str], size: int = 1_000, targets: list[list[str]] | None = None
) -> list[pa.RecordBatch]:
    """Queries with ids q0, q1, ... in batches of this size."""
    columns = {
        "id": [f"q{i}" for i in range(len(queries))],
        "collection": ["t0"] * len(queries),
        "task": ["t"] * len(queries),
        "query": queries,
        "targets": targets or [["a"]] * len(queries),
    }
    schema = {"targets": pa.list_(pa.string())}
    whole = pa.record_batch(
        {name: pa.array(values, schema.get(name, pa.string())) for name, values in columns.items()}
    )
    return [whole.slice(start, size) for start in range(0, len(queries), size)]


@dataclass
class Named:
    """Finds the ids it is told, and remembers those that it saw."""

    name: str
    ids: set[str]
    remove: bool = True
    seen: list[str] = field(default_factory=list)

    def find(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Finding]:
        for batch in batches:
            for one in batch.column("id").to_pylist():
                self.seen.append(one)
                if one in self.ids:
                    yield Finding(one, f"{self.name} {one}")


ids = st.sets(st.integers(0, 11).map("q{}".format))


@given(st.lists(st.tuples(ids, st.booleans()), max_size=5), st.integers(1, 12))
def test_a_check_sees_what_earlier_removing_checks_left(
    wanted: list[tuple[set[str], bool]], size: int
) -> None:
    checks = [Named(f"c{i}", ids, remove) for i, (ids, remove) in enumerate(wanted)]
    found = run_checks(checks, lambda: batches_of(["text"] * 12, size))
    left = [f"q{i}" for i in range(12)]
    assert list(found) == [check.name for check in checks]
    for check in checks:
        assert check.seen == left
        expected = [one for one in left if one in check.ids]
        assert found[check.name] == {one: f"{check.name} {one}" for one in expected}
        if check.remove:
            left = [one for one in left if one not in check.ids]


def test_two_checks_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="two checks are called 'lengths'"):
        run_checks([Lengths(9), Lengths(8)], lambda: [])
    both = [Lengths(9), Lengths(8, name="shorter")]
    assert run_checks(both, lambda: batches_of(["a" * 9])) == {
        "lengths": {},
        "shorter": {"q0": "9 characters, more than 8"},
    }


def test_lengths_are_inclusive_limits_of_the_stripped_text() -> None:
    queries = ["", " \n", "ab", "a" * 5, f" {'a' * 5}\n", "a" * 6, "abc", "abc"]
    targets = [["x"]] * 6 + [["y", "z" * 4], ["z" * 3]]
    check = Lengths(5, 2, 3)
    for size in (1, 3, 100):
        found = {one.id: one.detail for one in check.find(batches_of(queries, size, targets))}
        assert found == {
            "q0": "0 characters, fewer than 2",
            "q1": "0 characters, fewer than 2",
            "q5": "6 characters, more than 5",
            "q6": "a target of 4 characters, more than 3",
        }
    assert not list(Lengths(None, 0).find(batches_of(queries, 100, targets)))
    with pytest.raises(UserError, match="max_characters 1 is below min_characters 2"):
        Lengths(1, 2)


FOREIGN = {
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
}


def test_language_finds_other_languages_and_no_numbers() -> None:
    english = ["Who wrote Hamlet?", "", "12 34 56 78 90\n" * 50, "ok", "8, 27, 64, 100, 125, 216"]
    check = Language()
    found = list(check.find(batches_of(english + list(FOREIGN.values()))))
    assert [one.detail[:2] for one in found] == list(FOREIGN)
    assert [one.id for one in found] == [f"q{i + len(english)}" for i in range(len(FOREIGN))]
    assert not list(Language(("en", *FOREIGN)).find(batches_of(list(FOREIGN.values()))))
    with pytest.raises(UserError, match="no language 'english'"):
        Language(("english",))


def real_queries(shared_data: Path) -> dict[str, list[str]]:
    """Queries of T0, NIV2 and FLAN's CoT sets by collection."""
    t0 = [
        json.loads(line)["prompt"]
        for file in sorted(shared_data.glob("t0/*.jsonl"))
        for line in file.open(encoding="utf-8")
    ]
    niv2 = []
    for file in sorted(shared_data.glob("niv2/tasks/*.json")):
        task = json.loads(file.read_text(encoding="utf-8"))
        niv2 += [f"{task['Definition'][0]}\n\n{one['input']}" for one in task["Instances"]]
    cot = [
        line.split("\t")[0].replace("\\n", "\n")
        for file in sorted(shared_data.glob("flan_cot/*_train.tsv"))
        for line in file.open(encoding="utf-8")
    ]
    return {"t0": t0, "niv2": niv2, "cot": cot}


def test_english_queries_are_hardly_ever_taken_for_another_language(shared_data: Path) -> None:
    for collection, queries in real_queries(shared_data).items():
        sample = queries[::7]
        assert len(sample) > 500
        found = list(Language().find(batches_of(sample)))
        assert len(found) < 0.005 * len(sample), (collection, found[:5])
