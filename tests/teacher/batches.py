"""What tests of batches share: queries, a run over them, and the proof that each is paid once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fault_answers import answer_to, key_of

from orca.teacher import Batching, Endpoint, Ledger, Prices, Teacher, unanswered
from orca.teacher.request import Request

from .conftest import FaultServer

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
