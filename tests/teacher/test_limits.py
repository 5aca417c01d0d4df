"""Limits: rates are kept over any stretch of time, and the number at once adapts.

The clock is the event loop's own, made to jump: no test waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca.teacher import limits
from orca.teacher.limits import Limits, TokenBucket


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next thing to do."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(make: Callable[[JumpingLoop], Coroutine[Any, Any, Any]], patch: pytest.MonkeyPatch) -> Any:
    loop = JumpingLoop()
    patch.setattr(limits.time, "monotonic", loop.time)
    try:
        return loop.run_until_complete(make(loop))
    finally:
        loop.close()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(30, 6_000), st.lists(st.integers(1, 400), min_size=5, max_size=80), st.booleans()
)
def test_a_bucket_never_lets_more_pass_than_its_rate_and_wastes_nothing(
    rate: int, units: list[int], together: bool
) -> None:
    passed: list[tuple[float, int]] = []

    async def main(loop: JumpingLoop) -> None:
        bucket = TokenBucket(rate)

        async def one(n: int) -> None:
            await bucket.take(n)
            passed.append((loop.time(), n))

        if together:
            await asyncio.gather(*(one(n) for n in units))
        else:
            for n in units:
                await one(n)

    with pytest.MonkeyPatch.context() as patch:
        run(main, patch)
    burst = max(1.0, rate / 60)
    total = 0
    for at, n in passed:
        total += n
        assert total <= burst + rate / 60 * at + max(units) + 1e-6
    assert passed[-1][0] <= sum(units) * 60 / rate + 1e-6
    assert [n for _, n in passed] == units, "those who wait pass in turn"


def test_one_429_among_answers_changes_nothing_and_many_halve_the_requests_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(loop: JumpingLoop) -> None:
        one = Limits(None, None, 64)
        one.answered(10, 10)
        one.refused(30.0)
        assert one.window == 64
        await one.pass_on()
        assert loop.time() == 0, "its own query waits, not the endpoint"
        for _ in range(20):
            loop.now += 0.01
            one.refused(30.0)
        assert one.window == 32, "once for those that were under way together"
        await one.pass_on()
        assert loop.time() >= 30.0, "now the endpoint does what Retry-After says"

    run(main, monkeypatch)


def test_a_blip_that_fails_all_under_way_costs_a_second_and_what_is_back_is_soon_asked_in_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(loop: JumpingLoop) -> None:
        one = Limits(None, None, 64)
        for _ in range(64):
            one.failed()
        assert one.down and one.window == 1
        await one.pass_on()
        assert loop.time() == 1.0
        one.failed()
        await one.pass_on()
        assert loop.time() == 3.0, "still down: twice as long"
        rounds = 0
        while one.window < 64:
            rounds += 1
            for _ in range(int(one.window)):
                one.answered(10, 10)
        assert not one.down and rounds == 6

    run(main, monkeypatch)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 400)), min_size=20, max_size=80))
def test_tokens_pass_at_their_rate_whatever_was_estimated(sizes: list[tuple[int, int]]) -> None:
    """(estimated, used); where the server does not say what was used (0), the estimate counts."""
    rate, spent = 6_000, 0

    async def main(loop: JumpingLoop) -> None:
        nonlocal spent
        one = Limits(None, rate, 8)
        for estimated, used in sizes:
            await one.pass_on()
            assert spent <= rate / 60 * (1 + loop.time()) + 1e-6
            one.spend(estimated)
            one.answered(estimated, used)
            spent += used or estimated
        assert loop.time() <= spent / rate * 60 + 1e-6, "nothing is wasted"

    with pytest.MonkeyPatch.context() as patch:
        run(main, patch)


def test_limits_that_the_server_tells_are_taken_where_none_is_configured() -> None:
    own, told = Limits(60, None, 4), Limits(None, None, 4)
    for one in (own, told):
        one.read({"x-ratelimit-limit-requests": "500", "x-ratelimit-limit-tokens": "9000"})
    assert (own.requests.per_minute, own.tokens.per_minute) == (60, 9000)
    assert (told.requests.per_minute, told.tokens.per_minute) == (500, 9000)


def test_limits_that_are_told_may_change_and_what_is_no_number_is_none() -> None:
    told = Limits(None, None, 4)
    told.read({"x-ratelimit-limit-requests": "1"})
    told.read({"x-ratelimit-limit-requests": "6000"})
    assert told.requests.per_minute == 6000
    for text in ("²", "0", "-1", "1e9", "", "9" * 5000):
        told.read({"x-ratelimit-limit-requests": text})
    assert told.requests.per_minute == 6000


def test_an_endpoint_that_says_429_for_ever_is_down_and_so_is_one_that_fails_for_days(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(loop: JumpingLoop) -> None:
        one = Limits(None, None, 8)
        for _ in range(100):
            one.refused(None)
        assert not one.down, "those that were under way together are one sign"
        for _ in range(15):
            loop.now += 2
            one.refused(None)
        assert one.down
        for _ in range(2_000):
            await one.pass_on()
            before = loop.time()
            one.failed()
        await one.pass_on()
        assert loop.time() - before == limits.LONGEST_PAUSE

    run(main, monkeypatch)


def test_no_more_are_under_way_than_the_window_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    async def main(loop: JumpingLoop) -> None:
        one = Limits(None, None, 3)

        async def ask() -> None:
            nonlocal most
            await one.enter()
            most = max(most, one.active)
            await asyncio.sleep(1)
            one.leave()

        await asyncio.gather(*(ask() for _ in range(20)))
        assert one.active == 0

    run(main, monkeypatch)
    assert most == 3
