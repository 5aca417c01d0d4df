"""The ledger: every request that was sent and what each query came to, in one SQLite file.

``sent`` is added to before a request leaves, ``ended`` when its attempt is over, ``replies`` when a
query has its outcome. Nothing of it is changed but the gates' judgement, which follows from the
rest, and the state of batches (:mod:`orca.teacher.batch_ledger`); only replies without an answer
are withdrawn, on demand. What is committed survives the death
of the process (WAL); records are committed together every few milliseconds, and a request leaves
only when its record is.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from orca.errors import UserError
from orca.teacher.request import Reply, Request

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sent (
  number INTEGER PRIMARY KEY, query TEXT NOT NULL, request TEXT NOT NULL, endpoint TEXT NOT NULL,
  attempt INTEGER NOT NULL, at REAL NOT NULL, batch INTEGER, dollars REAL NOT NULL);
CREATE TABLE IF NOT EXISTS ended (
  number INTEGER PRIMARY KEY, result TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, dollars REAL NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS replies (
  number INTEGER PRIMARY KEY AUTOINCREMENT, query TEXT NOT NULL UNIQUE, sent INTEGER NOT NULL,
  outcome TEXT NOT NULL, gate TEXT NOT NULL, reason TEXT NOT NULL, response TEXT NOT NULL,
  endpoint TEXT NOT NULL, model TEXT NOT NULL, finish_reason TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, latency REAL NOT NULL,
  attempts INTEGER NOT NULL, error TEXT NOT NULL, at REAL NOT NULL,
  system_message TEXT NOT NULL, text TEXT NOT NULL, collection TEXT NOT NULL, task TEXT NOT NULL,
  targets TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
  number INTEGER PRIMARY KEY, endpoint TEXT NOT NULL, token TEXT NOT NULL UNIQUE,
  requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, dollars REAL NOT NULL,
  at REAL NOT NULL, file TEXT, tried REAL, remote TEXT, result TEXT, ended REAL);
CREATE TABLE IF NOT EXISTS waiting (
  batch INTEGER NOT NULL, number INTEGER NOT NULL, attempt INTEGER NOT NULL, query TEXT NOT NULL,
  request TEXT NOT NULL, PRIMARY KEY (batch, number)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS waiting_query ON waiting (query);
"""
Statement = tuple[str, tuple[Any, ...]]
SEND = "INSERT INTO sent VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
END = "INSERT INTO ended VALUES (?, ?, ?, ?, ?, ?)"
REPLY = f"INSERT INTO replies VALUES (NULL{', ?' * 20})"
WITHDRAWABLE = ("failed", "rejected")
"""Outcomes without an answer, which may be withdrawn so that their queries are asked again."""
COMMIT_EVERY = 0.02  # seconds
Gate = Callable[[Request, str], tuple[str, str] | None]
"""(gate, reason) where a response is rejected."""
INTERRUPTED = "interrupted"
JUDGED = "outcome IN ('finished', 'length')"
"""Replies that gates judge: what may become a trace."""
UNKNOWN = (INTERRUPTED, "timeout", "connection", "malformed")
"""Ends of attempts that the server may have answered, and charged."""
"""Result of a request that was in flight when its program died."""


