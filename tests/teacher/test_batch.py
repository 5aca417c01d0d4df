"""Batches against a real server that fails: no query is lost or paid twice, whatever happens."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fault_answers import answer_to, key_of

from orca.errors import UserError
from orca.mixture.query import QUERY_SCHEMA
from orca.mixture.query_set import write_query_set
from orca.teacher import Batching, Endpoint, Ledger, Prices, Teacher, batch, batch_queue, unanswered
from orca.teacher.batch import check_no_batches
from orca.teacher.batch_ledger import BatchLedger
from orca.teacher.request import Request

from .conftest import FaultServer, Start

ROOT = Path(__file__).resolve().parents[2]
POLL = 0.05


def queries(count: int, prefix: str = "query") -> list[Request]:
    return [Request(f"cot.{n}", "Be brief.", f"{prefix} {n}", "cot") for n in range(count)]


def a_teacher(*servers: FaultServer, **options: Any) -> Teacher:
    endpoints = {f"e{n}": Endpoint(s.base_url, "m") for n, s in enumerate(servers)}
    prices = Prices(1.0, 2.0, "2026-11-22", batch_discount=0.5)
    return Teacher("t", endpoints, prices, **{"timeout": 5.0, **options})


def run(
    teacher: Teacher, requests: Sequence[Request], path: Path, **options: Any
) -> tuple[Batching, dict[str, dict[str, Any]]]:
    """Go on with all, and give back the ledger's replies by query."""
    ledger = Ledger(path, {})
    try:
        batching = batching_of(teacher, requests, ledger, **options)
        asyncio.run(batching.run())
        return batching, {row["query"]: row for row in ledger.rows()}
    finally:
        ledger.close()


def batching_of(
    teacher: Teacher, requests: Sequence[Request], ledger: Ledger, **options: Any
) -> Batching:
    def read() -> Iterator[Request]:
        return unanswered(iter([requests]), ledger)

    return Batching(teacher, ledger, read, lambda *_: None, **{"poll": POLL, **options})


def assert_each_paid_once(
    rows: dict[str, dict[str, Any]], requests: Sequence[Request], *servers: FaultServer
) -> None:
    """Every query has its own answer, and the servers were paid for each exactly once."""
    assert set(rows) == {one.id for one in requests}
    for one in requests:
        assert rows[one.id]["outcome"] == "finished"
        assert rows[one.id]["response"] == answer_to(one.query), "the answer is to another query"
    assert paid(requests, *servers) == Counter(key_of(one.messages()) for one in requests)


def paid(requests: Sequence[Request], *servers: FaultServer) -> Counter[str]:
    keys = {key_of(one.messages()) for one in requests}
    return Counter(p["key"] for server in servers for p in server.paid() if p["key"] in keys)


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


@pytest.mark.parametrize("fault", ["500_after", "reset_after", "reset", "500", "429", "html"])
@pytest.mark.parametrize("call", ["POST /v1/files", "POST /v1/batches"])
def test_a_batch_whose_creation_is_not_answered_is_made_once(
    call: str, fault: str, batch_server: Start, tmp_path: Path
) -> None:
    """The list shows a batch late and on pages, and other batches are in it."""
    force = [f"{call}=none", f"{call}=none", f"{call}={fault}"]
    server = batch_server(step=0.03, list_delay=0.05, page=1, force=force)
    for number in range(2):
        run(a_teacher(server), queries(2, f"other {number}"), tmp_path / f"other{number}")
    requests = queries(5)
    _, rows = run(a_teacher(server), requests, tmp_path / "l")
    assert_each_paid_once(rows, requests, server)
    assert len({line["batch"] for line in server.paid()}) == 3
    assert fault in {line["fault"] for line in server.lines() if "call" in line}


@pytest.mark.parametrize("fault", ["html", "cut", "500", "429", "reset"])
def test_a_list_that_cannot_be_read_is_asked_for_again(
    fault: str, batch_server: Start, tmp_path: Path
) -> None:
    """Taken for one without the batch, it would have the batch made and paid twice."""
    force = ["POST /v1/batches=500_after", f"GET /v1/batches={fault}"]
    server = batch_server(step=0.03, list_delay=0.05, force=force)
    requests = queries(5)
    _, rows = run(a_teacher(server), requests, tmp_path / "l")
    assert_each_paid_once(rows, requests, server)
    lists = [line["fault"] for line in server.lines() if line.get("call") == "GET /v1/batches"]
    assert lists[0] == fault and len(lists) > 1


def forked(go: Callable[[], Any]) -> int:
    """Run ``go`` in a child; its process id."""
    if child := os.fork():
        return child
    try:
        go()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def killed_at_write(number: int, late: bool, go: Callable[[], Any]) -> bool:
    """Run ``go`` in a child that dies at its n-th write to the ledger, before or (``late``) after
    it; whether it came that far."""
    writes, write = 0, Ledger.write

    def counted(self: Ledger, statements: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == number and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, statements)
        if writes == number:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "write", counted)
        child = forked(go)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("late", [False, True])
