"""What the fault server says: which request meets which fault, and the answers' bodies.

Which requests meet a fault is drawn by hash. A fault of ``EVERY_ATTEMPT`` depends on the seed and
the messages: give the servers of one teacher the same seed. One of ``ONE_ATTEMPT`` depends also on
the server's name and on how often it has admitted these messages, so that asking again helps, and
asking another server too. A query that starts with ``fault:NAME`` meets that fault always, with
``fault:NAME:N`` the first N times.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
import time
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

ONE_ATTEMPT = {  # weights
    "429": 4,
    "429_retry_after": 4,
    "500": 4,
    "503": 4,
    "reset_before": 2,  # of the connection, before a byte of the answer
    "reset_during": 2,  # in the middle of the body
    "hang": 1,  # no answer for --hang seconds, then the connection closes
    "cut_json": 1,  # Content-Length fits, the JSON stops in the middle
    "short_body": 1,  # the connection closes before Content-Length is reached
    "malformed_json": 1,
    "html": 1,  # status 200
    "empty_choices": 1,
    "slow": 1,  # a good answer, in pieces over --slow seconds
    "no_usage": 1,  # a good answer
    "duplicate": 1,  # a good answer, sent twice; the connection closes
    # As `duplicate`, but the connection stays open: a client with keep-alive may take the second
    # copy for the answer to its next request (httpx 0.28 does).
    "duplicate_open": 1,
}
EVERY_ATTEMPT = {
    "length": 2,  # finish reasons of answers that cost
    "content_filter": 1,
    "azure_filter": 1,  # Azure's 400 for the prompt
    "too_long": 1,  # 400
}
UNUSABLE = {"reset_during", "cut_json", "short_body", "malformed_json", "empty_choices"}
FORCED = re.compile(r"fault:(\w+)(?::(\d+))?")


def key_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the log calls a request: 32 hex digits of the SHA-256 of its messages as JSON."""
    text = json.dumps(messages, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def answer_to(query: str) -> str:
    """The text that answers this user message; `length` and `content_filter` keep half of it."""
    return f"Answer to {hashlib.sha256(query.encode()).hexdigest()}"


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but the parts."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def weighted(weights: Mapping[str, int], u: float) -> str:
    """The name on which u in [0, 1) falls."""
    sums = list(accumulate(weights.values()))
    return list(weights)[bisect(sums, u * sums[-1])]


def draw_fault(
    query: str, key: str, attempt: int, share: float, seed: int, server: str = ""
) -> str | None:
    """The fault of the attempt-th request (from 0) for these messages, or None."""
    if forced := FORCED.match(query):
        name, times = forced.groups()
        if name not in ONE_ATTEMPT | EVERY_ATTEMPT:
            raise ValueError(f"no fault is called {name}")
        return name if times is None or attempt < int(times) else None
    lasting, passing = sum(EVERY_ATTEMPT.values()), sum(ONE_ATTEMPT.values())
    threshold = share * lasting / (lasting + passing)
    u = uniform(seed, key)
    if u < threshold:
        return weighted(EVERY_ATTEMPT, u / threshold)
    # Of the queries that are left; with the lasting faults that makes `share` of the requests.
    threshold = (share - threshold) / (1 - threshold)
    u = uniform(f"{seed}{server}", key, attempt)
    return weighted(ONE_ATTEMPT, u / threshold) if u < threshold else None


@dataclass(frozen=True, slots=True)
class Question:
    """What a client asks, and what it would cost."""

    key: str
    query: str
    model: str
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def parse(cls, body: bytes) -> Question:
        """Raises ValueError, KeyError or TypeError for what is no request."""
        request = json.loads(body)
        messages = request["messages"]
        query = messages[-1]["content"]
        # Not the estimate of the client, as with a real server: 3.5 bytes a token, 4 a message.
        size = sum(len(m["content"].encode()) for m in messages)
        prompt_tokens = int(size / 3.5) + 4 * len(messages)
        model = request["model"]
        return cls(key_of(messages), query, model, prompt_tokens, len(answer_to(query)) // 4)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body, and what the log says of an answer that a client pays for."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    bill: Mapping[str, Any] | None = None


def failure(
    status: int,
    kind: str | None,
    code: str | None,
    message: str,
    /,
    *,
    retry_after: float | None = None,
    **more: Any,
) -> Answer:
    """OpenAI's body of an error; `retry_after` seconds are rounded up."""
    error = {"message": message, "type": kind, "param": None, "code": code, **more}
    headers = () if retry_after is None else (("Retry-After", str(math.ceil(retry_after))),)
    return Answer(status, json.dumps({"error": error}).encode(), headers)


def completion(question: Question, fault: str | None) -> Answer:
    """The answer of status 200, with the fault that its JSON has."""
    finish_reason = fault if fault in EVERY_ATTEMPT else "stop"
    text, tokens = answer_to(question.query), question.completion_tokens
    if finish_reason != "stop":
        text, tokens = text[: len(text) // 2], tokens // 2
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    usage = {"prompt_tokens": question.prompt_tokens, "completion_tokens": tokens}
    answer = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",  # another one for each answer, as OpenAI's
        "object": "chat.completion",
        "created": int(time.time()),
        "model": f"{question.model}-0613",  # the version that answered, as OpenAI's
        "choices": [] if fault == "empty_choices" else [choice],
    }
    if fault != "no_usage":
        answer["usage"] = {**usage, "total_tokens": sum(usage.values())}
    body = json.dumps(answer).encode()
    if fault == "cut_json":
        body = body[: len(body) // 2]
    if fault == "malformed_json":
        body = body.replace(b'"choices":', b'"choices"', 1)
    bill = None if fault in UNUSABLE else {"finish_reason": finish_reason, **usage}
    return Answer(200, body, bill=bill)


def compose(question: Question, fault: str | None) -> Answer:
    """What a server with this fault says."""
    match fault:
        case "429" | "429_retry_after":
            wait = 1 if fault == "429_retry_after" else None
            code = "rate_limit_exceeded"
            return failure(429, "requests", code, "Rate limit reached", retry_after=wait)
        case "500":
            return failure(500, "server_error", None, "The server had an error")
        case "503":
            return failure(503, "server_error", None, "The engine is overloaded")
        case "azure_filter":
            filtered = {"violence": {"filtered": True, "severity": "medium"}}
            inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": filtered}
            message = "The prompt triggered the content management policy"
            return failure(
                400, None, "content_filter", message, param="prompt", status=400, innererror=inner
            )
        case "too_long":
            message = f"The maximum context length is 4097 tokens, not {question.prompt_tokens}"
            kind = "invalid_request_error"
            return failure(400, kind, "context_length_exceeded", message, param="messages")
        case "html":
            return Answer(200, b"<html><body>Sign in</body></html>", content_type="text/html")
        case _:
            return completion(question, fault)
