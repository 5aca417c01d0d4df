"""The ledger: every request that was sent and what each query came to, in one SQLite file.

Records are added and stay. Changed are only the gates' judgement, which follows from the rest, and
the state of batches (:mod:`orca.teacher.batch_ledger`); replies without an answer are withdrawn, on
demand. What is committed survives the death of the process (WAL); records are committed together
every few milliseconds, and a request leaves only when its record is.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orca.errors import UserError
from orca.teacher.records import SCHEMA, Statement, ended, finished, noted, request_of, sent
from orca.teacher.request import Reply, Request

COMMIT_EVERY = 0.02  # seconds

INTERRUPTED = "interrupted"
"""Result of a request that was in flight when its program died."""

UNKNOWN = (INTERRUPTED, "timeout", "connection", "malformed")
"""Ends of attempts that the server may have answered, and charged."""

WITHDRAWABLE = ("failed", "rejected")
"""Outcomes without an answer, which may be withdrawn so that their queries are asked again."""

JUDGED = "outcome IN ('finished', 'length')"
"""Replies that gates judge: what may become a trace."""

Judge = Callable[[Request, str], tuple[str, str] | None]
"""Says which gate rejects a response, and why; None: none does."""


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
        self._waiting: list[Sequence[Statement]] = []  # each of them is one record
        self._committed: asyncio.Future[None] | None = None
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
        self.end_interrupted()
        ((last,),) = self.select("SELECT coalesce(max(number), 0) FROM sent")
        self._next = last + 1

    def _check(self, facts: dict[str, Any]) -> None:
        statements = [noted(name, value) for name, value in facts.items()]
        # As long as nothing was answered, settings may be mended.
        known = dict(self.select("SELECT name, value FROM facts")) if self.answered() else {}
        for _, (name, text) in statements:
            if known.get(name, text) != text:
                raise UserError(
                    f"{self.path} was begun with {name} = {known[name]}, and now it is {text}: "
                    "give another out=, or the same settings"
                )
        self.write(statements)

    def close(self) -> None:
        self._db.close()

    # Adding

    def numbers(self, count: int) -> range:
        """The next numbers of requests, for the caller to use."""
        start, self._next = self._next, self._next + count
        return range(start, self._next)

    async def send(
        self, request: Request, hashed: str, endpoint: str, attempt: int, dollars: float
    ) -> int:
        """Record that a request is about to leave; its number, when that is committed.

        Args:
            dollars: that it is expected to cost, for where its end will not be known.
        """
        (number,) = self.numbers(1)
        await self._add(sent(number, request, hashed, endpoint, attempt, dollars))
        return number

    async def end(
        self, number: int, result: str, reply: Reply | None = None, dollars: float = 0.0
    ) -> None:
        """Record how an attempt ended that is not the last: what was wrong, and what it cost."""
        await self._add(ended(number, result, reply, dollars))

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
        await self._add(*finished(number, request, reply, dollars, attempts, gate))

    async def _add(self, *record: Statement) -> None:
        self._waiting.append(record)
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(COMMIT_EVERY, self._commit)
        await asyncio.shield(self._committed)

    def _commit(self) -> None:
        committed, self._committed = self._committed, None
        assert committed is not None
        try:
            self._write_waiting()
        except UserError as error:
            committed.set_exception(error)
        else:
            committed.set_result(None)

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            self.write(statement for record in waiting for statement in record)
            return
        except UserError as error:
            failure = error
        # What one record spoils must not take others with it, which are paid for.
        for record in waiting:
            try:
                self.write(record)
            except UserError as error:
                failure = error
        raise failure

    def end_interrupted(self) -> int:
        """Record that what is in flight was given up, as when the last program died; how many
        requests that are."""
        self._write_waiting()
        in_flight = self.select(
            "SELECT number FROM sent "
            "WHERE batch IS NULL AND number NOT IN (SELECT number FROM ended)"
        )
        ends = [ended(number, INTERRUPTED) for (number,) in in_flight]
        self.write(ends)
        return len(ends)

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

    # Changing

    def withdraw(self, outcomes: Iterable[str]) -> int:
        """Forget these outcomes, so that their queries are asked again; how many they were.

        Raises:
            UserError: an outcome has an answer, which would be paid twice.
        """
        outcomes = set(outcomes)
        for outcome in outcomes:
            if outcome not in WITHDRAWABLE:
                raise UserError(f"ask_again: {outcome!r} is none of {', '.join(WITHDRAWABLE)}")
        there_are = self.counts("outcome")
        self.write([("DELETE FROM replies WHERE outcome = ?", (one,)) for one in outcomes])
        return sum(there_are.get(one, 0) for one in outcomes)

    def judge(self, gates: Any, judge: Judge) -> int:
        """Judge every response again where other gates judged them.

        Args:
            gates: description of the gates, which says whether they are the same.

        Returns:
            How many judgements are other than before.
        """
        if self.facts().get("gates") == gates:
            return 0
        other: list[Statement] = []
        for row in self.rows(JUDGED):
            found = judge(request_of(row), row["response"]) or ("", "")
            if found != (row["gate"], row["reason"]):
                update = "UPDATE replies SET gate = ?, reason = ? WHERE number = ?"
                other.append((update, (*found, row["number"])))
        self.write([*other, noted("gates", gates)])
        return len(other)

    def note(self, name: str, value: Any) -> None:
        """Record a fact that may change from program to program."""
        self.write([noted(name, value)])

    # Reading

    def select(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """The rows of a query, read as they are taken."""
        return self._db.execute(sql, values)

    def unanswered(self, requests: list[Request]) -> list[Request]:
        """Those that have no outcome yet and wait in no batch."""
        known = self._among("replies", requests) | self._among("waiting", requests)
        return [one for one in requests if one.id not in known]

    def done(self, requests: list[Request]) -> int:
        """How many of them have their outcome."""
        return len(self._among("replies", requests))

    def _among(self, table: str, requests: list[Request]) -> set[str]:
        marks, ids = ", ".join("?" * len(requests)), [one.id for one in requests]
        found = self.select(f"SELECT query FROM {table} WHERE query IN ({marks})", *ids)
        return {query for (query,) in found}

    def rows(self, where: str = "true", after: int = 0) -> Iterator[dict[str, Any]]:
        """Replies with a number above ``after``, in the order in which they came, by column."""
        found = self.select(
            f"SELECT * FROM replies WHERE number > ? AND ({where}) ORDER BY number", after
        )
        names = [column[0] for column in found.description]
        for row in found:
            yield dict(zip(names, row, strict=True))

    def facts(self) -> dict[str, Any]:
        """What the programs that added to the ledger were told, or were told last."""
        return {n: json.loads(v) for n, v in self.select("SELECT name, value FROM facts")}

    def lengths(self) -> Iterator[tuple[str, int, int]]:
        """System message, completion tokens and characters of every finished response."""
        yield from self.select(
            "SELECT system_message, completion_tokens, length(response) FROM replies "
            "WHERE outcome = 'finished'"
        )

    def counts(self, column: str, table: str = "replies", where: str = "true") -> dict[str, int]:
        """How many records there are of each value of a column."""
        return dict(
            self.select(
                f"SELECT {column}, count(*) FROM {table} WHERE {where} GROUP BY 1 ORDER BY 2 DESC"
            )
        )

    def answered(self, endpoint: str | None = None) -> bool:
        """Whether any answer came (from this endpoint)."""
        without = ", ".join(f"'{outcome}'" for outcome in WITHDRAWABLE)
        sql = f"SELECT 1 FROM replies WHERE outcome NOT IN ({without})"
        if endpoint is None:
            return any(self.select(f"{sql} LIMIT 1"))
        return any(self.select(f"{sql} AND endpoint = ? LIMIT 1", endpoint))

    def total(self, column: str) -> Any:
        """The sum of a column over the ends of all attempts: dollars, or tokens."""
        ((total,),) = self.select(f"SELECT coalesce(sum({column}), 0) FROM ended")
        return total

    def perhaps(self) -> float:
        """Dollars that requests were expected to cost whose answers are lost: the server may have
        charged them."""
        marks = ", ".join("?" * len(UNKNOWN))
        ((dollars,),) = self.select(
            "SELECT coalesce(sum(sent.dollars), 0) FROM ended JOIN sent USING (number) "
            f"WHERE result IN ({marks})",
            *UNKNOWN,
        )
        return float(dollars)
