"""A server of OpenAI's files and batches on loopback that fails and keeps accounts.

    python benchmarks/batch_server.py --step 0.2 --faults 0.2 --line-faults 0.1 --log served.jsonl

It prints ``listening on http://127.0.0.1:PORT`` and serves ``/v1/files`` and ``/v1/batches`` until
it is killed; what it has been sent it keeps that long. No model: a line is answered with
``answer_to(query)`` and meets the faults of :mod:`fault_answers`. What is no answer to a single
request (a reset, a cut body) is a line with status 0, or no line.

The log has two kinds of lines:

- ``{"call", "at", "fault"}``: a call, as ``POST /v1/batches``, written when it has taken effect and
  before it is answered;
- ``{"key", "time", "batch", "finish_reason", "prompt_tokens", "completion_tokens"}``: an answer
  that costs, written when the batch is carried out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fault_answers import Question, compose, draw_fault, uniform, weighted

CALL_FAULTS = {  # weights; `_after`: of a call that has taken effect
    "429": 2,
    "500": 2,
    "500_after": 2,
    "reset": 1,
    "reset_after": 2,
    "html": 1,
    "cut": 1,  # Content-Length fits, the body stops in the middle
}
NO_EFFECT = {"429", "500", "reset"}
STATUS_0, NO_LINE = {"hang", "reset_before"}, {"reset_during", "cut_json", "short_body", "html"}
EXPIRED = "This request could not be executed before the completion window expired."
LIMIT = "Enqueued token limit reached for {} in organization org-1. Limit: {:,} enqueued tokens."


class HTTPError(Exception):
    def __init__(self, status: int, code: str | None, message: str) -> None:
        self.status = status
        self.body = {"error": {"message": message, "type": None, "param": None, "code": code}}


@dataclass
class Batch:
    """A batch and what is not told of it."""

    shown: dict[str, Any]
    lines: list[dict[str, Any]]
    expires: bool
    created: float = field(default_factory=time.monotonic)

    @property
    def open(self) -> bool:
        return self.shown["status"] in ("validating", "in_progress", "finalizing", "cancelling")


class State:
    """Files, batches and the log; `options` are the program's. Its users hold the lock."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.lock = threading.Lock()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self.attempts: Counter[str] = Counter()
        self.random = random.Random(options.seed)
        self.forced = list(options.force)
        self.calls = 0
        self.log = options.log.open("ab", buffering=0) if options.log else None

    def write(self, **line: Any) -> None:
        if self.log is not None:
            self.log.write(json.dumps(line).encode() + b"\n")

    def fault(self, call: str) -> str | None:
        """The fault of the next call."""
        self.calls += 1
        for one in self.forced:
            prefix, _, name = one.rpartition("=")
            if call.startswith(prefix):
                self.forced.remove(one)
                return None if name == "none" else str(name)
        u = uniform(self.options.seed, "call", self.calls)
        share = self.options.faults
        return weighted(CALL_FAULTS, u / share) if u < share else None

    def store(self, content: bytes) -> str:
        name = f"file-{len(self.files) + 1:06d}"
        self.files[name] = content
        return name

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["endpoint"] != "/v1/chat/completions" or body["completion_window"] != "24h":
            raise HTTPError(400, "invalid_value", "endpoint or completion_window")
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        shown = {
            "id": f"batch_{len(self.batches) + 1:06d}",
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": "",  # as OpenAI gives for none
            "errors": None,
            "created_at": int(time.time()),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": body.get("metadata"),
        }
        batch = Batch(shown, lines, len(self.batches) < self.options.expire)
        self.batches[shown["id"]] = batch
        return shown

    def advance(self) -> None:
        """Bring every batch to where it is by now."""
        for batch in self.batches.values():
            steps = int((time.monotonic() - batch.created) / self.options.step)
            shown = batch.shown
            if shown["status"] == "cancelling":
                shown["status"] = "cancelled"
            if shown["status"] == "validating" and steps >= 1:
                self.validate(batch)
            if shown["status"] == "in_progress" and steps >= 2:
                self.carry_out(batch)
                shown["status"] = "finalizing"
            if shown["status"] == "finalizing" and steps >= 3:
                shown["status"] = "expired" if batch.expires else "completed"

    def validate(self, batch: Batch) -> None:
        shown, limit = batch.shown, self.options.enqueued_tokens
        errors: list[tuple[str, str, int | None]] = []
        first = list(self.batches.values()).index(batch)
        if first < self.options.fail:
            errors = [("invalid_json_line", "This line is not parseable as valid JSON.", 1)]
        queued = sum(_tokens(one) for one in self.batches.values() if one.open)
        if limit is not None and queued > limit:
            model = batch.lines[0]["body"]["model"]
            errors = [("token_limit_exceeded", LIMIT.format(model, limit), None)]
        if errors:
            data = [{"code": c, "message": m, "line": n, "param": None} for c, m, n in errors]
            shown.update(status="failed", errors={"object": "list", "data": data})
            return
        shown["status"] = "in_progress"
        shown["request_counts"]["total"] = len(batch.lines)

    def carry_out(self, batch: Batch) -> None:
        good: list[str] = []
        bad: list[str] = []
        for row in batch.lines:
            for answered, line in self.answer(batch, row):
                (good if answered else bad).append(json.dumps(line, ensure_ascii=False) + "\n")
        self.random.shuffle(good)
        batch.shown["request_counts"].update(completed=len(good), failed=len(bad))
        if good:
            batch.shown["output_file_id"] = self.store("".join(good).encode())
        if bad:
            batch.shown["error_file_id"] = self.store("".join(bad).encode())

    def answer(self, batch: Batch, row: dict[str, Any]) -> list[tuple[bool, dict[str, Any]]]:
        """The lines of a request, each with whether it goes to the output file."""
        question = Question.parse(json.dumps(row["body"]).encode())
        line = {"id": "batch_req_1", "custom_id": row["custom_id"], "response": None, "error": None}
        if batch.expires and (u := uniform(self.options.seed, question.key, "expired")) < 0.4:
            error = {"code": "batch_expired", "message": EXPIRED}
            return [(False, {**line, "error": error})] if u < 0.3 else []
        attempt, options = self.attempts[question.key], self.options
        self.attempts[question.key] += 1
        fault = draw_fault(question.query, question.key, attempt, options.line_faults, options.seed)
        if fault in NO_LINE:
            return []
        answer = compose(question, fault)
        status, text = (0, b"{}") if fault in STATUS_0 else (answer.status, answer.body)
        try:
            body = json.loads(text)
        except ValueError:
            body = {}
        if status == 200 and isinstance(body, dict):
            body["system_fingerprint"] = "fp\u2028\x85"  # ends no line, though str.splitlines does
        line["response"] = {"status_code": status, "request_id": "req_1", "body": body}
        if answer.bill and status == 200:
            self.write(key=question.key, time=time.time(), batch=batch.shown["id"], **answer.bill)
        return [(status == 200, line)] * (2 if fault == "duplicate" else 1)

    def listed(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """A page of the list, the newest first."""
        old = time.monotonic() - self.options.list_delay
        names = [name for name, one in self.batches.items() if one.created <= old][::-1]
        if after := query.get("after"):
            names = names[names.index(after[0]) + 1 :]
        page = names[: self.options.page]
        return {
            "object": "list",
            "data": [self.batches[name].shown for name in page],
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
            "has_more": len(names) > len(page),
        }

    def effect(
        self, method: str, path: str, query: dict[str, list[str]], body: bytes, kind: str
    ) -> bytes:
        """Do what is asked; the body of the answer."""
        self.advance()
        parts = path.strip("/").split("/")[1:]  # without v1
        try:
            match method, *parts:
                case "POST", "files":
                    fields = _multipart(body, kind)
                    if fields["purpose"] != b"batch":
                        raise HTTPError(400, "invalid_purpose", "purpose is not batch")
                    name = self.store(fields["file"])
                    answer = {"id": name, "object": "file", "bytes": len(fields["file"])}
                case "GET", "files", name, "content":
                    return self.files[name]
                case "POST", "batches":
                    answer = self.create(json.loads(body))
                case "GET", "batches":
                    answer = self.listed(query)
                case "GET", "batches", name:
                    answer = self.batches[name].shown
                case "POST", "batches", name, "cancel":
                    if self.batches[name].open:
                        self.batches[name].shown["status"] = "cancelling"
                    answer = self.batches[name].shown
                case _:
                    raise HTTPError(404, None, "there is nothing at this path")
        except KeyError as error:
            raise HTTPError(404, "not_found", f"there is no {error}") from None
        return json.dumps(answer).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def do_GET(self) -> None:
        self.respond()

    def do_POST(self) -> None:
        self.respond()

    def log_message(self, *_: Any) -> None:
        pass

    def respond(self) -> None:
        state, options = self.state, self.state.options
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call, kind = f"{self.command} {url.path}", self.headers.get("Content-Type", "")
        with state.lock:
            fault = state.fault(call)
            status, content = int(fault[:3]) if fault and fault[0].isdigit() else 200, b""
            try:
                if options.key and self.headers.get("Authorization") != f"Bearer {options.key}":
                    raise HTTPError(401, "invalid_api_key", "Incorrect API key provided")
                if fault not in NO_EFFECT:
                    content = state.effect(self.command, url.path, parse_qs(url.query), body, kind)
            except HTTPError as error:
                status, content = error.status, json.dumps(error.body).encode()
            state.write(call=call, at=time.time(), fault=fault)
        time.sleep(options.hold)
        if fault in ("reset", "reset_after"):
            self.reset()
            return
        if fault and fault[0].isdigit():
            content = b'{"error": {"message": "not now", "code": null}}'
        if fault == "html":
            content, status = b"<html><body>Sign in</body></html>", 200
        if fault == "cut":
            content = content[: len(content) // 2]
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if fault == "html" else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def reset(self) -> None:
        on = struct.pack("ii", 1, 0)  # linger for no time: close() sends RST instead of FIN
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, on)
        self.close_connection = True
        self.connection.close()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # clients may leave at any moment
            super().handle_error(request, client_address)


def _multipart(body: bytes, content_type: str) -> dict[str, bytes]:
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    fields = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if name:
            fields[name[1].decode()] = content.removesuffix(b"\r\n")
    return fields


def _tokens(batch: Batch) -> int:
    bodies = (json.dumps(row["body"]).encode() for row in batch.lines)
    return sum(Question.parse(body).prompt_tokens for body in bodies)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--port", type=int, default=0, help="0: any that is free")
    add("--step", type=float, default=0.1, help="seconds of each status of a batch")
    add("--faults", type=float, default=0, help="share of calls that meet a fault")
    add("--line-faults", type=float, default=0, help="share of lines that meet a fault")
    add(
        "--force",
        action="append",
        default=[],
        help="'POST /v1/batches=500_after': the next one; or =none",
    )
    add("--hold", type=float, default=0, help="seconds between a call's effect and its answer")
    add("--list-delay", type=float, default=0, help="seconds until a batch is in the list")
    add("--page", type=int, default=2, help="batches on a page of the list")
    add("--enqueued-tokens", type=int, help="most prompt tokens of open batches")
    add("--expire", type=int, default=0, help="so many of the first batches expire")
    add("--fail", type=int, default=0, help="so many of the first batches fail validation")
    add("--key", help="the one that is let in (default: any)")
    add("--seed", type=int, default=0)
    add("--log", type=Path, help="JSON lines: calls and answers that cost")
    Handler.state = State(parser.parse_args())
    server = Server(("127.0.0.1", Handler.state.options.port), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
