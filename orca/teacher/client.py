"""One request to one endpoint, with the `openai` package, and what its failure means."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from weakref import WeakKeyDictionary

import openai

from orca.errors import UserError
from orca.teacher.limits import Limits
from orca.teacher.request import Outcome, Reply, Request
from orca.teacher.settings import Endpoint, Teacher

OUTCOME_OF: dict[str, Outcome] = {
    "stop": "finished",
    "length": "length",
    "content_filter": "content_filter",
}
"""What a finish reason makes of a query; another one makes it ``other``."""

LONGEST_CODE, LONGEST_REASON = 60, 300  # characters of a server's words
LONGEST_WAIT = 3600.0  # seconds that a server may ask for


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed in a way that another may not: its kind, and what the server asked."""

    kind: str
    after: float | None = None


class Refused(UserError):
    """The endpoint says that it will not answer: key, address, model, quota.

    Attributes:
        status: of the response.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


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
            self.limits.read(error.response.headers)
            after = wait_of(error.response.headers)
            return read_refusal(error.status_code, error.body, self.name, self.endpoint, after)
        except TimeoutError:
            return Retry("timeout")
        except openai.APIConnectionError as error:  # timeouts too
            if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
                return Retry("unreachable")  # nothing was sent
            timeout = isinstance(error, openai.APITimeoutError)
            return Retry("timeout" if timeout else "connection")
        except (openai.OpenAIError, ValueError, RecursionError, OverflowError):
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
        error: the mapping ``error`` of the response's body, or a body without one.
        after: seconds that the server asked to wait.

    Raises:
        Refused: the endpoint will answer no request at all.
    """
    body = error if isinstance(error, dict) else {"message": error}
    code = redact(str(body.get("code") or ""), endpoint, LONGEST_CODE)
    # OpenAI's form, FastAPI's (`transformers serve`), or a page of a proxy.
    told = str(body.get("message") or body.get("detail") or "")
    words = redact(" ".join(told.split()), endpoint, LONGEST_REASON)
    says = f"{status} {words!r}" if words else f"{status}"
    if status == 402 or (status == 429 and code == "insufficient_quota"):
        raise Refused(f"endpoint {name}: its quota is used up ({says})", status)
    if status in (401, 403, 404):
        raise Refused(
            f"endpoint {name} ({endpoint.base_url}, model {endpoint.model}) answers {says}: "
            f"check address, model and the key in "
            f"{endpoint.key_variable or 'key_variable (none is set)'}",
            status,
        )
    if status in (408, 409, 429) or status >= 500:
        return Retry(str(status), after)
    outcome: Outcome = "content_filter" if code == "content_filter" else "rejected"
    return Reply(outcome, name, error=f"{status} {code}".strip(), reason=words)


def redact(text: str, endpoint: Endpoint, longest: int) -> str:
    """A server's words without the key, and without what SQLite and Parquet do not take."""
    if endpoint.key_variable is not None:
        text = text.replace(endpoint.key(), "[key]")
    return clean(text)[:longest]


def clean(text: str) -> str:
    """With a question mark in the place of half a character (a lone surrogate)."""
    return text.encode("utf-8", "replace").decode()


def read_answer(body: Any, endpoint: str, latency: float) -> Reply | Retry:
    """The answer in the body of a response with status 200."""
    try:
        choice = body["choices"][0]
        text, finish = choice["message"]["content"] or "", choice["finish_reason"]
        usage = body.get("usage") or {}
        tokens = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        if not isinstance(text, str) or not isinstance(finish, str):
            return Retry("malformed")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return Retry("malformed")
    outcome = OUTCOME_OF.get(finish, "other")
    model, finish = clean(str(body.get("model", ""))), clean(finish)
    return Reply(outcome, endpoint, clean(text), model, finish, *tokens, latency=latency)


def _count(value: Any) -> int:
    """A number of tokens; 0 where the server does not say."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is no number of tokens")
    return value


def wait_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After`` asks for, at most an hour; None: nothing that can be read."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_WAIT) if not math.isnan(seconds) else None
