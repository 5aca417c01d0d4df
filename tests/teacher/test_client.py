"""One endpoint's client against a server that does what HTTP forbids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fault_answers import answer_to

from orca.teacher.client import Client, Retry
from orca.teacher.request import Request
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