class Ledger:
    """The file ``ledger.sqlite``; one program at a time writes it.

    Args:
        facts: what must be the same for every program that adds to it (teacher, settings,
            query set).

    Raises:
        UserError: another program has it open, or its facts differ.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(SCHEMA)
            self._check(facts)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{path} cannot be used ({error}); does another program collect?"
            ) from None
        self._waiting: list[Statement] = []
        self.interrupted = self.end_interrupted()
        """Requests that were in flight when the last program died."""
        self._next = self._one("SELECT coalesce(max(number), 0) FROM sent") + 1
        self._committed: asyncio.Future[None] | None = None

    def _check(self, facts: dict[str, Any]) -> None:
        for name, value in facts.items():
            text = json.dumps(value, sort_keys=True)
            # As long as nothing was answered, settings may be mended.
            how = "IGNORE" if self.answered() else "REPLACE"
            self._db.execute(f"INSERT OR {how} INTO facts VALUES (?, ?)", (name, text))
            (known,) = self._db.execute(
                "SELECT value FROM facts WHERE name = ?", (name,)
            ).fetchone()
            if known != text:
                raise UserError(
                    f"{self.path} was begun with {name} = {known}, and now it is {text}: give "
                    "another out=, or the same settings"
                )

    def end_interrupted(self) -> int:
        """Record that what is in flight was given up; how many requests that are."""
        waiting, self._waiting = self._waiting, []
        self.write(waiting)
        sql = (
            "SELECT number FROM sent "
            "WHERE batch IS NULL AND number NOT IN (SELECT number FROM ended)"
        )
        numbers = [number for (number,) in self._db.execute(sql)]
        now = time.time()
        self._db.execute("BEGIN")
        self._db.executemany(END, [(n, INTERRUPTED, 0, 0, 0.0, now) for n in numbers])
        self._db.execute("COMMIT")
        return len(numbers)

    async def send(
        self, request: Request, hashed: str, endpoint: str, attempt: int, dollars: float
    ) -> int:
        """Record that a request is about to leave; its number, when that is committed.

        Args:
            dollars: that it is expected to cost, for where its end will not be known.
        """
        (number,) = self.numbers(1)
        row = (number, request.id, hashed, endpoint, attempt, time.time(), None, dollars)
        await self._add(SEND, row)
        return number

    def numbers(self, count: int) -> range:
        """The next numbers of requests, for the caller to use."""
        start, self._next = self._next, self._next + count
        return range(start, self._next)

    async def end(
        self, number: int, result: str, reply: Reply | None = None, dollars: float = 0.0
    ) -> None:
        """Record how an attempt ended that is not the last: what was wrong, and what it cost."""
        await self._add(*ended(number, result, reply, dollars))

    async def finish(
        self,
        number: int,
        request: Request,
        reply: Reply,
        dollars: float,
        attempts: int,
        gate: tuple[str, str] | None,
    ) -> None:
        """Record how the last attempt ended and what the query came to, in one transaction.

        Args:
            gate: which gate rejected the response, and why; None: none did.
        """
        end, row = finished(number, request, reply, dollars, attempts, gate)
        self._waiting.append(end)
        await self._add(*row)

    async def reply(self, number: int, request: Request, reply: Reply, attempts: int) -> None:
        """Record what a query came to whose last attempt has ended before."""
        _, row = finished(number, request, reply, 0.0, attempts, None)
        await self._add(*row)

    async def _add(self, sql: str, row: tuple[Any, ...]) -> None:
        self._waiting.append((sql, row))
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(COMMIT_EVERY, self._commit)
        await asyncio.shield(self._committed)

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        committed, self._committed = self._committed, None
        assert committed is not None
        try:
            self.write(waiting)
        except UserError:
            self._write_each(waiting, committed)
        else:
            committed.set_result(None)

    def _write_each(self, waiting: list[Statement], committed: asyncio.Future[None]) -> None:
        """What one record spoils must not take others with it, which are paid for."""
        failure = None
        for statement in waiting:
            try:
                self.write([statement])
            except UserError as error:
                failure = error
        if failure is None:
            committed.set_result(None)
        else:
            committed.set_exception(failure)

    def write(self, statements: Iterable[Statement]) -> None:
        """Do all of them or none, on disk when this returns."""
        try:
            self._db.execute("BEGIN")
            for sql, row in statements:
                self._db.execute(sql, row)
            self._db.execute("COMMIT")
        except (sqlite3.Error, ValueError, OverflowError) as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise UserError(f"{self.path} cannot be written: {error}") from None

    def select(self, sql: str, *values: Any) -> list[Any]:
        """The rows of a query."""
        return self._db.execute(sql, values).fetchall()

    def unanswered(self, requests: list[Request]) -> list[Request]:
        """Those that have no outcome yet and wait in no batch."""
        marks, ids = ", ".join("?" * len(requests)), [one.id for one in requests]
        known = {
            query
            for table in ("replies", "waiting")
            for (query,) in self._db.execute(
                f"SELECT query FROM {table} WHERE query IN ({marks})", ids
            )
        }
        return [one for one in requests if one.id not in known]

    def withdraw(self, outcomes: Iterable[str]) -> int:
        """Forget these outcomes, so that their queries are asked again; how many they were.

        Raises:
            UserError: an outcome has an answer, which would be paid twice.
        """
        outcomes = list(outcomes)
        for outcome in outcomes:
            if outcome not in WITHDRAWABLE:
                raise UserError(f"ask_again: {outcome!r} is none of {', '.join(WITHDRAWABLE)}")
        marks = ", ".join("?" * len(outcomes))
        return self._db.execute(
            f"DELETE FROM replies WHERE outcome IN ({marks})", outcomes
        ).rowcount

    def judge(self, gates: Any, gate: Gate) -> int:
        """Let ``gate`` judge every response again where other gates judged them.

        Args:
            gates: description of the gates, which says whether they are the same.

        Returns:
            How many judgements are other than before.
        """
        if self.facts().get("gates") == gates:
            return 0
        other = []
        for row in self.rows(JUDGED):
            found = gate(_request(row), row["response"]) or ("", "")
            if found != (row["gate"], row["reason"]):
                other.append((*found, row["number"]))
        self._db.execute("BEGIN")
        self._db.executemany("UPDATE replies SET gate = ?, reason = ? WHERE number = ?", other)
        self.note("gates", gates)
        self._db.execute("COMMIT")
        return len(other)

    def note(self, name: str, value: Any) -> None:
        """Record a fact that may change from program to program."""
        text = json.dumps(value, sort_keys=True)
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, text))

    def rows(self, where: str = "true", after: int = 0) -> Iterator[dict[str, Any]]:
        """Replies with a number above ``after``, in the order in which they came, by column."""
        cursor = self._db.execute(
            f"SELECT * FROM replies WHERE number > ? AND ({where}) ORDER BY number", (after,)
        )
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def facts(self) -> dict[str, Any]:
        """What the programs that added to the ledger were told, or were told last."""
        return {n: json.loads(v) for n, v in self._db.execute("SELECT name, value FROM facts")}

    def lengths(self) -> Iterator[tuple[str, int, int]]:
        """System message, completion tokens and characters of every finished response."""
        sql = "SELECT system_message, completion_tokens, length(response) FROM replies "
        yield from self._db.execute(sql + "WHERE outcome = 'finished'")

    def counts(self, column: str, table: str = "replies", where: str = "true") -> dict[str, int]:
        """How many records there are of each value of a column."""
        sql = f"SELECT {column}, count(*) FROM {table} WHERE {where} GROUP BY 1 ORDER BY 2 DESC"
        return dict(self._db.execute(sql).fetchall())

    def answered(self, endpoint: str | None = None) -> bool:
        """Whether any answer came (from this endpoint)."""
        where = "" if endpoint is None else " AND endpoint = ?"
        values = () if endpoint is None else (endpoint,)
        sql = f"SELECT 1 FROM replies WHERE outcome NOT IN ('failed', 'rejected'){where} LIMIT 1"
        return self._db.execute(sql, values).fetchone() is not None

    def perhaps(self) -> float:
        """Dollars that requests were expected to cost whose answers are lost: the server may have
        charged them."""
        marks = ", ".join("?" * len(UNKNOWN))
        sql = (
            "SELECT coalesce(sum(sent.dollars), 0) FROM ended JOIN sent USING (number) "
            f"WHERE result IN ({marks})"
        )
        return float(self._db.execute(sql, UNKNOWN).fetchone()[0])

    def total(self, column: str, table: str = "ended") -> float:
        """The sum of a column over all records."""
        return self._one(f"SELECT coalesce(sum({column}), 0) FROM {table}")

    def _one(self, sql: str) -> Any:
        return self._db.execute(sql).fetchone()[0]

    def close(self) -> None:
        self._db.close()


def _request(row: dict[str, Any]) -> Request:
    """What was asked, of a reply's record."""
    return Request(
        row["query"],
        row["system_message"],
        row["text"],
        row["collection"],
        row["task"],
        tuple(json.loads(row["targets"])),
    )


def finished(
    number: int,
    request: Request,
    reply: Reply,
    dollars: float,
    attempts: int,
    gate: tuple[str, str] | None,
) -> tuple[Statement, Statement]:
    """What records the last attempt's end and the query's outcome; see :meth:`Ledger.finish`."""
    result = reply.error if reply.outcome == "failed" else reply.outcome
    gate_name, reason = gate or ("", reply.reason)
    row = (
        request.id, number, reply.outcome, gate_name, reason, reply.text, reply.endpoint,
        reply.model, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens,
        reply.latency, attempts, reply.error, time.time(), request.system_message,
        request.query, request.collection, request.task,
        json.dumps(request.targets, ensure_ascii=False),
    )  # fmt: skip
    return ended(number, result, reply, dollars), (REPLY, row)


def ended(number: int, result: str, reply: Reply | None = None, dollars: float = 0.0) -> Statement:
    """What records an attempt's end."""
    tokens = (reply.prompt_tokens, reply.completion_tokens) if reply else (0, 0)
    return END, (number, result, *tokens, dollars, time.time())