def test_killed_at_every_write_of_the_ledger_nothing_is_lost_or_paid_twice(
    late: bool, batch_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LINES", 4)
    server = batch_server(step=0.02, list_delay=0.05)
    teacher = a_teacher(server)
    kills = 0
    for number in range(1, 50):
        requests, path = queries(10, f"{number}: query"), tmp_path / f"l{number}"
        go = functools.partial(run, teacher, requests, path, poll=0.1)
        killed = killed_at_write(number, late, go)
        _, rows = go()
        assert_each_paid_once(rows, requests, server)
        if not killed:
            break
        kills += 1
    # add, file, tried, remote, three groups of lines, none for the missing, collected
    assert kills >= 8, "the program was hardly killed"


@pytest.mark.parametrize(
    "call", ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/", "GET /v1/files/"]
)
def test_killed_between_a_call_and_its_answer_the_program_goes_on(
    call: str, batch_server: Start, tmp_path: Path
) -> None:
    server = batch_server(step=0.05, hold=0.2, list_delay=0.08)
    teacher, requests = a_teacher(server), queries(20)
    go = functools.partial(run, teacher, requests, tmp_path / "l", poll=0.1)
    child = forked(go)
    while not server.calls(call):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it ended before it was killed"
    _, rows = go()
    assert_each_paid_once(rows, requests, server)


@pytest.fixture(scope="module")
def query_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            "id": one.id,
            "collection": "cot",
            "task": "cot_test",
            "system_message_id": 16,
            "system_message": one.system_message,
            "query": one.query,
            "targets": [],
        }
        for one in queries(200)
    ]
    out = tmp_path_factory.mktemp("queries") / "set"
    write_query_set(out, pa.Table.from_pylist(rows, QUERY_SCHEMA).to_batches(), {})
    return out


def command(server: FaultServer, query_set: Path, out: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "collect.py"),
        "teacher=local",
        "gates=none",
        f"teacher.endpoints.local.base_url={server.base_url}",
        "teacher.endpoints.local.model=m",
        f"queries={query_set}",
        f"out={out}",
        "batch=true",
        "batch_poll=0.3",
        *options,
    ]


def end(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_a_signal_ends_the_program_and_the_same_command_collects(
    batch_server: Start, query_set: Path, tmp_path: Path
) -> None:
    server = batch_server(step=1.5)
    arguments = command(server, query_set, tmp_path / "out")
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not server.calls("GET /v1/batches/"):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=10)
    assert process.returncode == 75
    assert "stopped; 1 batches go on at the server: the same command goes on" in told
    ordinary = end([*arguments, "batch=false"], tmp_path)
    assert ordinary.returncode == 2 and "batch=true collects them" in ordinary.stderr
    assert not server.paid(), "it was paid before the program ended: the test would show nothing"
    done = end(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "200 traces" in done.stdout
    assert Counter(paid(queries(200), server).values()) == {1: 200}
    assert server.calls("POST /v1/batches") == 1


def test_the_plan_has_the_price_of_batches(
    batch_server: Start, query_set: Path, tmp_path: Path
) -> None:
    server = batch_server()
    prices = ["teacher.prices.prompt=1000", "teacher.prices.batch_discount=0.5", "plan=true"]
    done = end(command(server, query_set, tmp_path / "out", *prices), tmp_path)
    dollars = sum(one.prompt_tokens() for one in queries(200)) * 1000 / 1e6 / 2
    assert f"money: ${dollars:,.2f} as batches, 50% off" in done.stdout, done.stderr
    assert not server.lines()


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


def leave(server: FaultServer, requests: Sequence[Request], path: Path) -> None:
    """Send all, and stop when the server was looked at."""

    async def main(batching: Batching) -> None:
        running = asyncio.create_task(batching.run())
        while not server.calls("GET"):
            await asyncio.sleep(0.02)
        batching.stop()
        await running

    ledger = Ledger(path, {})
    asyncio.run(main(batching_of(a_teacher(server), requests, ledger)))
    ledger.close()


def test_a_later_program_sends_what_is_new_before_it_has_collected_what_is_open(
    batch_server: Start, tmp_path: Path
) -> None:
    server = batch_server(step=0.5)
    requests = queries(20)
    leave(server, requests[:10], tmp_path / "l")
    _, rows = run(a_teacher(server), requests, tmp_path / "l")
    assert_each_paid_once(rows, requests, server)
    calls = [line["call"] for line in server.lines() if "call" in line]
    assert calls.count("POST /v1/batches") == 2
    last = max(n for n, call in enumerate(calls) if call == "POST /v1/batches")
    assert last < min(n for n, call in enumerate(calls) if call.endswith("/content"))


def test_a_batch_that_the_server_lost_is_asked_again_only_on_demand(
    batch_server: Start, tmp_path: Path
) -> None:
    old = batch_server(step=60)
    requests = queries(10)
    leave(old, requests, tmp_path / "l")
    ledger = Ledger(tmp_path / "l", {})
    assert len(BatchLedger(ledger).open()) == 1
    with pytest.raises(UserError, match="1 open batches of 10 queries: batch=true"):
        check_no_batches(ledger)
    other = Teacher("t", {"renamed": Endpoint("http://x", "m")}, Prices(1, 1, "2026"))
    with pytest.raises(UserError, match="open at endpoint e0, which is not in"):
        batching_of(other, requests, ledger)
    ledger.close()
    server = batch_server(step=0.03)
    with pytest.raises(UserError, match=r"does not know batch batch_000001 \(404\): give the key"):
        run(a_teacher(server), requests, tmp_path / "l")
    assert not server.calls("POST")
    _, rows = run(a_teacher(server), requests, tmp_path / "l", give_up=True)
    assert_each_paid_once(rows, requests, server)


def test_azure_is_told_the_way_to_its_batches(tmp_path: Path) -> None:
    azure = Endpoint("https://r.openai.azure.com", "m", None, "azure", "2024-10-21")
    ledger = Ledger(tmp_path / "l", {})
    with pytest.raises(UserError, match=r"kind=openai and base_url=https://RESOURCE"):
        batching_of(Teacher("t", {"a": azure}, Prices(1, 1, "2026")), [], ledger)
