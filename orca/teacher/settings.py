"""Who is asked, how, where, and what it costs: section 3.1.3 and Table 4 of arXiv 2306.02707."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orca.errors import UserError


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


@dataclass(frozen=True)
class Endpoint:
    """One address that answers, with its own limits.

    Args:
        base_url: of an OpenAI-compatible server, or of an Azure resource.
        model: model name, or Azure's deployment.
        key_variable: environment variable that holds the key; None: the server wants none.
        kind: which client of the `openai` package.
        api_version: Azure's.
        requests_per_minute, tokens_per_minute: limits; None: none is known.
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
        return key


@dataclass(frozen=True)
class Teacher:
    """A teacher: a model at one or several endpoints, and how it is asked.

    Args:
        name: goes into the traces (``chatgpt``, ``gpt4``).
        temperature, top_p, max_tokens: of the answers; the paper's are 0.7, 0.95 and not stated.
        timeout: seconds for one request.
        attempts: most requests for one query.
        expected_completion_tokens: mean length of an answer, for plans only. The default is what
            `conf/train.yaml` plans with for ChatGPT: 45 % of 620 tokens.
    """

    name: str
    endpoints: Mapping[str, Endpoint]
    prices: Prices
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int | None = None
    timeout: float = 120.0
    attempts: int = 8
    expected_completion_tokens: float = 279.0
