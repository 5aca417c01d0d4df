"""What is shown while asking: rates over the last minute, time left, money, failures by kind."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from pathlib import Path

import pytest

from orca.teacher import Asking, Endpoint, Ledger, Prices, Progress, Teacher, progress

ENDPOINTS = {name: Endpoint("http://x", "m", requests_per_minute=60) for name in ("east", "west")}
TEACHER = Teacher("gpt4", ENDPOINTS, Prices(1.0, 2.0, "2026-11-22"), {"temperature": 0.7})


def test_lines_and_metrics_say_what_was_done_how_fast_and_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    ledger = Ledger(tmp_path / "l", {})
    asking = Asking(TEACHER, ledger, iter([]), lambda request, text: None, budget=20.0)
    shown = Progress(asking, 1000, 0)
    assert shown.rates() == {"east": 0.0, "west": 0.0}
    assert "unknown time left" in shown.lines()[0]
    assert "1,000 queries, 0 of them done before; temperature 0.7" in shown.opening()[0]
    assert "budget $20.00" in shown.opening()[1]
    for _ in range(30):  # 1 and 3 a second; in the last minute 1 and 1
        clock[0] += 10
        speed = 3 if clock[0] <= 200 else 1
        asking.done["east"] += 10
        asking.done["west"] += 10 * speed
        shown.look()
    assert shown.rates() == pytest.approx({"east": 1.0, "west": 1.0})
    asking.outcomes = Counter(finished=810, length=90)
    asking.results["west"] = Counter(finished=700, length=90, timeout=7, **{"429": 5})
    asking.spent = 12.5
    asking.clients.pop("east")
    first, east, west = shown.lines()
    assert first == (
        "900 of 1,000 queries done, 90.0% finished; 2.0/s, 50 seconds left; $12.50 of $20.00"
    )
    assert "left out: it refuses" in east
    assert "1.0/s, 50 of what is left" in west and "failed attempts: 429 5, timeout 7" in west
    metrics = shown.metrics()
    assert (metrics["queries"], metrics["dollars"], metrics["rate/west"]) == (900, 12.5, 1.0)
    assert metrics["result/west/429"] == 5 and "window/east" not in metrics
    ledger.close()


def test_what_the_ledger_has_beside_the_chosen_queries_is_not_counted(tmp_path: Path) -> None:
    """Of 300 outcomes 40 are among the 100 chosen; 10 more have come."""
    ledger = Ledger(tmp_path / "l", {})
    asking = Asking(TEACHER, ledger, iter([]), lambda request, text: None)
    asking.outcomes = Counter(finished=300)
    shown = Progress(asking, 100, 40)
    assert "100 queries, 40 of them done before" in shown.opening()[0]
    asking.outcomes["finished"] += 10
    assert shown.lines()[0].startswith("50 of 100 queries done, 100.0% finished")
    ledger.close()


def test_every_telling_has_the_time_of_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "TELL_EVERY", 0.01)
    ledger = Ledger(tmp_path / "l", {})
    shown = Progress(Asking(TEACHER, ledger, iter([]), lambda request, text: None), 10, 0)
    looks: list[int] = []

    async def until_told_twice() -> None:
        showing = asyncio.create_task(progress.show_progress(shown, None, lambda: looks.append(1)))
        while len(looks) < 4:
            await asyncio.sleep(0.01)
            if len(looks) == 2:
                shown.asking.outcomes["finished"] = 1
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing

    asyncio.run(until_told_twice())
    told = re.findall(r"^\d\d:\d\d:\d\d (\d) of 10", capsys.readouterr().err, re.MULTILINE)
    assert told == ["0", "1"], "what has not changed is not told again"
    ledger.close()
