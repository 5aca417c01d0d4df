"""A server of `POST /v1/chat/completions` on loopback that limits, fails and keeps accounts.

    python benchmarks/fault_server.py --requests-per-minute 6000 --faults 0.2 --log served.jsonl

It prints ``listening on http://127.0.0.1:PORT`` and then serves any path that ends in
``/chat/completions`` (Azure's too) until it is killed. No model: the answer to a query is
``answer_to(query)`` (:mod:`fault_answers`, which also draws the faults), so that a client can prove
that it gave every answer to its own query.

The log has two kinds of lines; the key is ``key_of(messages)``:

- ``{"key", "arrived", "fault"}``: a request arrived, and the fault that it meets (null: none;
  "limit": a limit of the server);
- ``{"key", "time", "finish_reason", "prompt_tokens", "completion_tokens"}``: an answer that costs,
  written before its body is sent: status 200, usable, whole, the client still connected.

A request of 650 characters with both limits and the log takes 75 µs of one core of an AMD EPYC.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fault_answers import Answer, Question, compose, draw_fault, failure

REASONS = {status.value: status.phrase for status in HTTPStatus}
DUPLICATES = {"duplicate", "duplicate_open"}
PIECES = 20  # of a slow body
SIGMA = 0.5  # of the logarithm of the latency


@dataclass
class Bucket:
    """A token bucket that starts full and holds `burst` seconds of its limit.

    What is larger than the bucket goes through when it is full and leaves it below zero.
    """

    per_minute: int
    burst: float
    level: float = field(init=False)
    refilled: float = field(init=False)

    def __post_init__(self) -> None:
        self.capacity = max(1.0, self.per_minute / 60 * self.burst)
        self.level, self.refilled = self.capacity, time.monotonic()

    def wait(self, amount: int) -> float:
        """Seconds until this much may be taken; 0: now."""
        now = time.monotonic()
        gained = (now - self.refilled) * self.per_minute / 60
        self.level, self.refilled = min(self.capacity, self.level + gained), now
        return max(0.0, (min(amount, self.capacity) - self.level) * 60 / self.per_minute)


class Connection:
    """One client's connection: HTTP/1.1 with keep-alive and Content-Length, nothing more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.open = True

    async def request(self) -> tuple[str, bytes] | None:
        """Path and body of the next request; None: the client is done."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")[:-2]
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self.open = headers.get("connection") != "close"
        return first.split(" ")[1].partition("?")[0], body

    def gone(self) -> bool:
        return self.reader.at_eof() or self.writer.is_closing()

    async def hang(self, seconds: float) -> None:
        """Waits for this long, or until the client gives up."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.reader.read(1), seconds)
        self.open = False

    async def reset(self) -> None:
        await asyncio.sleep(0.01)  # what was written leaves first
        on = struct.pack("ii", 1, 0)  # linger for no time: close() sends RST instead of FIN
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, on)
        self.writer.transport.abort()
        self.open = False

    async def send(
        self, answer: Answer, limits: Mapping[str, str], fault: str | None, slow: float
    ) -> None:
        """Writes the answer as this fault delivers it."""
        body = answer.body
        self.open &= fault not in ("short_body", "duplicate")
        headers = {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(body)),
            "Connection": "keep-alive" if self.open else "close",
            **limits,
            **dict(answer.headers),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {answer.status} {REASONS[answer.status]}\r\n{lines}\r\n".encode()
        if fault == "slow":
            self.writer.write(head)
            for start in range(0, len(body), step := len(body) // PIECES + 1):
                await asyncio.sleep(slow / PIECES)
                if self.gone():
                    return
                self.writer.write(body[start : start + step])
        elif fault in ("short_body", "reset_during"):
            self.writer.write(head + body[: len(body) // 2])
        else:
            self.writer.write((head + body) * (2 if fault in DUPLICATES else 1))
        if fault == "reset_during":
            await self.reset()
        else:
            await self.writer.drain()


class Server:
    """Limits, faults and the log; `options` are the program's."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.buckets = {
            unit: Bucket(limit, options.burst)
            for unit in ("requests", "tokens")
            if (limit := getattr(options, f"{unit}_per_minute"))
        }
        self.attempts: Counter[str] = Counter()
        self.refused = 0
        self.random = random.Random(options.seed)
        # Unbuffered: a line is the system's when write() returns, whatever kills this process.
        self.log = options.log.open("ab", buffering=0) if options.log else None

    def write(self, **line: Any) -> None:
        if self.log is not None:
            self.log.write(json.dumps(line).encode() + b"\n")

    def limits(self) -> dict[str, str]:
        """The headers that tell the limits, of those that there are."""
        headers = {}
        for unit, bucket in self.buckets.items():
            headers[f"x-ratelimit-limit-{unit}"] = str(bucket.per_minute)
            headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, int(bucket.level)))
        return headers

    def admit(self, question: Question) -> Answer | None:
        """Takes the request from the buckets, or says 429; what is refused takes nothing."""
        amounts = {"requests": 1, "tokens": question.prompt_tokens + question.completion_tokens}
        waits = {unit: bucket.wait(amounts[unit]) for unit, bucket in self.buckets.items()}
        unit = max(waits, key=waits.__getitem__, default=None)
        if unit is None or waits[unit] == 0:
            for name, bucket in self.buckets.items():
                bucket.level -= amounts[name]
            return None
        self.refused += 1
        wait = waits[unit] if self.refused % 2 else None
        message = f"Rate limit reached for {unit}: {self.buckets[unit].per_minute} per minute"
        return failure(429, unit, "rate_limit_exceeded", message, retry_after=wait)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        with contextlib.suppress(OSError):  # the client may leave at any moment
            while connection.open and (request := await connection.request()):
                await self.respond(connection, *request)
        writer.close()

    async def respond(self, connection: Connection, path: str, body: bytes) -> None:
        options, fault = self.options, None
        try:
            if not path.endswith("/chat/completions"):
                raise ValueError("the path is not /v1/chat/completions")
            question = Question.parse(body)
            refusal = self.admit(question)
            if refusal is None:
                attempt = self.attempts[question.key]
                self.attempts[question.key] += 1
                drawn = (question.key, attempt, options.faults, options.seed, options.name)
                fault = draw_fault(question.query, *drawn)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            invalid = failure(400, "invalid_request_error", None, f"not a request: {error}")
            return await connection.send(invalid, self.limits(), None, 0)
        met = "limit" if refusal else fault
        self.write(key=question.key, arrived=time.time(), fault=met)
        if refusal:
            return await connection.send(refusal, self.limits(), None, 0)
        if fault == "hang":
            return await connection.hang(options.hang)
        if options.latency:
            location = math.log(options.latency) - SIGMA**2 / 2
            await asyncio.sleep(self.random.lognormvariate(location, SIGMA))
        if fault == "reset_before":
            return await connection.reset()
        answer = compose(question, fault)
        if answer.bill and not connection.gone():
            self.write(key=question.key, time=time.time(), **answer.bill)
        await connection.send(answer, self.limits(), fault, options.slow)


async def run(options: argparse.Namespace) -> None:
    server = Server(options)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", options.port, backlog=1024)
    port = listener.sockets[0].getsockname()[1]
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    await listener.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--port", type=int, default=0, help="0: any that is free")
    add("--requests-per-minute", type=int, help="limit (default: none)")
    add("--tokens-per-minute", type=int, help="limit of prompt and answer (default: none)")
    add("--burst", type=float, default=1, help="seconds of the limits that may come at once")
    add("--latency", type=float, default=0, help="mean seconds to an answer, log-normal")
    add("--faults", type=float, default=0, help="share of requests that meet a fault")
    add("--hang", type=float, default=600, help="seconds of the fault `hang`")
    add("--slow", type=float, default=2, help="seconds of the fault `slow`")
    add("--seed", type=int, default=0)
    add("--name", default="", help="servers of different names draw passing faults apart")
    add("--log", type=Path, help="JSON lines: arrivals and answers")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
