"""What a collection shows while it runs."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from orca.teacher.ask import Asking
from orca.teacher.batch import Batching
from orca.teacher.request import OUTCOMES
from orca.teacher.telling import duration, tell

TELL_EVERY = 10.0  # seconds
RATE_OVER = 6  # as many tellings
Log = Callable[[Mapping[str, float], int], None]
"""Takes metrics and the number of queries that are done."""


class Progress:
    """Rates and time left of an :class:`Asking` or :class:`Batching`, by endpoint.

    Args:
        total: queries there are, those of earlier programs included.
        before: how many of them had their outcome before this program; the ledger may have others,
            of a larger ``limit``.
    """

    def __init__(self, asking: Asking | Batching, total: int, before: int) -> None:
        self.asking = asking
        self.total = total
        self.before = before
        self._others = asking.outcomes.total() - before
        self._seen: deque[tuple[float, dict[str, int]]] = deque(maxlen=RATE_OVER + 1)
        self.look()

    def opening(self) -> list[str]:
        """Who is asked what, before the first request."""
        teacher = self.asking.teacher
        settings = ", ".join(f"{name} {value}" for name, value in teacher.body.items())
        budget = self.asking.budget
        lines = [
            f"asking {teacher.name}: {self.total:,} queries, {self.before:,} of them done before; "
            f"{settings or 'no settings'}",
            f"answers that are cut: {teacher.on_length}, filtered: {teacher.on_content_filter}; "
            f"{'no budget' if budget is None else f'budget ${budget:,.2f}'}, "
            f"${self.asking.spent:,.2f} spent before",
        ]
        for name, one in teacher.endpoints.items():
            limits = (
                f"{limit:,} {unit}/min" if limit else f"{unit}/min unknown"
                for limit, unit in (
                    (one.requests_per_minute, "requests"),
                    (one.tokens_per_minute, "tokens"),
                )
            )
            lines.append(
                f"  {name}: {one.model} at {one.base_url}, {', '.join(limits)}, "
                f"{one.concurrency} at once"
            )
        return lines

    def look(self) -> None:
        """Take note of what there is now: rates are over the last minute of looks."""
        self._seen.append((time.monotonic(), dict(self.asking.done)))

    def rates(self) -> dict[str, float]:
        """Queries that each endpoint brings to an outcome in a second."""
        (start, before), (end, now) = self._seen[0], self._seen[-1]
        return {name: (now[name] - before[name]) / max(end - start, 1e-9) for name in now}

    def lines(self) -> list[str]:
        """The state in a line for all and one for each endpoint."""
        asking, rates = self.asking, self.rates()
        ended = asking.outcomes.total()
        done = ended - self._others
        rate, left = sum(rates.values()), self.total - done
        budget = f" of ${asking.budget:,.2f}" if asking.budget else ""
        lines = [
            f"{done:,} of {self.total:,} queries done, "
            f"{asking.outcomes['finished'] / max(ended, 1):.1%} finished; {rate:.1f}/s, "
            f"{duration(left / rate) if rate else 'unknown time'} left; "
            f"${asking.spent:,.2f}{budget}"
            + (f" and perhaps ${asking.perhaps:,.2f} without an answer" if asking.perhaps else "")
            + (f"; {asking.later:,} wait to be asked again" if asking.later else "")
        ]
        for name, counts in asking.results.items():
            share = f", {left * rates[name] / rate:,.0f} of what is left" if rate else ""
            failed = [f"{kind} {n:,}" for kind, n in sorted(counts.items()) if kind not in OUTCOMES]
            lines.append(
                f"  {name}: {rates[name]:.1f}/s{share}; {asking.state(name)}; "
                f"failed attempts: {', '.join(failed) or 'none'}"
            )
        return lines

    def metrics(self) -> dict[str, float]:
        """The same as numbers, for a logger."""
        asking = self.asking
        return {
            "queries": float(asking.outcomes.total()),
            "dollars": asking.spent,
            **{f"outcome/{name}": float(n) for name, n in asking.outcomes.items()},
            **{f"rate/{name}": rate for name, rate in self.rates().items()},
            **{
                f"result/{endpoint}/{kind}": float(n)
                for endpoint, counts in asking.results.items()
                for kind, n in counts.items()
            },
            **(
                {f"window/{n}": client.limits.window for n, client in asking.clients.items()}
                if isinstance(asking, Asking)
                else {}
            ),
        }


async def show_progress(progress: Progress, log: Log | None, each: Callable[[], Any]) -> None:
    """Print the progress every ten seconds if it changed (that of batches seldom does), log it, and
    do ``each``, until cancelled."""
    told: list[str] = []
    while True:
        await asyncio.sleep(TELL_EVERY)
        progress.look()
        if (lines := progress.lines()) != told:
            tell("\n".join(lines))
        told = lines
        if log is not None:
            log(progress.metrics(), progress.asking.outcomes.total())
        each()
