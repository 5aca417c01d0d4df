"""One request to one endpoint, with the `openai` package, and what its failure means."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed in a way that another may not: its kind, and what the server asked."""

    kind: str
    after: float | None = None


class Client:
    """Asks one endpoint. Retries are the caller's."""

    def __init__(self, name: str, endpoint: Endpoint, teacher: Teacher) -> None:
        self.name = name
        self.endpoint = endpoint
        self.teacher = teacher
        self.limits = Limits(
            endpoint.requests_per_minute, endpoint.tokens_per_minute, endpoint.concurrency
        )
        if endpoint.kind == "azure":
            self._openai: openai.AsyncOpenAI = openai.AsyncAzureOpenAI(
                azure_endpoint=endpoint.base_url,
                api_version=endpoint.api_version,
                api_key=endpoint.key(),
                max_retries=0,
                timeout=teacher.timeout,
            )
        else:
            self._openai = openai.AsyncOpenAI(
                base_url=endpoint.base_url,
                api_key=endpoint.key(),
                max_retries=0,
                timeout=teacher.timeout,
            )

    async def ask(self, request: Request) -> Reply | Retry:
        """Send the request once.

        Raises:
            UserError: the endpoint will refuse every request (key, address, model).
        """
        start = time.monotonic()
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": request.messages(),
            "temperature": self.teacher.temperature,
            "top_p": self.teacher.top_p,
        }
        if self.teacher.max_tokens is not None:
            body["max_tokens"] = self.teacher.max_tokens
        create: Any = self._openai.chat.completions.with_raw_response.create
        try:
            # The package's own timeout is for each read, so that a slow body may take for ever.
            async with asyncio.timeout(self.teacher.timeout):
                raw = await create(**body)
            self.limits.read(raw.headers)
            return self._reply(raw.http_response.json(), time.monotonic() - start)
        except openai.APIStatusError as error:
            return self._refusal(error)
        except (TimeoutError, openai.APITimeoutError):
            return Retry("timeout")
        except openai.APIConnectionError:
            return Retry("connection")
        except (openai.OpenAIError, json.JSONDecodeError, UnicodeDecodeError):
            return Retry("malformed")

    def _reply(self, body: Any, latency: float) -> Reply | Retry:
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
        return Reply(outcome, self.name, text or "", model, finish, *tokens, latency=latency)

    def _refusal(self, error: openai.APIStatusError) -> Reply | Retry:
        status, code = error.status_code, str(error.code or "")
        if status == 429 and code == "insufficient_quota":
            raise UserError(f"endpoint {self.name}: its quota is used up") from None
        if status == 429:
            return Retry("429", _seconds(error.response.headers.get("retry-after")))
        if status in (401, 403, 404):
            raise UserError(
                f"endpoint {self.name} ({self.endpoint.base_url}, model {self.endpoint.model}) "
                f"answers {status}: check address, model and the key in "
                f"{self.endpoint.key_variable or 'key_variable (none is set)'}"
            ) from None
        if status in (408, 409) or status >= 500:
            return Retry(str(status), _seconds(error.response.headers.get("retry-after")))
        filtered = code == "content_filter"
        return Reply(
            "content_filter" if filtered else "rejected",
            self.name,
            error=f"{status} {code}".strip(),
        )


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None  # a date: rare, and our own back-off does
