"""benchmarks/fault_server.py: its faults as they are on the wire, its limits, its accounts."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import Any

import pytest
from fault_answers import EVERY_ATTEMPT, ONE_ATTEMPT, answer_to, draw_fault, key_of
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import FaultServer

Start = Callable[..., FaultServer]
PATH = "/v1/chat/completions"


def messages(query: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief. é"}, {"role": "user", "content": query}]


def connect(server: FaultServer) -> HTTPConnection:
    return HTTPConnection("127.0.0.1", server.port, timeout=10)


def send(connection: HTTPConnection, query: str) -> None:
    body = json.dumps({"model": "gpt-4", "messages": messages(query)})
    connection.request("POST", PATH, body, {"Content-Type": "application/json"})


def ask(server: FaultServer, query: str) -> tuple[HTTPResponse, bytes]:
    """One request on a connection of its own: the response and its body."""
    connection = connect(server)
    try:
        send(connection, query)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def error(server: FaultServer, fault: str) -> tuple[int, dict[str, Any], http.client.HTTPMessage]:
    response, body = ask(server, f"fault:{fault}")
    return response.status, json.loads(body)["error"], response.headers


def test_every_answer_is_the_one_to_its_own_query_and_costs_what_its_usage_says(
    fault_server: Start,
) -> None:
    server = fault_server(latency=0.02)
    queries = [f"question {n}" for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda query: ask(server, query), queries))
    paid = {line["key"]: line for line in server.paid()}
    assert len(paid) == len(server.paid()) == len(server.arrived()) == len(queries)
    for query, (response, body) in zip(queries, answers, strict=True):
        answer = json.loads(body)
        (choice,) = answer["choices"]
        line = paid[key_of(messages(query))]
        assert response.status == 200 and answer["model"] == "gpt-4-0613"
        assert choice["message"]["content"] == answer_to(query)
        assert choice["finish_reason"] == line["finish_reason"] == "stop"
        assert answer["usage"]["prompt_tokens"] == line["prompt_tokens"] > 0
        assert answer["usage"]["completion_tokens"] == line["completion_tokens"] > 0


def test_a_connection_serves_many_requests_and_survives_errors_of_the_server(
    fault_server: Start,
) -> None:
    connection = connect(fault_server())
    send(connection, "first")
    socket = connection.sock
    for query in ("fault:503", "fault:html", "last"):
        connection.getresponse().read()
        send(connection, query)
        assert connection.sock is socket is not None  # http.client connects again where it must
    response = connection.getresponse()
    assert json.loads(response.read())["choices"][0]["message"]["content"] == answer_to("last")


def test_errors_have_the_status_and_the_body_of_the_real_services(fault_server: Start) -> None:
    server = fault_server()
    for fault, retry_after in [("429", None), ("429_retry_after", "1")]:
        status, body, headers = error(server, fault)
        assert (status, body["code"]) == (429, "rate_limit_exceeded")
        assert headers["Retry-After"] == retry_after
    for fault in ("500", "503"):
        status, body, _ = error(server, fault)
        assert (status, body["type"]) == (int(fault), "server_error")
    status, body, _ = error(server, "azure_filter")
    assert (status, body["code"], body["param"]) == (400, "content_filter", "prompt")
    assert body["innererror"]["code"] == "ResponsibleAIPolicyViolation"
    status, body, _ = error(server, "too_long")
    assert (status, body["code"]) == (400, "context_length_exceeded")
    assert not server.paid() and len(server.arrived()) == 6


def test_connections_break_before_and_within_the_body(fault_server: Start) -> None:
    server = fault_server(hang=0.3)
    with pytest.raises(ConnectionResetError) as before:
        ask(server, "fault:reset_before")
    assert not isinstance(before.value, RemoteDisconnected)  # that would be an orderly end
    connection = connect(server)
    send(connection, "fault:reset_during")
    response = connection.getresponse()
    with pytest.raises(ConnectionResetError):
        response.read()
    with pytest.raises(IncompleteRead):
        ask(server, "fault:short_body")
    began = time.monotonic()
    with pytest.raises(RemoteDisconnected):
        ask(server, "fault:hang")
    assert 0.3 <= time.monotonic() - began < 3
    assert not server.paid() and len(server.arrived()) == 4


def test_answers_of_status_200_that_are_none(fault_server: Start) -> None:
    server = fault_server()
    whole = ask(server, "sound")[1]
    for fault in ("cut_json", "malformed_json"):
        response, body = ask(server, f"fault:{fault}")
        assert response.status == 200 and len(body) == int(response.headers["Content-Length"])
        with pytest.raises(json.JSONDecodeError):
            json.loads(body)
        assert (len(body) < len(whole) - 100) == (fault == "cut_json")
    response, body = ask(server, "fault:html")
    assert response.headers["Content-Type"] == "text/html" and body.startswith(b"<html>")
    response, body = ask(server, "fault:empty_choices")
    assert response.status == 200 and json.loads(body)["choices"] == []
    assert len(server.paid()) == 1  # the sound one


def test_odd_answers_that_cost_are_whole(fault_server: Start) -> None:
    server = fault_server(slow=0.4)
    for fault in ("length", "content_filter"):
        choice = json.loads(ask(server, f"fault:{fault}")[1])["choices"][0]
        text = choice["message"]["content"]
        assert choice["finish_reason"] == fault == server.paid()[-1]["finish_reason"]
        assert answer_to(f"fault:{fault}").startswith(text) and text
    connection = connect(server)
    began = time.monotonic()
    send(connection, "fault:slow")
    response = connection.getresponse()
    assert len(server.paid()) == 3  # noted before the body is there
    slow = json.loads(response.read())
    assert 0.4 <= time.monotonic() - began < 3
    no_usage = json.loads(ask(server, "fault:no_usage")[1])
    assert "usage" in slow and "usage" not in no_usage
    assert no_usage["choices"][0]["message"]["content"] == answer_to("fault:no_usage")
    assert len(server.paid()) == 4 and server.paid()[-1]["completion_tokens"] > 0


@pytest.mark.parametrize("fault", ["duplicate", "duplicate_open"])
def test_a_duplicated_answer_comes_twice_and_costs_once(fault_server: Start, fault: str) -> None:
    server = fault_server()
    connection = connect(server)
    send(connection, f"fault:{fault}")
    time.sleep(0.3)
    assert connection.sock is not None
    raw = connection.sock.recv(65536)
    half = len(raw) // 2
    assert raw[:half] == raw[half:] and raw.startswith(b"HTTP/1.1 200 OK")
    assert (b"Connection: close" in raw) == (fault == "duplicate")
    assert len(server.paid()) == 1


def test_every_fault_is_met_by_its_name_and_an_unknown_one_is_refused(fault_server: Start) -> None:
    server = fault_server(hang=0.01, slow=0.01)
    faults = [*ONE_ATTEMPT, *EVERY_ATTEMPT]
    for fault in faults:
        try:
            ask(server, f"fault:{fault}:1")
        except (OSError, IncompleteRead):
            continue
    assert [line["fault"] for line in server.arrived()] == faults
    for fault in faults:  # the second time each is sound
        answer = json.loads(ask(server, f"fault:{fault}:1")[1])
        assert answer["choices"][0]["finish_reason"] == "stop"
    status, body, _ = error(server, "nonsense")
    assert status == 400 and "nonsense" in body["message"]


def test_requests_over_the_limit_get_429_with_the_limits_in_the_headers(
    fault_server: Start,
) -> None:
    server = fault_server(requests_per_minute=600)  # 10 at once, then one each 0.1 s
    began = time.monotonic()
    responses = [ask(server, f"question {n}")[0] for n in range(40)]
    allowed = 10 + (time.monotonic() - began) * 10
    status = Counter(response.status for response in responses)
    assert 10 <= status[200] <= allowed and status[429] == 40 - status[200] >= 2
    assert responses[0].headers["x-ratelimit-remaining-requests"] == "9"
    assert {r.headers["x-ratelimit-limit-requests"] for r in responses} == {"600"}
    refused = [r.headers for r in responses if r.status == 429]
    assert {headers["x-ratelimit-remaining-requests"] for headers in refused} == {"0"}
    waits = [headers["Retry-After"] for headers in refused]
    assert set(waits) == {None, "1"} and abs(waits.count("1") - len(waits) / 2) <= 0.5
    assert "x-ratelimit-limit-tokens" not in responses[0].headers
    kinds = Counter(line["fault"] for line in server.arrived())
    assert kinds == {None: status[200], "limit": status[429]} and len(server.paid()) == status[200]
    time.sleep(1)
    assert ask(server, "after a pause")[0].status == 200


def test_tokens_are_limited_by_what_an_answer_will_have_used(fault_server: Start) -> None:
    server = fault_server(tokens_per_minute=12_000)  # 200 at once, then 200 a second
    query = "x" * 500  # 143 tokens, and some for the rest
    first, body = ask(server, query)
    used = json.loads(body)["usage"]["total_tokens"]
    assert 143 < used < 190
    assert first.headers["x-ratelimit-limit-tokens"] == "12000"
    assert int(first.headers["x-ratelimit-remaining-tokens"]) == 200 - used
    second, body = ask(server, query)
    assert second.status == 429 and json.loads(body)["error"]["type"] == "tokens"
    time.sleep(1)
    larger = ask(server, "x" * 3500)[0]  # than the bucket: goes when it is full
    assert larger.status == 200 and larger.headers["x-ratelimit-remaining-tokens"] == "0"
    assert ask(server, "short")[0].status == 429


def test_an_answer_to_a_client_that_left_costs_nothing(fault_server: Start) -> None:
    server = fault_server(latency=0.3)
    connection = connect(server)
    send(connection, "left")
    connection.close()
    deadline = time.monotonic() + 5
    while not server.arrived() and time.monotonic() < deadline:
        time.sleep(0.01)
    ask(server, "stayed")
    time.sleep(1.5)
    assert [line["key"] for line in server.paid()] == [key_of(messages("stayed"))]
    assert len(server.arrived()) == 2


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.9), st.integers(0, 100))
def test_the_share_of_faults_is_as_asked_and_asking_again_helps(share: float, seed: int) -> None:
    """At each attempt; lasting faults last, and among the rest every kind occurs as weighted."""
    keys = [f"{n:032x}" for n in range(3000)]
    first = [draw_fault("", key, 0, share, seed) for key in keys]
    again = [draw_fault("", key, 1, share, seed) for key in keys]
    for faults in (first, again):
        met = sum(fault is not None for fault in faults)
        assert met / len(keys) == pytest.approx(share, abs=0.06)
    both = [pair for pair in zip(first, again, strict=True) if EVERY_ATTEMPT.keys() & {*pair}]
    assert both and all(a == b for a, b in both)
    passed = sum(b is None for a, b in zip(first, again, strict=True) if a in ONE_ATTEMPT)
    assert passed > 0


def test_faults_come_by_their_weights() -> None:
    keys = [f"{n:032x}" for n in range(20_000)]
    drawn = Counter(draw_fault("", key, 0, 1.0, 7) for key in keys)
    weights = ONE_ATTEMPT | EVERY_ATTEMPT
    assert None not in drawn
    for fault, weight in weights.items():
        expected = weight / sum(weights.values())
        assert drawn[fault] / len(keys) == pytest.approx(expected, abs=0.008), fault
