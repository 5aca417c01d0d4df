"""Keeping within an endpoint's limits: requests and tokens a minute, and requests at once."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Mapping

RECENT = 0.02  # weight of the last end: chance alone must not make the share too many
TOO_MANY = 0.25  # share of 429
DOWN = 10  # failures in a row
LONGEST_PAUSE = 60.0  # seconds


class TokenBucket:
    """Lets ``per_minute`` units pass a minute; at most a second's worth at once.

    Args:
        per_minute: None: no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.per_minute = per_minute
        self._units = 0.0
        self._at = time.monotonic()

    async def take(self, units: float) -> None:
        """Wait until ``units`` may pass; those who wait pass in turn (the level is below zero)."""
        if self.per_minute is None:
            return
        self._fill()
        self._units -= units
        if self._units < 0:
            await asyncio.sleep(-self._units * 60 / self.per_minute)

    def give(self, units: float) -> None:
        """Give back what was taken too much (or, below zero, take what was too little)."""
        if self.per_minute is not None:
            self._units += units

    def _fill(self) -> None:
        assert self.per_minute is not None
        now = time.monotonic()
        most = max(1.0, self.per_minute / 60)
        self._units = min(most, self._units + (now - self._at) * self.per_minute / 60)
        self._at = now


class Limits:
    """The limits of one endpoint.

    The number of requests at once adapts (AIMD): halved when too many of the last ends were 429,
    and then one more for every round of answers. It begins at its largest: what is started again
    must not lose minutes until it has grown, and limits that are known keep it slow enough. One 429
    among many answers delays its own query alone: load balancers give such, and a pause of
    everything for each would cost most of the rate.
    """

    def __init__(self, requests: int | None, tokens: int | None, concurrency: int) -> None:
        self.requests = TokenBucket(requests)
        self.tokens = TokenBucket(tokens)
        self._told = {"requests": requests is None, "tokens": tokens is None}
        self.most = concurrency
        self.window = float(concurrency)
        self.active = 0
        self._wake = asyncio.Event()
        self._pause_until = 0.0
        self._halved = self.window  # up to where it doubles with every round, as TCP's slow start
        self._halved_at = -math.inf
        self._refused = 0.0  # share of 429 among the last ends, older ones counting less
        self._failed = 0  # failures since the last answer
        self._refused_at = -math.inf

    @property
    def down(self) -> bool:
        """Nothing but failures has come for some time."""
        return self._failed >= DOWN

    async def enter(self) -> None:
        """Wait for a place among the requests under way."""
        while self.active >= int(self.window):
            self._wake.clear()
            await self._wake.wait()
        self.active += 1

    async def pass_on(self) -> None:
        """Wait until one more request may leave. Which one is open until then: a query that waited
        here would keep the other endpoints from it, and at the end they would have none left."""
        while (wait := self._pause_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        await self.requests.take(1)
        await self.tokens.take(0)  # until those before are paid off

    def spend(self, tokens: int) -> None:
        """The request that leaves has so many; the next one waits for them."""
        self.tokens.give(-tokens)

    def leave(self) -> None:
        """A request under way is over."""
        self.active -= 1
        self._wake.set()

    def answered(self, estimated: int, used: int) -> None:
        """An answer came, which cost ``used`` tokens."""
        if self.down:
            self._pause_until = 0.0
        self._failed = 0
        self._refused *= 1 - RECENT
        if used:  # else the server did not say, and the estimate stays
            self.tokens.give(estimated - used)
        more = 1 / self.window if self.window >= self._halved else 1.0
        self.window = min(self.most, self.window + more)

    def refused(self, retry_after: float | None) -> None:
        """The server said that it was too much. Where it says nothing else for long it is down."""
        now = time.monotonic()
        if now - self._refused_at > 1.0:  # once for those that were under way together
            self._refused_at = now
            self.failed()
        self._refused += RECENT * (1 - self._refused)
        if self._refused < TOO_MANY:
            return
        if now - self._halved_at > 1.0:
            self.window = self._halved = max(1.0, self.window / 2)
            self._halved_at = now
        if retry_after:
            self._pause_until = max(self._pause_until, now + retry_after)

    def failed(self) -> None:
        """No usable answer came. A server that is down is asked one query at a time, ever more
        rarely, so that few queries use up their attempts on it."""
        now = time.monotonic()
        if now < self._pause_until:
            return  # it was under way when the pause began, and is no new sign
        self._failed += 1
        if self.down:
            self.window = 1.0
            self._pause_until = now + min(LONGEST_PAUSE, 2.0 ** min(self._failed - DOWN, 10))

    def read(self, headers: Mapping[str, str]) -> None:
        """Take over the limits that the server tells, where the configuration names none."""
        for bucket, name in ((self.requests, "requests"), (self.tokens, "tokens")):
            told = headers.get(f"x-ratelimit-limit-{name}", "")
            if self._told[name] and re.fullmatch(r"[1-9][0-9]{0,11}", told, re.ASCII):
                bucket.per_minute = float(told)
