"""One request to one endpoint, with the `openai` package, and what its failure means."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import openai

from orca.errors import UserError
from orca.teacher.limits import Limits
from orca.teacher.request import Outcome, Reply, Request
from orca.teacher.settings import Endpoint, Teacher

OUTCOMES: dict[str, Outcome] = {
    "stop": "finished",
    "length": "length",
    "content_filter": "content_filter",
}
"""What a finish reason makes of a query."""

LONGEST_REASON = 300  # characters of a server's words


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed in a way that another may not: its kind, and what the server asked."""

    kind: str
    after: float | None = None


class Refused(UserError):
    """The endpoint will answer no request at all (key, address, model, quota)."""


def connect(endpoint: Endpoint, timeout: float) -> openai.AsyncOpenAI:
    """The package's client of an endpoint, without retries of its own."""
    common: dict[str, Any] = {"api_key": endpoint.key(), "max_retries": 0, "timeout": timeout}
    if endpoint.kind == "azure":
        return openai.AsyncAzureOpenAI(
            azure_endpoint=endpoint.base_url, api_version=endpoint.api_version, **common
        )
    return openai.AsyncOpenAI(base_url=endpoint.base_url, **common)


class Client:
    """Asks one endpoint. Retries are the caller's."""

    def __init__(self, name: str, endpoint: Endpoint, teacher: Teacher) -> None:
        self.name = name
        self.endpoint = endpoint
        self.teacher = teacher
        self.limits = Limits(
            endpoint.requests_per_minute, endpoint.tokens_per_minute, endpoint.concurrency
        )
        self._openai = connect(endpoint, teacher.timeout)
        self._last: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # body of each connection

    async def ask(self, request: Request) -> Reply | Retry:
        """Send the request once.

        Raises:
            Refused: the endpoint will answer no request at all.
        """
        start = time.monotonic()
        model, messages = self.endpoint.model, request.messages()
        create: Any = self._openai.chat.completions.with_raw_response.create
        try:
            # The package's own timeout is for each read, so that a slow body may take for ever.
            async with asyncio.timeout(self.teacher.timeout):
                raw = await create(model=model, messages=messages, extra_body=self.teacher.body)
            self.limits.read(raw.headers)
            if self._is_copy(raw.http_response):
                await raw.http_response.extensions["network_stream"].aclose()
                return Retry("malformed")
            return read_answer(raw.http_response.json(), self.name, time.monotonic() - start)
        except openai.APIStatusError as error:
            after = _seconds(error.response.headers.get("retry-after"))
            return read_refusal(error.status_code, error.body, self.name, self.endpoint, after)
        except (TimeoutError, openai.APITimeoutError):
            return Retry("timeout")
        except openai.APIConnectionError:
            return Retry("connection")
        except (openai.OpenAIError, json.JSONDecodeError, UnicodeDecodeError):
            return Retry("malformed")

    def _is_copy(self, response: Any) -> bool:
        """Whether a connection gave the same body twice. Where a server or proxy sends an answer
        twice, HTTP/1.1 takes the copy for the next request's, and every later answer of the
        connection for the one after it."""
        connection = response.extensions.get("network_stream")
        if connection is None:
            return False
        before = self._last.get(connection)
        self._last[connection] = hash(response.content)
        return before == self._last[connection]

    async def close(self) -> None:
        await self._openai.close()


def read_refusal(
    status: int, error: Any, name: str, endpoint: Endpoint, after: float | None = None
) -> Reply | Retry:
    """What a status other than 200 means.

    Args:
        error: the mapping ``error`` of the response's body, if there is one.
        after: seconds that the server asked to wait.

    Raises:
        Refused: the endpoint will answer no request at all.
    """
    error = error if isinstance(error, dict) else {}
    code = str(error.get("code") or "")
    if status == 429 and code == "insufficient_quota":
        raise Refused(f"endpoint {name}: its quota is used up")
    if status in (401, 403, 404):
        raise Refused(
            f"endpoint {name} ({endpoint.base_url}, model {endpoint.model}) answers {status}: "
            f"check address, model and the key in "
            f"{endpoint.key_variable or 'key_variable (none is set)'}"
        )
    if status in (408, 409, 429) or status >= 500:
        return Retry(str(status), after)
    outcome: Outcome = "content_filter" if code == "content_filter" else "rejected"
    reason = str(error.get("message") or "").replace(endpoint.key(), "[key]")[:LONGEST_REASON]
    return Reply(outcome, name, error=f"{status} {code}".strip(), reason=reason)


def read_answer(body: Any, endpoint: str, latency: float) -> Reply | Retry:
    """The answer in the body of a response with status 200."""
    try:
        choice = body["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
        usage = body.get("usage") or {}
        tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        outcome = OUTCOMES[finish]
        if text is not None and not isinstance(text, str):
            return Retry("malformed")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return Retry("malformed")
    model = str(body.get("model", ""))
    return Reply(outcome, endpoint, text or "", model, finish, *tokens, latency=latency)


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None  # a date: rare, and our own back-off does
