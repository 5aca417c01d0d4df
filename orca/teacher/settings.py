"""Who is asked, how, where, and what it costs: section 3.1.3 and Table 4 of arXiv 2306.02707."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from orca.errors import UserError
from orca.mixture.sampling import check_number

OWN_FIELDS = ("model", "messages", "stream", "n")
"""Fields of a request's body that are not settings."""

MOST_CONNECTIONS = 1_000
SECRET = re.compile("key|authorization|secret|password|header", re.IGNORECASE)
VARIABLE = re.compile("[A-Z_][A-Z0-9_]*")


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens, and the day on which they held.

    Args:
        batch_discount: share of the price that the Batch API takes off.
    """

    prompt: float
    completion: float
    date: str
    batch_discount: float = 0.5

    def __post_init__(self) -> None:
        for name in ("prompt", "completion"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < float("inf"):
                raise UserError(f"teacher.prices.{name}={value!r}: dollars, 0 or more")
        if not _is_number(self.batch_discount) or not 0 <= self.batch_discount <= 1:
            raise UserError(f"teacher.prices.batch_discount={self.batch_discount}: from 0 to 1")

    def dollars(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What so many tokens cost, without any discount."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class Endpoint:
    """One address that answers, with its own limits.

    Args:
        base_url: of an OpenAI-compatible server, or of an Azure resource.
        model: model name, or Azure's deployment.
        key_variable: environment variable that holds the key; None: the server wants none.
        kind: which client of the `openai` package.
        api_version: Azure's.
        requests_per_minute, tokens_per_minute: limits; None: what the server tells, if anything.
        concurrency: most requests at once.
    """

    base_url: str
    model: str
    key_variable: str | None = None
    kind: Literal["openai", "azure"] = "openai"
    api_version: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int = 32

    def key(self) -> str:
        """The key, from the environment; raises :class:`UserError` naming the variable."""
        if self.key_variable is None:
            return "none"
        key = os.environ.get(self.key_variable)
        if not key:
            raise UserError(
                f"the environment variable {self.key_variable} is needed: "
                f"the key of {self.base_url}"
            )
        if not re.fullmatch(r"[!-~]+", key):
            raise UserError(
                f"the key in {self.key_variable} has white space, a line end or characters that no "
                "key has"
            )
        return key


@dataclass(frozen=True)
class Teacher:
    """A teacher: a model at one or several endpoints, and how it is asked.

    Args:
        name: goes into the traces (``chatgpt``, ``gpt4``).
        settings: fields of each request's body besides model and messages; the paper's are
            temperature 0.7 and top_p 0.95 (footnote 9). One that is None is not sent.
        on_length: what becomes of an answer that was cut: ``set_aside``, ``keep`` it as a trace,
            or ask ``again`` while attempts are left.
        on_content_filter: ``set_aside`` or ``again``.
        timeout: seconds for one request.
        attempts: most requests for one query.
        expected_completion_tokens: mean length of an answer, for plans and budgets. The default is
            what `conf/train.yaml` plans with for ChatGPT: 45 % of 620 tokens.
    """

    name: str
    endpoints: Mapping[str, Endpoint]
    prices: Prices
    settings: Mapping[str, Any] = field(default_factory=dict)
    on_length: Literal["set_aside", "keep", "again"] = "set_aside"
    on_content_filter: Literal["set_aside", "again"] = "set_aside"
    timeout: float = 120.0
    attempts: int = 8
    expected_completion_tokens: float = 279.0

    def __post_init__(self) -> None:
        if not isinstance(self.settings, Mapping):
            raise UserError(f"teacher.settings={self.settings!r}: a mapping, {{}} for none")
        for option in self.settings:
            if option in OWN_FIELDS or SECRET.search(option):
                raise UserError(f"teacher.settings.{option}: not a setting; leave it out")
        if self.max_tokens is not None:
            check_number("teacher.settings.max_completion_tokens (or max_tokens)", self.max_tokens)
        if not self.endpoints:
            raise UserError("teacher.endpoints is empty: nobody would be asked")
        for name, endpoint in self.endpoints.items():
            where = f"teacher.endpoints.{name}"
            if not isinstance(endpoint, Endpoint):
                raise UserError(
                    f"{where} needs _target_: orca.teacher.Endpoint, base_url and model"
                )
            address = urlsplit(endpoint.base_url)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise UserError(f"{where}.base_url={endpoint.base_url!r}: as https://host/v1")
            if address.username or address.password or address.query:
                raise UserError(
                    f"{where}.base_url has more than an address: a key belongs into the "
                    "environment, under the name in key_variable"
                )
            if endpoint.key_variable is not None and not VARIABLE.fullmatch(endpoint.key_variable):
                raise UserError(
                    f"{where}.key_variable is not the name of an environment variable (upper-case "
                    "letters, digits, _); a key itself does not belong here"
                )
            _choice(f"{where}.kind", endpoint.kind, ("openai", "azure"))
            check_number(f"{where}.concurrency", endpoint.concurrency)
            if endpoint.concurrency > MOST_CONNECTIONS:
                raise UserError(
                    f"{where}.concurrency={endpoint.concurrency}: at most {MOST_CONNECTIONS}, the "
                    "connections that the openai package opens"
                )
            for limit in ("requests_per_minute", "tokens_per_minute"):
                if (value := getattr(endpoint, limit)) is not None:
                    check_number(f"{where}.{limit}", value)
            if endpoint.kind == "azure" and not endpoint.api_version:
                raise UserError(f"{where}.api_version is needed for kind=azure, as 2024-10-21")
            if endpoint.kind == "openai" and endpoint.api_version:
                raise UserError(f"{where}.api_version is Azure's: null, or kind=azure")
        _choice("teacher.on_length", self.on_length, ("set_aside", "keep", "again"))
        _choice("teacher.on_content_filter", self.on_content_filter, ("set_aside", "again"))
        check_number("teacher.attempts", self.attempts)
        _positive("teacher.timeout", self.timeout)
        _positive("teacher.expected_completion_tokens", self.expected_completion_tokens)

    @property
    def body(self) -> dict[str, Any]:
        """The settings that are sent."""
        return {name: value for name, value in self.settings.items() if value is not None}

    def policy(self, outcome: str) -> str:
        """What becomes of such an answer: ``keep``, ``set_aside`` or ``again``."""
        return {"length": self.on_length, "content_filter": self.on_content_filter}.get(
            outcome, "keep"
        )

    @property
    def traced(self) -> tuple[str, ...]:
        """Outcomes whose answers become traces, unless a gate sets them aside."""
        return ("finished", "length") if self.on_length == "keep" else ("finished",)

    @property
    def max_tokens(self) -> int | None:
        """Most tokens of an answer; None: the server's limit."""
        return self.body.get("max_completion_tokens", self.body.get("max_tokens"))


def _choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{option}={value!r}: one of {', '.join(choices)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(option: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value < float("inf"):
        raise UserError(f"{option}={value!r}: a number above 0")
