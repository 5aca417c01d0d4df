"""Batches in the ledger: what each holds, how far it is, and what its lines came to.

A batch and its requests are recorded before the server hears of it. ``batches.remote`` is null
until the server's name for it is known, ``result`` until it is collected. ``waiting`` holds the
requests whose attempt in a batch is not over; one leaves it in the transaction that records its
end, so that a line that is read twice counts once.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orca.errors import UserError
from orca.teacher.ledger import Ledger
from orca.teacher.records import Statement, ended, sent
from orca.teacher.request import Request
from orca.teacher.settings import Teacher

OPEN = "result IS NULL"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that is not collected.

    Attributes:
        token: goes into the remote batch's metadata; unique everywhere.
        prompt_tokens, dollars: estimates for all its requests.
        at: when it was recorded.
        file: the server's name of the uploaded requests.
        tried: when its creation was asked for last, where it may have come about.
        remote: the server's name of the batch.
    """

    number: int
    endpoint: str
    token: str
    requests: int
    prompt_tokens: int
    dollars: float
    at: float
    file: str | None
    tried: float | None
    remote: str | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in a batch; ``number`` is that of ``sent``, and the line's custom_id."""

    number: int
    attempt: int
    request: Request


class BatchLedger:
    """The batches of a :class:`Ledger`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def open(self) -> list[Batch]:
        """Batches that are not collected, the oldest first."""
        columns = ", ".join(Batch.__slots__)
        rows = self.ledger.select(f"SELECT {columns} FROM batches WHERE {OPEN} ORDER BY number")
        return [Batch(*row) for row in rows]

    def add(
        self,
        endpoint: str,
        chosen: Sequence[tuple[Request, int]],
        prompt_tokens: int,
        dollars: float,
        teacher: Teacher,
    ) -> int:
        """Record a batch of requests, each with the number of its attempt; the batch's number."""
        ((batch,),) = self.ledger.select("SELECT coalesce(max(number), 0) + 1 FROM batches")
        row = (batch, endpoint, uuid.uuid4().hex, len(chosen), prompt_tokens, dollars, time.time())
        statements: list[Statement] = [
            (f"INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?{', NULL' * 5})", row)
        ]
        numbers = self.ledger.numbers(len(chosen))
        for number, (request, attempt) in zip(numbers, chosen, strict=True):
            hashed, text = request.hash(teacher), json.dumps(asdict(request), ensure_ascii=False)
            statements += (
                sent(number, request, hashed, endpoint, attempt, 0.0, batch),
                (
                    "INSERT INTO waiting VALUES (?, ?, ?, ?, ?)",
                    (batch, number, attempt, request.id, text),
                ),
            )
        self.ledger.write(statements)
        return int(batch)

    def set(self, batch: Batch, **columns: Any) -> None:
        """Write these columns of it."""
        names = ", ".join(f"{name} = ?" for name in columns)
        values = (*columns.values(), batch.number)
        self.ledger.write([(f"UPDATE batches SET {names} WHERE number = ?", values)])

    def waiting(self, batch: Batch, numbers: Iterable[int] | None = None) -> dict[int, Waiting]:
        """Requests of the batch whose attempt is not over, by number; of ``numbers`` alone."""
        sql, some = "SELECT number, attempt, request FROM waiting WHERE batch = ?", ""
        if numbers is not None:
            some = f" AND number IN ({', '.join(map(str, numbers))})"
        return {
            number: Waiting(number, attempt, _request(text))
            for number, attempt, text in self.ledger.select(sql + some, batch.number)
        }

    def close(self, batch: Batch, result: str, kind: str = "") -> None:
        """Record that it is collected; requests that still wait end as ``kind`` and are free."""
        left = self.waiting(batch)
        self.ledger.write(
            [
                *(one for number in left for one in over(batch, number, ended(number, kind))),
                (
                    "UPDATE batches SET result = ?, ended = ? WHERE number = ?",
                    (result, time.time(), batch.number),
                ),
            ]
        )


def check_no_batches(ledger: Ledger) -> None:
    """Raise :class:`UserError` where batches are open: their queries are asked already."""
    if batches := BatchLedger(ledger).open():
        requests = sum(batch.requests for batch in batches)
        raise UserError(
            f"{ledger.path} has {len(batches)} open batches of {requests:,} queries: "
            "batch=true collects them"
        )


def over(batch: Batch, number: int, *statements: Statement) -> tuple[Statement, ...]:
    """These statements, and that the request waits no longer."""
    done = "DELETE FROM waiting WHERE batch = ? AND number = ?"
    return (*statements, (done, (batch.number, number)))


def _request(text: str) -> Request:
    row = json.loads(text)
    return Request(**{**row, "targets": tuple(row["targets"])})
