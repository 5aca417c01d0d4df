"""The ledger: every request that was sent and what each query came to, in one SQLite file.

Records are only ever added: ``sent`` before a request leaves, ``ended`` when its attempt is over,
``replies`` when a query has its outcome. What is committed survives the death of the process (WAL);
records are committed together every few milliseconds, and a request leaves only when its record is.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orca.errors import UserError
from orca.teacher.request import Reply, Request

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sent (
  number INTEGER PRIMARY KEY, query TEXT NOT NULL, request TEXT NOT NULL, endpoint TEXT NOT NULL,
  attempt INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS ended (
  number INTEGER PRIMARY KEY, result TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS replies (
  number INTEGER PRIMARY KEY, query TEXT NOT NULL UNIQUE, request TEXT NOT NULL,
  outcome TEXT NOT NULL, gate TEXT NOT NULL, reason TEXT NOT NULL, response TEXT NOT NULL,
  endpoint TEXT NOT NULL, model TEXT NOT NULL, finish_reason TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, dollars REAL NOT NULL,
  latency REAL NOT NULL, attempts INTEGER NOT NULL, error TEXT NOT NULL, at REAL NOT NULL,
  system_message TEXT NOT NULL, text TEXT NOT NULL, collection TEXT NOT NULL, task TEXT NOT NULL,
  targets TEXT NOT NULL);
"""
END = "INSERT INTO ended VALUES (?, ?, ?)"
Found = tuple[str, str] | None
COMMIT_EVERY = 0.02  # seconds
INTERRUPTED = "interrupted"
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
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{path} cannot be used ({error}); does another program collect?"
            ) from None
        self.interrupted = self._end_interrupted()
        """Requests that were in flight when the last program died."""
        self._next = self._one("SELECT coalesce(max(number), 0) FROM sent") + 1
        self._hashes: dict[int, str] = {}  # of the requests under way
        self._waiting: list[tuple[str, tuple[Any, ...]]] = []
        self._committed: asyncio.Future[None] | None = None

    def _check(self, facts: dict[str, Any]) -> None:
        for name, value in facts.items():
            text = json.dumps(value, sort_keys=True)
            self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, text))
            (known,) = self._db.execute(
                "SELECT value FROM facts WHERE name = ?", (name,)
            ).fetchone()
            if known != text:
                raise UserError(
                    f"{self.path} was begun with {name} = {known}, and now it is {text}: give "
                    "another out=, or the same settings"
                )

    def _end_interrupted(self) -> int:
        sql = "SELECT number FROM sent WHERE number NOT IN (SELECT number FROM ended)"
        numbers = [number for (number,) in self._db.execute(sql)]
        now = time.time()
        self._db.execute("BEGIN")
        self._db.executemany(END, [(n, INTERRUPTED, now) for n in numbers])
        self._db.execute("COMMIT")
        return len(numbers)

    async def send(self, request: Request, hashed: str, endpoint: str, attempt: int) -> int:
        """Record that a request is about to leave; its number, when that is committed."""
        number, self._next = self._next, self._next + 1
        self._hashes[number] = hashed
        row = (number, request.id, hashed, endpoint, attempt, time.time())
        await self._add("INSERT INTO sent VALUES (?, ?, ?, ?, ?, ?)", row)
        return number

    async def end(self, number: int, result: str) -> None:
        """Record how an attempt ended: ``ok`` or the kind of failure."""
        del self._hashes[number]
        await self._add(END, (number, result, time.time()))

    async def finish(
        self, number: int, result: str, request: Request, reply: Reply, dollars: float, gate: Found
    ) -> None:
        """Record how the last attempt ended and what the query came to, in one transaction.

        Args:
            gate: which gate rejected the response, and why; None: none did.
        """
        hashed, (gate_name, reason) = self._hashes.pop(number), gate or ("", "")
        row = (
            request.id, hashed, reply.outcome, gate_name, reason, reply.text, reply.endpoint,
            reply.model, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens,
            dollars, reply.latency, reply.attempts, reply.error, time.time(),
            request.system_message, request.query, request.collection, request.task,
            json.dumps(request.targets, ensure_ascii=False),
        )  # fmt: skip
        marks = ", ".join("?" * (len(row) + 1))
        self._waiting.append((END, (number, result, time.time())))
        await self._add(f"INSERT INTO replies VALUES ({marks})", (None, *row))

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
            self._db.execute("BEGIN")
            for sql, row in waiting:
                self._db.execute(sql, row)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            committed.set_exception(UserError(f"{self.path} cannot be written: {error}"))
        else:
            committed.set_result(None)

    def unanswered(self, requests: list[Request]) -> list[Request]:
        """Those that have no outcome yet."""
        marks = ", ".join("?" * len(requests))
        sql = f"SELECT query FROM replies WHERE query IN ({marks})"
        known = {query for (query,) in self._db.execute(sql, [one.id for one in requests])}
        return [one for one in requests if one.id not in known]

    def rows(self, where: str = "true", values: Iterable[Any] = ()) -> Iterator[dict[str, Any]]:
        """Replies in the order in which they came, as dictionaries by column."""
        cursor = self._db.execute(
            f"SELECT * FROM replies WHERE {where} ORDER BY number", tuple(values)
        )
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def counts(self, column: str, table: str = "replies") -> dict[str, int]:
        """How many records there are of each value of a column."""
        sql = f"SELECT {column}, count(*) FROM {table} GROUP BY 1 ORDER BY 2 DESC"
        return dict(self._db.execute(sql).fetchall())

    def total(self, column: str) -> float:
        """The sum of a column over all replies."""
        return self._one(f"SELECT coalesce(sum({column}), 0) FROM replies")

    def _one(self, sql: str) -> Any:
        return self._db.execute(sql).fetchone()[0]

    def close(self) -> None:
        self._db.close()
