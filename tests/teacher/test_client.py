"""One endpoint's client against a server that does what HTTP forbids."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from fault_answers import answer_to

from orca.errors import UserError
from orca.teacher.client import Client, Refused, Retry, read_answer, read_refusal, wait_of
from orca.teacher.request import Reply, Request
from orca.teacher.settings import Endpoint, Prices, Teacher

from .conftest import FaultServer


def test_an_answer_that_comes_twice_is_given_to_no_other_query(
    fault_server: Callable[..., FaultServer],
) -> None:
    """Every third answer comes twice, on a connection that stays open."""
    endpoint = Endpoint(fault_server(latency=0.01).base_url, "m")
    teacher = Teacher("t", {"a": endpoint}, Prices(0, 0, "none"))
    queries = [f"{n}?" if n % 3 else f"fault:duplicate_open {n}?" for n in range(30)]

    async def ask() -> list[object]:
        client = Client("a", endpoint, teacher)
        answers = [await client.ask(Request(query, "", query)) for query in queries]
        await client.close()
        return answers

    answers = asyncio.run(ask())
    malformed = [n for n, answer in enumerate(answers) if answer == Retry("malformed")]
    assert malformed, "no copy was ever read: the test tests nothing"
    for query, answer in zip(queries, answers, strict=True):
        assert answer == Retry("malformed") or answer.text == answer_to(query)
    assert malformed == [n + 1 for n in range(0, 30, 3)], "the next query is asked again, no more"


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (400, "context_length_exceeded", "rejected"),
        (413, "", "rejected"),
        (422, "", "rejected"),
        (400, "content_filter", "content_filter"),
        (408, "", "408"),
        (409, "", "409"),
        (429, "rate_limit_exceeded", "429"),
        (500, "", "500"),
        (529, "", "529"),
        (429, "insufficient_quota", Refused),
        (401, "", Refused),
        (402, "", Refused),
        (403, "", Refused),
        (404, "model_not_found", Refused),
    ],
)
def test_what_a_status_means(status: int, code: str, meaning: Any) -> None:
    endpoint = Endpoint("http://x", "m")
    body = {"code": code, "message": "no"}
    if meaning is Refused:
        with pytest.raises(Refused) as caught:
            read_refusal(status, body, "e", endpoint)
        assert caught.value.status == status
        return
    answer = read_refusal(status, body, "e", endpoint, 7.0)
    if isinstance(answer, Retry):
        assert answer == Retry(meaning, 7.0)
    else:
        assert (answer.outcome, answer.error) == (meaning, f"{status} {code}".strip())


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_refusal_has_the_server_s_words_without_the_key(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCA_TEST_KEY", "sk-planted")
    endpoint = Endpoint("http://x", "m", "ORCA_TEST_KEY")
    page = "<html>\r\n<h1>404 Not Found: sk-planted</h1>\r\n</html>"
    for body, words in (
        ({"message": "The model `m` is not for sk-planted"}, "The model `m` is not for [key]"),
        ({"detail": "Not Found"}, "Not Found"),
        (page, "<html> <h1>404 Not Found: [key]</h1> </html>"),
    ):
        with pytest.raises(Refused) as caught:
            read_refusal(status, body, "e", endpoint)
        assert f"{status} '{words}'" in str(caught.value)
        assert "sk-planted" not in str(caught.value)
    for nothing in (None, {}, ""):
        with pytest.raises(Refused) as caught:
            read_refusal(status, nothing, "e", endpoint)
        assert "None" not in str(caught.value) and "''" not in str(caught.value)


def an_answer(**changes: Any) -> dict[str, Any]:
    choice = {"message": {"content": changes.pop("text", "yes")}, "finish_reason": "stop"}
    choice.update({k: changes.pop(k) for k in ("finish_reason",) if k in changes})
    usage = changes.pop("usage", {"prompt_tokens": 3, "completion_tokens": 2})
    return {"model": "m", "choices": [choice], "usage": usage, **changes}


def test_answers_of_odd_servers_are_read_or_malformed_and_never_raise() -> None:
    def read(**changes: Any) -> Reply | Retry:
        return read_answer(json.loads(json.dumps(an_answer(**changes))), "e", 0.1)

    good = read()
    assert isinstance(good, Reply)
    assert (good.outcome, good.text, good.prompt_tokens, good.completion_tokens) == (
        "finished", "yes", 3, 2,
    )  # fmt: skip
    half = read(text="a \ud83d b", model="\ud83d")
    assert isinstance(half, Reply) and (half.text, half.model) == ("a ? b", "?")
    other = read(finish_reason="eos_token")
    assert isinstance(other, Reply) and (other.outcome, other.finish_reason) == (
        "other",
        "eos_token",
    )
    for usage in (None, {}, {"prompt_tokens": None, "completion_tokens": None}):
        silent = read(usage=usage)
        assert isinstance(silent, Reply) and silent.prompt_tokens == silent.completion_tokens == 0
    for count in (-1, 2**70, 1.5, "3", True):
        assert read(usage={"prompt_tokens": count}) == Retry("malformed")
    assert read(text=[1]) == read(finish_reason=None) == Retry("malformed")
    for body in (None, [], "text", 3, {"choices": []}, {"choices": None}, {}):
        assert read_answer(body, "e", 0.1) == Retry("malformed")


def test_retry_after_is_seconds_or_a_date_and_at_most_an_hour() -> None:
    for text, seconds in (
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("86400", 3600.0),
        ("inf", 3600.0),
    ):
        assert wait_of({"retry-after": text}) == seconds
    later = wait_of({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert later is not None and 25 < later <= 30
    for text in ("", "nan", "soon"):
        assert wait_of({"retry-after": text}) is None
    assert wait_of({}) is None


def test_a_key_is_cut_out_of_a_server_s_words_and_none_where_there_is_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORCA_TEST_KEY", "sk-planted")
    body = {"code": "sk-planted", "message": f"none of the messages, sk-planted {'x' * 900}"}
    with_key = read_refusal(400, body, "e", Endpoint("http://x", "m", "ORCA_TEST_KEY"))
    without = read_refusal(400, body, "e", Endpoint("http://x", "m"))
    assert isinstance(with_key, Reply) and isinstance(without, Reply)
    assert "sk-planted" not in with_key.error + with_key.reason and len(with_key.reason) == 300
    assert without.reason.startswith("none of the messages")


@pytest.mark.parametrize("key", ["sk-planted\r", "sk planted", "…", "\ufeffsk"])
def test_what_cannot_be_a_key_is_told_without_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_TEST_KEY", key)
    with pytest.raises(UserError, match="the key in ORCA_TEST_KEY has white space") as caught:
        Endpoint("http://x", "m", "ORCA_TEST_KEY").key()
    assert key.strip() not in str(caught.value)
