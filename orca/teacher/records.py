"""The ledger's tables, and the statements that add to them.

``sent`` has a row for every request before it leaves, ``ended`` for every attempt that is over,
``replies`` for every query that has its outcome; ``batches`` and ``waiting`` are those of
:mod:`orca.teacher.batch_ledger`.
"""

from __future__ import annotations

import json
import time
from typing import Any

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
"""SQL and its values."""


def sent(
    number: int,
    request: Request,
    hashed: str,
    endpoint: str,
    attempt: int,
    dollars: float,
    batch: int | None = None,
) -> Statement:
    """What records that a request is about to leave; see :meth:`orca.teacher.ledger.Ledger.send`.

    Args:
        batch: number of the batch in which it leaves.
    """
    row = (number, request.id, hashed, endpoint, attempt, time.time(), batch, dollars)
    return "INSERT INTO sent VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row


def ended(number: int, result: str, reply: Reply | None = None, dollars: float = 0.0) -> Statement:
    """What records an attempt's end."""
    tokens = (reply.prompt_tokens, reply.completion_tokens) if reply else (0, 0)
    row = (number, result, *tokens, dollars, time.time())
    return "INSERT INTO ended VALUES (?, ?, ?, ?, ?, ?)", row


def finished(
    number: int,
    request: Request,
    reply: Reply,
    dollars: float,
    attempts: int,
    gate: tuple[str, str] | None,
) -> tuple[Statement, Statement]:
    """What records the last attempt's end and the query's outcome; see
    :meth:`orca.teacher.ledger.Ledger.finish`."""
    result = reply.error if reply.outcome == "failed" else reply.outcome
    gate_name, reason = gate or ("", reply.reason)
    row = (
        request.id, number, reply.outcome, gate_name, reason, reply.text, reply.endpoint,
        reply.model, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens,
        reply.latency, attempts, reply.error, time.time(), request.system_message,
        request.query, request.collection, request.task,
        json.dumps(request.targets, ensure_ascii=False),
    )  # fmt: skip
    outcome = f"INSERT INTO replies VALUES (NULL{', ?' * len(row)})", row
    return ended(number, result, reply, dollars), outcome


def noted(name: str, value: Any) -> Statement:
    """What records a fact in the place of what was known of it."""
    text = json.dumps(value, sort_keys=True)
    return "INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, text)


def request_of(row: dict[str, Any]) -> Request:
    """What was asked, of a row of ``replies``."""
    return Request(
        row["query"],
        row["system_message"],
        row["text"],
        row["collection"],
        row["task"],
        tuple(json.loads(row["targets"])),
    )
