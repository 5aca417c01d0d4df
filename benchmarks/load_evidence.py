"""What ledger and servers' logs prove about a collection that was killed again and again.

The ledger says what the collector believes, the logs of :mod:`fault_server` what it did. Both take
their times from one clock, so that "after" can be compared.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from fault_answers import EVERY_ATTEMPT, Question, answer_to, draw_fault, key_of

from orca.teacher import read_requests
from orca.teacher.request import Request

REPEATED = ("interrupted", "timeout", "connection", "malformed")
"""Ends of an attempt after which the server may have been paid without the collector's knowing.
``malformed`` is one: where the copy of another answer came in its place, its own was lost."""
OUTCOMES = {None: "finished", "length": "length", "content_filter": "content_filter"}
OUTCOMES |= {"azure_filter": "content_filter", "too_long": "rejected"}
"""What the lasting fault of a query makes of it; the passing ones must make no difference."""


@dataclass(frozen=True)
class Asked:
    """A query of the set as the servers see it: tokens of prompt and answer, and what must come."""

    id: str
    tokens: int
    outcome: str
    response: str


@dataclass(frozen=True)
class Limit:
    """What one server lets pass a minute."""

    requests: int
    tokens: int


@dataclass
class Evidence:
    """All there is to compare.

    Attributes:
        asked: the queries by the key that the logs give them.
        sent: attempts of the ledger: number, key, time.
        ended: result of each attempt by its number.
        replies: outcomes of the ledger: key, outcome, response, time.
        arrived, paid: lines of each server's log, by endpoint.
        traces: ids in the Parquet files.
    """

    asked: dict[str, Asked]
    sent: list[tuple[int, str, float]]
    ended: dict[int, str]
    replies: list[tuple[str, str, str, float]]
    arrived: dict[str, list[dict[str, Any]]]
    paid: dict[str, list[dict[str, Any]]]
    traces: list[str]

    @classmethod
    def read(
        cls, queries: Path, out: Path, logs: Mapping[str, Path], faults: float, seed: int
    ) -> Evidence:
        """Of a collection into ``out``; the servers had this share of faults and this seed."""
        asked: dict[str, Asked] = {}
        for batch in read_requests(queries):
            asked.update(_asked(request, faults, seed) for request in batch)
        keys = {one.id: key for key, one in asked.items()}
        ledger = sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True)
        sent = ledger.execute("SELECT number, query, at FROM sent").fetchall()
        replies = ledger.execute("SELECT query, outcome, response, at FROM replies").fetchall()
        ended = dict(ledger.execute("SELECT number, result FROM ended").fetchall())
        ledger.close()
        arrived, paid = {}, {}
        for name, log in logs.items():
            lines = [json.loads(line) for line in log.read_bytes().splitlines()]
            arrived[name] = [line for line in lines if "arrived" in line]
            paid[name] = [line for line in lines if "time" in line]
        files = sorted((out / "traces").glob("*.parquet"))
        return cls(
            asked,
            [(number, keys.get(query, query), at) for number, query, at in sent],
            ended,
            [(keys.get(query, query), *rest) for query, *rest in replies],
            arrived,
            paid,
            [one for file in files for one in pq.read_table(file)["id"].to_pylist()],
        )

    def times_paid(self) -> Counter[str]:
        """How many answers to each query the servers would bill."""
        return Counter(line["key"] for line in _all(self.paid))

    def results(self) -> Counter[str]:
        """How many attempts ended how, as the ledger says."""
        return Counter(self.ended.values())

    def paid_again(self) -> Counter[str]:
        """How many queries were paid more than once, by the ends that some attempt of them had."""
        times, kinds = self.times_paid(), Counter[str]()
        had = {(key, self.ended.get(number, "")) for number, key, _ in self.sent}
        kinds.update(kind for key, kind in had if times[key] > 1)
        return kinds

    def violations(self) -> dict[str, int]:
        """What must not be, and how often it is."""
        answered = Counter(key for key, *_ in self.replies)
        until = {key: at for key, _, _, at in self.replies}
        attempts = Counter(key for _, key, _ in self.sent)
        repeated = Counter(key for n, key, _ in self.sent if self.ended.get(n) in REPEATED)
        arrived = Counter(line["key"] for line in _all(self.arrived))
        finished = Counter(
            self.asked[key].id for key, outcome, *_ in self.replies if outcome == "finished"
        )
        traces = Counter(self.traces)
        return {
            "queries without an outcome": len(self.asked.keys() - answered.keys()),
            "queries with two outcomes": sum(n > 1 for n in answered.values()),
            "outcomes of no query of the set": len(answered.keys() - self.asked.keys()),
            "outcomes other than the server's": sum(
                self.asked[key].outcome != outcome for key, outcome, *_ in self.replies
            ),
            "answers that are another query's": sum(
                response != self.asked[key].response for key, _, response, _ in self.replies
            ),
            "requests after the query's outcome": sum(
                line["arrived"] > until.get(line["key"], line["arrived"])
                for line in _all(self.arrived)
            ),
            "answers paid after the query's outcome": sum(
                line["time"] > until.get(line["key"], line["time"]) for line in _all(self.paid)
            ),
            "answers paid again that the ledger does not account for": sum(
                max(0, times - 1 - repeated[key]) for key, times in self.times_paid().items()
            ),
            "requests that the ledger does not know": (arrived - attempts).total(),
            "attempts without an end": sum(n not in self.ended for n, *_ in self.sent),
            "finished queries that are not one trace": len(
                (finished - traces) | (traces - finished)
            ),
        }


def _asked(request: Request, faults: float, seed: int) -> tuple[str, Asked]:
    messages = request.messages()
    body = json.dumps({"model": "", "messages": messages}).encode()
    question, key = Question.parse(body), key_of(messages)
    drawn = draw_fault(request.query, key, 0, faults, seed)
    lasting = drawn if drawn in EVERY_ATTEMPT else None  # a passing one is asked away
    answer = answer_to(request.query)
    half = answer[: len(answer) // 2]
    response = {None: answer, "length": half, "content_filter": half}.get(lasting, "")
    tokens = question.prompt_tokens + question.completion_tokens
    return key, Asked(request.id, tokens, OUTCOMES[lasting], response)


def _all(lines: Mapping[str, Iterable[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for some in lines.values():
        yield from some


@dataclass(frozen=True)
class Rate:
    """What one endpoint did in a number of seconds.

    Attributes:
        passed: requests that the server took from its limits, those that met a fault included.
        refused: requests over a limit.
        requests_share, tokens_share: of each limit; the larger one binds.
    """

    passed: int
    refused: int
    requests_share: float
    tokens_share: float

    @property
    def share(self) -> float:
        return max(self.requests_share, self.tokens_share)

    @property
    def allowed(self) -> float:
        """Requests that would have passed had the limit that binds been used up."""
        return self.passed / self.share


def stretches(
    lives: Sequence[tuple[float, float]], evidence: Evidence
) -> tuple[list[tuple[float, float]], float]:
    """When a collector was there to ask: (from its first request to its end) for each life, up to
    the moment at which every query had been sent once, and that moment; a tail comes after it.

    Args:
        lives: start and end of each process.
    """
    times = sorted(line["arrived"] for line in _all(evidence.arrived))
    first: dict[str, float] = {}
    for _, key, at in evidence.sent:
        first[key] = min(at, first.get(key, at))
    tail, spans = max(first.values()), []
    for start, end in lives:
        asked = [at for at in times if start <= at <= min(end, tail)]
        if asked:
            spans.append((asked[0], min(end, tail)))
    return spans, tail


def rates(
    evidence: Evidence, limits: Mapping[str, Limit], spans: Sequence[tuple[float, float]]
) -> dict[str, Rate]:
    """What each endpoint let pass in these stretches, against its limits in their seconds."""
    seconds = sum(end - start for start, end in spans)
    found = {}
    for name, limit in limits.items():
        within = [
            line
            for line in evidence.arrived[name]
            if any(start <= line["arrived"] <= end for start, end in spans)
        ]
        passed = [line["key"] for line in within if line["fault"] != "limit"]
        tokens = sum(evidence.asked[key].tokens for key in passed)
        found[name] = Rate(
            len(passed),
            len(within) - len(passed),
            len(passed) / (limit.requests / 60 * seconds),
            tokens / (limit.tokens / 60 * seconds),
        )
    return found


def of_each(outcomes: Iterable[str]) -> str:
    """``3 finished, 1 length``."""
    return ", ".join(f"{n:,} {name}" for name, n in Counter(outcomes).most_common())
