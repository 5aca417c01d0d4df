"""Batches against a real server that fails: every query comes to its outcome, and is paid once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fault_answers import answer_to, key_of

from orca.errors import UserError
from orca.teacher import Endpoint, Ledger, Prices, Teacher, batch_queue
from orca.teacher.request import Request

from .batches import a_teacher, assert_each_paid_once, batching_of, paid, queries, run
from .conftest import Start


def test_every_query_ends_once_through_faults_of_calls_and_lines(
    batch_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server was paid for is what the ledger says, to the cent, at half the price."""
    monkeypatch.setattr(batch_queue, "MOST_REQUESTS", 60)
    servers = [batch_server(step=0.04, faults=0.2, line_faults=0.2, seed=7) for _ in range(2)]
    requests = queries(300)
    batching, rows = run(a_teacher(*servers), requests, tmp_path / "l")
    assert sorted(rows) == sorted(one.id for one in requests)
    outcomes = Counter(row["outcome"] for row in rows.values())
    assert outcomes["finished"] > 270 and outcomes["rejected"] and outcomes["length"]
    for one in requests:
        if rows[one.id]["outcome"] == "finished":
            assert rows[one.id]["response"] == answer_to(one.query)
    assert {row["endpoint"] for row in rows.values()} == {"e0", "e1"}, "shared out"
    answered = Counter(
        key_of(one.messages())
        for one in requests
        if rows[one.id]["outcome"] in ("finished", "length", "content_filter")
        and rows[one.id]["finish_reason"]
    )
    assert paid(requests, *servers) == answered
    lines = [p for server in servers for p in server.paid()]
    bill = sum(p["prompt_tokens"] + 2 * p["completion_tokens"] for p in lines) / 1e6 / 2
    told = sum(row["prompt_tokens"] + 2 * row["completion_tokens"] for row in rows.values()) / 2e6
    # Where no usage is told, tokens are estimated.
    assert told < batching.spent == pytest.approx(bill, rel=0.05)
    faults = {line["fault"] for server in servers for line in server.lines() if "call" in line}
    assert len(faults) >= 6, "the server hardly failed"


def test_each_kind_of_line_comes_to_its_outcome(batch_server: Start, tmp_path: Path) -> None:
    server = batch_server(step=0.03)
    faults = {
        "fault:500": ("failed", 3),
        "fault:hang": ("failed", 3),
        "fault:short_body": ("failed", 3),
        "fault:empty_choices": ("failed", 3),
        "fault:429:2": ("finished", 3),
        "fault:duplicate": ("finished", 1),
        "fault:too_long": ("rejected", 1),
        "fault:azure_filter": ("content_filter", 1),
        "fault:content_filter": ("content_filter", 1),
        "fault:length:1": ("finished", 2),
        "plain": ("finished", 1),
    }
    requests = [Request(text, "", text) for text in faults]
    teacher = a_teacher(server, attempts=3, on_length="again")
    batching, rows = run(teacher, requests, tmp_path / "l")
    assert {text: (r["outcome"], r["attempts"]) for text, r in rows.items()} == faults
    assert rows["fault:too_long"]["error"] == "400 context_length_exceeded"
    bill = sum(p["prompt_tokens"] + 2 * p["completion_tokens"] for p in server.paid()) / 2e6
    assert batching.spent == pytest.approx(bill)


def test_what_an_expired_batch_did_not_answer_is_asked_in_another(
    batch_server: Start, tmp_path: Path
) -> None:
    server = batch_server(step=0.03, expire=1)
    requests = queries(60)
    batching, rows = run(a_teacher(server), requests, tmp_path / "l")
    assert_each_paid_once(rows, requests, server)
    expired = batching.results["e0"]["batch_expired"]
    assert expired > 5 and Counter(row["attempts"] for row in rows.values()) == {
        1: 60 - expired,
        2: expired,
    }


def test_batches_that_fail_cost_nothing_and_end_the_program_at_the_third(
    batch_server: Start, tmp_path: Path
) -> None:
    server = batch_server(step=0.03, fail=4)
    requests = queries(10)
    with pytest.raises(UserError, match=r"batch 3 at e0 failed \(invalid_json_line: This line"):
        run(a_teacher(server), requests, tmp_path / "l")
    assert not server.paid()
    _, rows = run(a_teacher(server), requests, tmp_path / "l")
    assert_each_paid_once(rows, requests, server)
    assert {row["attempts"] for row in rows.values()} == {1}


@pytest.mark.parametrize("tokens", [None, 300])
def test_a_full_queue_makes_batches_smaller_and_they_follow_each_other(
    tokens: int | None, batch_server: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = batch_server(step=0.02, enqueued_tokens=400)
    requests = queries(100)
    _, rows = run(a_teacher(server), requests, tmp_path / "l", tokens=tokens)
    assert_each_paid_once(rows, requests, server)
    assert len({line["batch"] for line in server.paid()}) >= 3
    assert ("see batch_tokens" in capsys.readouterr().err) == (tokens is None)


def test_a_wrong_key_is_told_without_it_and_the_right_one_goes_on(
    batch_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = batch_server(step=0.03, key="right")
    teacher = a_teacher(server)
    endpoint = replace(teacher.endpoints["e0"], key_variable="ORCA_TEST_KEY")
    teacher = replace(teacher, endpoints={"e0": endpoint})
    requests = queries(10)
    monkeypatch.setenv("ORCA_TEST_KEY", "sk-planted")
    with pytest.raises(UserError, match=r"endpoint e0 .* answers 401") as told:
        run(teacher, requests, tmp_path / "l")
    assert "sk-planted" not in str(told.value)
    monkeypatch.setenv("ORCA_TEST_KEY", "right")
    _, rows = run(teacher, requests, tmp_path / "l")
    assert_each_paid_once(rows, requests, server)


def test_the_budget_is_kept_and_a_larger_one_goes_on(
    batch_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while other batches are under way."""
    monkeypatch.setattr(batch_queue, "MOST_REQUESTS", 12)
    server = batch_server(step=0.2)
    requests = queries(100)
    teacher = a_teacher(server, expected_completion_tokens=25.0)
    full, _ = run(teacher, queries(100, "priced"), tmp_path / "all")
    budget = full.spent / 2
    batching, rows = run(teacher, requests, tmp_path / "l", budget=budget)
    assert batching.out_of_money
    assert 0.8 * budget < batching.spent <= budget and len(rows) < 100
    batching, rows = run(teacher, requests, tmp_path / "l", budget=3 * budget)
    assert not batching.out_of_money
    assert_each_paid_once(rows, requests, server)


def test_azure_is_told_the_way_to_its_batches(tmp_path: Path) -> None:
    azure = Endpoint("https://r.openai.azure.com", "m", None, "azure", "2024-10-21")
    ledger = Ledger(tmp_path / "l", {})
    with pytest.raises(UserError, match=r"kind=openai and base_url=https://RESOURCE"):
        batching_of(Teacher("t", {"a": azure}, Prices(1, 1, "2026")), [], ledger)
