"""The queries that wait to be asked, and those to ask again later."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from orca.teacher.request import Request


@dataclass(order=True)
class Task:
    """A query on its way, and which attempt comes next."""

    ready: float
    number: int
    request: Request = field(compare=False)
    attempt: int = field(default=1, compare=False)


class Work:
    """The queries that wait: new ones as they are read, and those to ask again later."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self._new = requests
        self._later: list[Task] = []
        self._number = 0
        self._open = 0  # handed out and not done
        self._changed = asyncio.Event()
        self.stopped = False
        self.complete = False
        """Every query has its outcome."""

    @property
    def later(self) -> int:
        """Queries that wait to be asked again."""
        return len(self._later)

    async def take(self) -> Task | None:
        """The next query to ask; None when there will be no more."""
        while not self.stopped:
            now = time.monotonic()
            if self._later and self._later[0].ready <= now:
                self._open += 1
                return heapq.heappop(self._later)
            request = next(self._new, None)
            if request is not None:
                self._open += 1
                self._number += 1
                return Task(now, self._number, request)
            if not self._later and not self._open:
                self.complete = True
                return None
            self._changed.clear()
            wait = self._later[0].ready - now if self._later else None
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue
        return None

    def again(self, task: Task, wait: float, attempt: int) -> None:
        """Hand it out once more after ``wait`` seconds, for this attempt."""
        self._open -= 1
        later = Task(time.monotonic() + wait, task.number, task.request, attempt)
        heapq.heappush(self._later, later)
        self._changed.set()

    def done(self) -> None:
        """A query that was handed out has its outcome (or is given up, when stopped)."""
        self._open -= 1
        self._changed.set()

    def stop(self) -> None:
        """Hand out nothing more."""
        self.stopped = True
        self._changed.set()
