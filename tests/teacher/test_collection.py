"""A collection in one process: what it tells before it asks, and what its report says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orca.errors import UserError
from orca.teacher import Collection, Endpoint, Ledger, Prices, Teacher
from orca.teacher.gates import Empty, Refusal
from orca.teacher.report import ledger_facts
from orca.teacher.request import Outcome, Reply, Request

from .conftest import write_set

TEACHER = Teacher(
    "t",
    {"e": Endpoint("http://127.0.0.1:9/v1", "m-1", requests_per_minute=60)},
    Prices(1.0, 2.0, "2026-11-22"),
    {"temperature": 0.7},
)
REQUESTS = [Request(f"cot.{n}", "Be brief.", f"query {n}", "cot", "test") for n in range(10)]
REFUSES = "I'm sorry, but I can't assist with that request."


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    return write_set(tmp_path / "flan" / "flan1m", REQUESTS)


def collection(queries: Path, **options: Any) -> Collection:
    gates = {"empty": Empty(), "refusal": Refusal()}
    given = {"teacher": TEACHER, "gates": gates, "gates_config": {"empty": 1, "refusal": 2}}
    return Collection(queries=queries, out=queries.parents[1] / "out", **{**given, **options})


def answer(of: Collection, ends: Sequence[tuple[Outcome, str]]) -> None:
    """Put these ends of the first queries into the collection's ledger."""
    of.out.mkdir(exist_ok=True)
    ledger = Ledger(of.out / "ledger.sqlite", ledger_facts(of.teacher, of.queries))

    async def main() -> None:
        for request, (outcome, text) in zip(REQUESTS, ends, strict=False):
            number = await ledger.send(request, "hash", "e", 1, 0.0)
            reply = Reply(outcome, "e", text, "m-1", "stop", 10, 5, error="e" * (not text))
            await ledger.finish(number, request, reply, 0.5, 1, None)

    asyncio.run(main())
    ledger.close()


def test_a_plan_tells_the_whole_and_what_remains(queries: Path) -> None:
    whole = collection(queries)
    alone = whole.plan()
    assert "requests: 10;" in alone and "remain" not in alone and not whole.out.exists()
    answer(whole, [("finished", "yes")] * 4)
    text = whole.plan()
    assert text.startswith(f"{alone}\nasked already: 4 of 10 (")
    assert "$2.00 spent; what remains:\n  requests: 6;" in text
    assert "asked already: 4 of 5" in replace(whole, limit=5).plan()
    assert replace(whole, limit=3).plan().endswith("$2.00 spent; nothing remains")
    other = replace(whole, teacher=replace(TEACHER, settings={"temperature": 0.1})).plan()
    assert f"{alone}\nwhat remains of it is unknown: " in other
    assert "was begun with settings" in other


def test_a_key_that_is_missing_is_told_before_anything_is_written(
    queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORCA_TEST_KEY", raising=False)
    with_key = replace(TEACHER.endpoints["e"], key_variable="ORCA_TEST_KEY")
    endpoints = {"a": TEACHER.endpoints["e"], "b": with_key}
    wanting = collection(queries, teacher=replace(TEACHER, endpoints=endpoints))
    with pytest.raises(UserError, match="variable ORCA_TEST_KEY is needed"):
        wanting.run()
    assert not wanting.out.exists()


def test_only_the_chosen_queries_are_counted_as_done(
    queries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = collection(queries, limit=3)
    answer(chosen, [("finished", "yes")] * 8)
    chosen.run()
    assert "asking t: 3 queries, 3 of them done before" in capsys.readouterr().out


@pytest.mark.parametrize("policy", ["set_aside", "again"])
def test_answers_that_stay_cut_are_told_where_new_ones_are_asked_again(
    policy: Any, queries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = collection(queries, teacher=replace(TEACHER, on_length=policy))
    answer(again, [("length", "It is")] * 3 + [("finished", "yes")] * 7)
    again.run()
    told = "3 queries whose answers ended by length keep that outcome: teacher.on_length=again"
    assert (told in capsys.readouterr().out) == (policy == "again")


@pytest.mark.parametrize(("policy", "traces"), [("set_aside", 4), ("keep", 6)])
def test_traces_and_what_each_gate_set_aside_are_the_answers_there_were(
    policy: Any, traces: int, queries: Path
) -> None:
    """Two answers are cut and a gate would reject them too."""
    kept = collection(queries, teacher=replace(TEACHER, on_length=policy))
    finished: list[tuple[Outcome, str]] = [("finished", text) for text in ("yes", REFUSES)]
    cut: list[tuple[Outcome, str]] = [("length", text) for text in ("It is", REFUSES)]
    ends = [*finished, *cut, *finished, *cut, ("finished", "no"), ("finished", "one")]
    answer(kept, ends)
    kept.run()
    report = json.loads((kept.out / "report.json").read_text())
    assert report["traces"] == traces and report["outcomes"] == {"finished": 6, "length": 4}
    judged = sum(report["outcomes"][name] for name in kept.teacher.traced)
    assert report["traces"] + sum(report["gates"].values()) == judged
    names = "finished and length" if policy == "keep" else "finished"
    text = (kept.out / "report.md").read_text()
    assert f"| Set aside by gates, of {judged} {names} | |" in text


def test_the_report_says_of_what_and_when_it_is(queries: Path) -> None:
    asked = collection(queries)
    answer(asked, [("finished", "yes")] * 10)
    asked.run()
    text = (asked.out / "report.md").read_text()
    assert re.search(r"\| written \| \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d \|", text)
    digest = json.loads((queries / "_manifest.json").read_text())["content_sha256"]
    assert f"| query set | flan/flan1m (SHA-256 {digest}) |" in text
    assert "| settings | temperature 0.7 |" in text and "| models | m-1 |" in text
    assert "| gates | empty, refusal |" in text
