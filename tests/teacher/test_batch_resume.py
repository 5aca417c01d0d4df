"""Batches whose program or calls end too early: nothing is lost or paid twice."""

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orca.errors import UserError
from orca.teacher import Batching, Endpoint, Ledger, Prices, Teacher, batch
from orca.teacher.batch_client import BatchClient
from orca.teacher.batch_ledger import BatchLedger, check_no_batches
from orca.teacher.request import Request

from .batches import a_teacher, assert_each_paid_once, batching_of, paid, queries, run
from .conftest import FaultServer, Start, write_set

ROOT = Path(__file__).resolve().parents[2]


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


def test_what_a_batch_waits_for_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uploads, upload = [], BatchClient.upload

    async def counted(self: BatchClient, name: str, content: bytes) -> str:
        uploads.append(name)
        if len(uploads) == 6:
            batching.stop()
        return await upload(self, name, content)

    monkeypatch.setattr(BatchClient, "upload", counted)
    nowhere = Endpoint("http://127.0.0.1:9/v1", "m")
    ledger = Ledger(tmp_path / "l", {})
    teacher = Teacher("t", {"e": nowhere}, Prices(0, 0, "none"))
    batching = batching_of(teacher, queries(3), ledger, poll=0.01)
    asyncio.run(batching.run())
    ledger.close()
    (line,) = capsys.readouterr().err.splitlines()
    words = "batch 1 at e: APIConnectionError at http://127.0.0.1:9/v1; tried again every 0.01 s"
    assert len(uploads) == 6 and line.endswith(words)


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


@pytest.fixture(scope="module")
def query_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("queries") / "set", queries(200))


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
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_a_signal_ends_the_program_and_the_same_command_collects(
    batch_server: Start, query_set: Path, tmp_path: Path
) -> None:
    server = batch_server(step=1.5)
    arguments = command(server, query_set, tmp_path / "out")
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not server.calls("GET /v1/batches/"):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
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
