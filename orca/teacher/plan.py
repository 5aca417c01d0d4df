"""What asking will cost, and how long it will take, before anything is sent.

A plan rests on mean lengths: a budget of tokens for a minute is used up by mean prompt and mean
answer together, whichever way the single requests vary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from orca.errors import UserError
from orca.teacher.request import Request
from orca.teacher.settings import Endpoint, Prices, Teacher
from orca.teacher.telling import duration

MINUTES_PER_DAY = 24 * 60

Limit = Literal["requests/min", "tokens/min"]


class Counts(NamedTuple):
    """How many requests there are, and the tokens of all their prompts."""

    requests: int
    prompt_tokens: int


@dataclass(frozen=True)
class EndpointPlan:
    """What one endpoint answers.

    Attributes:
        share: of all requests; None: not known, since some endpoint has no limit.
        per_minute: requests that its limits allow; None: it has none.
        binds: the limit that is reached first.
        latency: seconds that an answer may take before ``concurrency`` binds instead.
    """

    name: str
    share: float | None
    per_minute: float | None
    binds: Limit | None
    latency: float | None


@dataclass(frozen=True)
class Plan:
    """Estimates for all requests together.

    Attributes:
        dollars: with the Batch API's discount where ``batch``.
        days: all endpoints at their limits without a pause; None: not known.
    """

    teacher: str
    requests: int
    prompt_tokens: int
    completion_tokens: float
    prices: Prices
    batch: bool
    dollars: float
    batch_dollars: float
    days: float | None
    endpoints: tuple[EndpointPlan, ...]


def plan(
    requests: Iterable[Request] | Counts,
    teacher: Teacher,
    completion_tokens: float,
    batch: bool = False,
) -> Plan:
    """Tokens, dollars and days for ``requests``.

    Every endpoint gets as many of them as its limits allow beside the others', so that all end
    together. The Batch API has limits of its own, which are not configured: days are then unknown.

    Args:
        completion_tokens: mean length of an answer: an assumption, see
            ``teacher.expected_completion_tokens``.

    Raises:
        UserError: a length that is no positive number, or more than an answer may have.
    """
    _check_length(completion_tokens, teacher)
    counts = requests if isinstance(requests, Counts) else count(requests)
    mean = counts.prompt_tokens / counts.requests if counts.requests else 0.0
    rates = {
        name: _rate(endpoint, mean + completion_tokens)
        for name, endpoint in teacher.endpoints.items()
    }
    known = [rate for rate, _ in rates.values() if rate is not None]
    together = None if batch or len(known) < len(rates) else sum(known)
    completions = counts.requests * completion_tokens
    full = teacher.prices.dollars(counts.prompt_tokens, completions)
    discounted = full * (1 - teacher.prices.batch_discount)
    return Plan(
        teacher=teacher.name,
        requests=counts.requests,
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=completions,
        prices=teacher.prices,
        batch=batch,
        dollars=discounted if batch else full,
        batch_dollars=discounted,
        days=counts.requests / together / MINUTES_PER_DAY if together else None,
        endpoints=tuple(
            EndpointPlan(
                name=name,
                share=rate / together if rate and together else None,
                per_minute=rate,
                binds=binds,
                latency=teacher.endpoints[name].concurrency * 60 / rate if rate else None,
            )
            for name, (rate, binds) in rates.items()
        ),
    )


def count(requests: Iterable[Request]) -> Counts:
    """Read ``requests`` once; five million of them need not fit in memory."""
    number = tokens = 0
    for request in requests:
        number += 1
        tokens += request.prompt_tokens()
    return Counts(number, tokens)


def _rate(endpoint: Endpoint, tokens: float) -> tuple[float | None, Limit | None]:
    """Requests of so many tokens that are allowed in a minute, and by which limit."""
    allowed: list[tuple[float, Limit]] = []
    if endpoint.requests_per_minute is not None:
        allowed.append((float(endpoint.requests_per_minute), "requests/min"))
    if endpoint.tokens_per_minute is not None:
        allowed.append((endpoint.tokens_per_minute / tokens, "tokens/min"))
    return min(allowed) if allowed else (None, None)


def _check_length(completion_tokens: float, teacher: Teacher) -> None:
    if not (math.isfinite(completion_tokens) and completion_tokens > 0):
        raise UserError(
            f"teacher.expected_completion_tokens={completion_tokens}: a positive number of tokens, "
            "the mean length of an answer"
        )
    if teacher.max_tokens is not None and completion_tokens > teacher.max_tokens:
        raise UserError(
            f"teacher.expected_completion_tokens={completion_tokens:g} is more than the "
            f"{teacher.max_tokens} that an answer may have by teacher.settings: give the mean "
            "length that you expect"
        )


def plan_report(plan: Plan) -> str:
    """All figures of a plan with what they rest on."""
    head = f"plan of asking {plan.teacher}: estimates; nothing was sent"
    endpoints = [] if plan.batch else _endpoints(plan)
    return "\n".join([head, *_figures(plan), *endpoints])


def remaining_report(rest: Plan, whole: Plan, spent: float, ledger: Path) -> str:
    """What is left of a plan when the answers in a ledger are taken off.

    Args:
        spent: dollars of those answers.
    """
    asked = whole.requests - rest.requests
    head = f"asked already: {asked:,} of {whole.requests:,} ({ledger}), ${spent:,.2f} spent"
    if not rest.requests:
        return f"{head}; nothing remains"
    return "\n".join([f"{head}; what remains:", *(f"  {line}" for line in _figures(rest))])


def _figures(plan: Plan) -> list[str]:
    return [_tokens(plan), _money(plan), _time(plan)]


def _tokens(plan: Plan) -> str:
    each = max(plan.requests, 1)
    return (
        f"requests: {plan.requests:,}; prompts {plan.prompt_tokens / 1e6:,.1f} M tokens "
        f"({plan.prompt_tokens / each:,.0f} each, estimated), answers "
        f"{plan.completion_tokens / 1e6:,.1f} M ({plan.completion_tokens / each:,.0f} each, "
        "assumed: teacher.expected_completion_tokens)"
    )


def _money(plan: Plan) -> str:
    prices = plan.prices
    if not prices.prompt and not prices.completion:
        return "money: nothing, the prices are 0"
    of = (
        f"at ${prices.prompt:g} for a million tokens of prompts and ${prices.completion:g} of "
        f"answers (prices of {prices.date})"
    )
    if plan.batch:
        return f"money: ${plan.dollars:,.2f} as batches, {prices.batch_discount:.0%} off, {of}"
    batches = f"; as batches ${plan.batch_dollars:,.2f}" if prices.batch_discount else ""
    return f"money: ${plan.dollars:,.2f} {of}{batches}"


def _time(plan: Plan) -> str:
    if plan.batch:
        return (
            "time: unknown: batches have limits of their own (tokens in the queue), and each has "
            "24 hours"
        )
    if plan.days is None:
        without = [e.name for e in plan.endpoints if e.per_minute is None]
        return (
            "time: unknown: no limit is given for "
            f"{', '.join(without)} (requests_per_minute, tokens_per_minute)"
        )
    return (
        f"time: {duration(plan.days * 86_400)} with every endpoint at its limit all the time; "
        "refusals, retries and slow answers come on top"
    )


def _endpoints(plan: Plan) -> list[str]:
    """One line for each endpoint, under a heading."""
    rows = [("endpoint", "share", "requests/min", "limit that binds", "if answers take under")]
    for one in plan.endpoints:
        if one.per_minute is None:
            rows.append((one.name, "", "unknown", "no limit is given", ""))
            continue
        rows.append(
            (
                one.name,
                "" if one.share is None else f"{one.share:.0%}",
                f"{one.per_minute:,.1f}",
                str(one.binds),
                "" if one.latency is None else f"{one.latency:,.0f} s (concurrency)",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        ("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
