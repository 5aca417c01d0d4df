"""Asking, against servers on loopback: what is sent, and what becomes of each kind of answer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orca.errors import UserError
from orca.teacher import Asking, Endpoint, Ledger, Prices, Teacher, limits, unanswered
from orca.teacher.request import Request

PRICES = Prices(1.0, 2.0, "2026-11-22")


@dataclass
class Recorder:
    """A server that records requests and answers all with one status."""

    status: int = 200
    seen: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers["Content-Length"])
        body = json.loads(handler.rfile.read(length))
        self.seen.append({"path": handler.path, "headers": dict(handler.headers), **body})
        choice = {"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        good = {"id": "1", "model": "m-7", "choices": [choice], "usage": usage}
        words = {"error": {"message": "no such key: sk-planted", "code": "wrong"}}
        text = json.dumps(good if self.status == 200 else words).encode()
        handler.send_response(self.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)


@pytest.fixture
def recorder() -> Iterator[Callable[..., Recorder]]:
    servers = []

    def start(status: int = 200) -> Recorder:
        record = Recorder(status)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                record.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        record.port = server.server_port
        return record

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def queries(*texts: str) -> list[Request]:
    return [Request(f"cot.{n}", "Be brief.", text) for n, text in enumerate(texts)]


def a_teacher(*ports: int, **options: Any) -> Teacher:
    endpoints = {f"e{p}": Endpoint(f"http://127.0.0.1:{p}/v1", "m") for p in ports}
    return Teacher("t", endpoints, PRICES, **{"timeout": 5.0, **options})


def ask(
    teacher: Teacher, requests: list[Request], path: Path, budget: float | None = None
) -> tuple[Asking, list[dict[str, Any]]]:
    """Ask all, and give back what the ledger at ``path`` has of them."""
    ledger = Ledger(path, {})
    asking = Asking(teacher, ledger, unanswered(iter([requests]), ledger), no_gate, budget)
    try:
        asyncio.run(asking.run())
    finally:
        rows = list(ledger.rows())
        ledger.close()
    return asking, rows


def no_gate(request: Request, text: str) -> None:
    return None


def test_what_is_sent_is_messages_model_and_every_setting(
    recorder: Callable[..., Recorder], tmp_path: Path
) -> None:
    server = recorder()
    settings = {"temperature": 0.7, "top_p": None, "reasoning_effort": "none", "my_field": 3}
    _, rows = ask(a_teacher(server.port, settings=settings), queries("hello"), tmp_path / "l")
    (seen,) = server.seen
    assert seen["path"] == "/v1/chat/completions"
    assert seen["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    sent = {name: seen.get(name) for name in ("model", *settings)}
    assert sent == {**settings, "model": "m"} and "top_p" not in seen
    assert (rows[0]["response"], rows[0]["model"]) == ("yes", "m-7")
    assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"]) == (7, 3)


def test_azure_is_asked_at_its_deployment_with_its_key(
    recorder: Callable[..., Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCA_TEST_AZURE", "planted")
    server = recorder()
    azure = Endpoint(
        f"http://127.0.0.1:{server.port}", "my-gpt4", "ORCA_TEST_AZURE", "azure", "2024-10-21"
    )
    _, rows = ask(Teacher("t", {"east": azure}, PRICES), queries("hello"), tmp_path / "l")
    (seen,) = server.seen
    path = "/openai/deployments/my-gpt4/chat/completions?api-version=2024-10-21"
    assert seen["path"] == path and rows[0]["outcome"] == "finished"
    assert {k.lower(): v for k, v in seen["headers"].items()}["api-key"] == "planted"


def test_an_endpoint_that_refuses_is_left_out_and_the_others_go_on(
    recorder: Callable[..., Recorder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = recorder(401), recorder()
    _, rows = ask(a_teacher(bad.port, good.port), queries(*"abcdefghij"), tmp_path / "l")
    assert bad.seen, "the endpoint that refuses was never asked"
    assert [row["outcome"] for row in rows] == ["finished"] * 10
    assert f"endpoint e{bad.port}" in (told := capsys.readouterr().err)
    assert "answers 401 'no such key: sk-planted': check address, model and the key" in told
    assert f"going on without it: e{good.port}" in told
    with pytest.raises(UserError, match="answers 401"):
        ask(a_teacher(bad.port), queries("a", "b"), tmp_path / "other")


def test_a_fault_of_the_settings_stops_before_everything_is_rejected(
    recorder: Callable[..., Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCA_TEST_KEY", "sk-planted")
    server = recorder(400)
    teacher = a_teacher(server.port)
    endpoint = replace(*teacher.endpoints.values(), key_variable="ORCA_TEST_KEY", concurrency=64)
    teacher = replace(teacher, endpoints={"e": endpoint})
    texts = [f"query {n}" for n in range(200)]
    with pytest.raises(
        UserError, match=r"rejects every request \(400 wrong: 'no such key: \[key\]"
    ):
        ask(teacher, queries(*texts), tmp_path / "l")
    assert 20 <= len(server.seen) < 200
    server.status = 200
    _, rows = ask(teacher, queries(*texts), tmp_path / "l")
    assert {row["outcome"] for row in rows} == {"finished"} and len(rows) == 200
    with pytest.raises(UserError, match="ask_again: 'finished' is none of failed, rejected"):
        Ledger(tmp_path / "l", {}).withdraw(["finished"])


@pytest.mark.parametrize("policy", ["set_aside", "keep", "again"])
def test_an_answer_that_was_cut_is_asked_again_only_where_the_policy_says_so(
    policy: Any, fault_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = fault_server()
    teacher = a_teacher(server.port, on_length=policy, attempts=3)
    texts = queries("fault:length:1 a", "fault:length b", "c")
    asking, rows = ask(teacher, texts, tmp_path / "l")
    outcomes = {row["query"]: (row["outcome"], row["attempts"]) for row in rows}
    again = policy == "again"
    assert outcomes == {
        "cot.0": ("finished", 2) if again else ("length", 1),
        "cot.1": ("length", 3 if again else 1),
        "cot.2": ("finished", 1),
    }
    paid = sum(p["prompt_tokens"] + 2 * p["completion_tokens"] for p in server.paid()) / 1e6
    assert asking.spent == pytest.approx(paid), "every attempt that was answered was paid"
    assert len(server.paid()) == (6 if again else 3)


def test_a_server_that_is_down_costs_few_queries_their_attempts(
    recorder: Callable[..., Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is down it is asked one query at a time; when it is back all goes on."""
    monkeypatch.setattr(limits, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr("orca.teacher.ask.LONGEST_PAUSE", 0.02)
    server = recorder(503)
    teacher = a_teacher(server.port, attempts=5)

    async def main(asking: Asking) -> None:
        running = asyncio.create_task(asking.run())
        (client,) = asking.clients.values()
        async with asyncio.timeout(60):
            while not client.limits.down or client.limits.active > 1:
                await asyncio.sleep(0.05)
        asked, begun = len(server.seen), time.monotonic()
        await asyncio.sleep(1.0)
        assert client.limits.down and client.limits.active == 1
        rate = (len(server.seen) - asked) / (time.monotonic() - begun)
        assert rate < 40, "it is asked at full speed although it is down"
        server.status = 200
        await running
        assert not client.limits.down

    ledger = Ledger(tmp_path / "l", {})
    texts = queries(*(f"query {n}" for n in range(300)))
    asking = Asking(teacher, ledger, iter(texts), no_gate)
    asyncio.run(main(asking))
    assert asking.outcomes.total() == 300 and asking.outcomes["finished"] >= 290


def test_an_endpoint_whose_settings_are_wrong_takes_no_query_from_one_that_answers(
    recorder: Callable[..., Recorder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = recorder(400), recorder()
    texts = queries(*(f"query {n}" for n in range(100)))
    teacher = a_teacher(bad.port, good.port)
    endpoints = {name: replace(one, concurrency=4) for name, one in teacher.endpoints.items()}
    _, rows = ask(replace(teacher, endpoints=endpoints), texts, tmp_path / "l")
    assert {row["outcome"] for row in rows} == {"finished"} and len(rows) == 100
    assert 20 <= len(bad.seen) < 40 and "rejects every request" in capsys.readouterr().err


def test_queries_that_are_too_long_are_rejected_however_many_come_in_a_row(
    fault_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = fault_server()
    texts = ["good", *(f"fault:too_long {n}" for n in range(40)), "good again"]
    teacher = a_teacher(server.port)
    endpoint = replace(*teacher.endpoints.values(), concurrency=1)
    _, rows = ask(replace(teacher, endpoints={"e": endpoint}), queries(*texts), tmp_path / "l")
    assert [row["outcome"] for row in rows].count("rejected") == 40 and len(rows) == 42


def test_an_endpoint_that_has_answered_is_left_out_after_five_refusals_in_a_row(
    recorder: Callable[..., Recorder], tmp_path: Path
) -> None:
    """One alone may be the query's: proxies forbid prompts by 403."""
    server = recorder()
    teacher = a_teacher(server.port, attempts=2)
    endpoint = replace(*teacher.endpoints.values(), concurrency=1)
    teacher = replace(teacher, endpoints={"e": endpoint})
    ask(teacher, queries("a"), tmp_path / "l")
    server.status = 403
    with pytest.raises(UserError, match="answers 403"):
        ask(teacher, queries(*"abcdefgh"), tmp_path / "l")
    assert len(server.seen) == 1 + 5, "five in a row say that it does not answer any more"


def test_what_is_under_way_at_a_failure_is_recorded(
    fault_server: Callable[..., Any], tmp_path: Path
) -> None:
    """Queries that cannot be read, and a gate that fails, lose no answer that is paid for."""
    server = fault_server(latency=0.2)

    def unreadable() -> Iterator[Request]:
        yield from queries(*"abcdef")
        raise UserError("part-00001.parquet is broken")

    ledger = Ledger(tmp_path / "l", {})
    asking = Asking(a_teacher(server.port), ledger, unreadable(), no_gate)
    with pytest.raises(UserError, match="is broken"):
        asyncio.run(asking.run())
    assert len(list(ledger.rows())) == len(server.paid()) == 6
    ledger.close()

    def broken_gate(request: Request, text: str) -> None:
        raise TypeError("max_characters")

    ledger = Ledger(tmp_path / "gate", {})
    asking = Asking(a_teacher(server.port), ledger, iter(queries(*"ghijkl")), broken_gate)
    with pytest.raises(TypeError, match="max_characters"):
        asyncio.run(asking.run())
    rows = list(ledger.rows())
    assert len(rows) == len(server.paid()) - 6 > 0
    assert {row["gate"] for row in rows} == {"gate_failed"}
    assert ledger.judge({"mended": True}, no_gate) == len(rows)


def test_stopping_waits_for_answers_and_not_for_limits_and_the_second_time_for_nothing(
    fault_server: Callable[..., Any], tmp_path: Path
) -> None:
    async def stopped(asking: Asking, times: int) -> float:
        running = asyncio.create_task(asking.run())
        await asyncio.sleep(1.0)
        for _ in range(times):
            asking.stop()
        start = time.monotonic()
        await running
        return time.monotonic() - start

    slow = a_teacher(fault_server(latency=0.01).port)
    endpoint = replace(*slow.endpoints.values(), requests_per_minute=6)
    for teacher, times, most in (
        (replace(slow, endpoints={"e": endpoint}), 1, 1.0),
        (a_teacher(fault_server(hang=60).port, timeout=60.0), 2, 1.0),
    ):
        ledger = Ledger(tmp_path / f"l{times}", {})
        texts = queries(*(f"fault:hang {n}" if times == 2 else str(n) for n in range(20)))
        asking = Asking(teacher, ledger, iter(texts), no_gate)
        assert asyncio.run(stopped(asking, times)) < most and not asking.complete
        under_way = ledger.end_interrupted()
        assert (under_way > 0) == (ledger.perhaps() > 0) == (times == 2)
        ledger.close()


def test_the_budget_is_kept_though_answers_are_long_and_used_though_one_was_dear(
    fault_server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers may have 1,000 tokens and have 20: what is under way is reserved at its longest, and
    what turns out cheap gives its place to others."""
    monkeypatch.setattr("orca.teacher.ask.WAIT_FOR_MONEY", 0.02)
    server = fault_server(latency=0.05)
    prices = Prices(0.0, 1000.0, "2026-11-22")  # a dollar for 1,000 tokens
    teacher = replace(a_teacher(server.port, settings={"max_tokens": 1000}), prices=prices)
    texts = queries(*(f"query {n}" for n in range(300)))
    asking, rows = ask(teacher, texts, tmp_path / "l", budget=3.0)
    assert asking.out_of_money and not asking.complete
    assert asking.spent <= 3.0 and asking.spent > 3.0 - 1.1, "up to one longest answer is left"
    assert len(rows) > 60
    again, more = ask(teacher, texts, tmp_path / "l", budget=4.0)
    assert len(rows) < len(more) and 3.0 - 1.1 < again.spent <= 4.0, "one budget for all programs"


def test_options_that_cannot_be_are_sentences() -> None:
    for options, message in (
        ({"settings": {"model": "x"}}, r"teacher\.settings\.model: not a setting"),
        ({"settings": {"api_key": "x"}}, r"teacher\.settings\.api_key: not a setting"),
        ({"settings": {"max_tokens": "many"}}, "max_tokens.*'many': a whole number"),
        ({"expected_completion_tokens": -1.0}, "expected_completion_tokens=-1.0: a number above"),
        ({"on_length": "drop"}, "on_length='drop': one of set_aside, keep, again"),
        ({"attempts": 0}, "teacher.attempts=0: a whole number"),
        ({"timeout": 0.0}, r"teacher\.timeout=0\.0: a number above 0"),
    ):
        with pytest.raises(UserError, match=message):
            a_teacher(1, **options)
    for changes, message in (
        ({"key_variable": "sk-planted"}, "not the name of an environment variable"),
        ({"kind": "azur"}, r"endpoints\.e\.kind='azur'"),
        ({"kind": "azure"}, r"endpoints\.e\.api_version is needed"),
        ({"api_version": "2024"}, "is Azure's"),
        ({"base_url": "127.0.0.1:8000"}, r"base_url='127\.0\.0\.1:8000': as https"),
        ({"base_url": "https://me:secret@host/v1"}, "more than an address: a key belongs"),
        ({"concurrency": 5000}, "at most 1000"),
        ({"tokens_per_minute": 0}, "tokens_per_minute=0"),
    ):
        with pytest.raises(UserError, match=message):
            Teacher("t", {"e": replace(Endpoint("http://x", "m"), **changes)}, PRICES)
    with pytest.raises(UserError, match=r"prices\.prompt=-1"):
        Prices(-1, 1, "2026")
