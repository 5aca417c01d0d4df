"""Asking all queries: work shared out to the endpoints, retries, money, an orderly end."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from orca.teacher.client import Client, Retry
from orca.teacher.ledger import Ledger
from orca.teacher.request import Reply, Request
from orca.teacher.settings import Prices, Teacher

LONGEST_PAUSE = 60.0
Gate = Callable[[Request, str], tuple[str, str] | None]
"""(gate, reason) where a response is rejected."""


@dataclass(order=True)
class _Task:
    ready: float
    number: int
    request: Request = field(compare=False)
    attempt: int = field(default=1, compare=False)


class Work:
    """The queries that wait: new ones as they are read, and those to ask again later."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self._new = requests
        self._later: list[_Task] = []
        self._number = 0
        self._open = 0  # handed out and not done
        self._changed = asyncio.Event()
        self.stopped = False

    async def take(self) -> _Task | None:
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
                return _Task(now, self._number, request)
            if not self._later and not self._open:
                return None
            self._changed.clear()
            wait = self._later[0].ready - now if self._later else None
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue
        return None

    def again(self, task: _Task, wait: float) -> None:
        """Ask once more, after ``wait`` seconds."""
        self._open -= 1
        later = _Task(time.monotonic() + wait, task.number, task.request, task.attempt + 1)
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


def dollars(reply: Reply, prices: Prices) -> float:
    """What an answer cost."""
    return (reply.prompt_tokens * prices.prompt + reply.completion_tokens * prices.completion) / 1e6


class Asking:
    """One run over the queries.

    Args:
        gate: says which responses are set aside.
        budget: US dollars, of all programs that added to the ledger together; None: no limit.

    Attributes:
        spent: dollars so far.
        dearest: dollars of the dearest answer that came or is expected.
        out_of_money: the budget ended the run.
        failure: what ended the run before its time.
    """

    def __init__(
        self,
        teacher: Teacher,
        ledger: Ledger,
        requests: Iterator[Request],
        gate: Gate,
        budget: float | None = None,
    ) -> None:
        self.teacher = teacher
        self.ledger = ledger
        self.clients = [Client(name, one, teacher) for name, one in teacher.endpoints.items()]
        self.work = Work(requests)
        self.gate = gate
        self.budget = budget
        self.spent = ledger.total("dollars")
        self.dearest = 0.0
        self.failure: BaseException | None = None
        self.out_of_money = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Ask until every query has its outcome, the budget is spent or :meth:`stop` was called.

        Raises:
            UserError: an endpoint refuses everything, or the ledger cannot be written.
        """
        await asyncio.gather(*(self._serve(client) for client in self.clients))
        await asyncio.gather(*self._tasks)
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Send nothing more; what is under way is waited for."""
        self.work.stop()

    async def _serve(self, client: Client) -> None:
        while True:
            await client.limits.enter()
            task = await self.work.take()
            if task is None:
                client.limits.leave()
                return
            running = asyncio.create_task(self._ask(client, task))
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0)

    async def _ask(self, client: Client, task: _Task) -> None:
        try:
            await self._ask_once(client, task)
        except BaseException as error:
            self.failure = self.failure or error
            self.work.done()
            self.work.stop()
        finally:
            client.limits.leave()

    async def _ask_once(self, client: Client, task: _Task) -> None:
        request = task.request
        estimate = request.prompt_tokens() + (self.teacher.max_tokens or 0)
        await client.limits.pass_on(estimate)
        if not self._affordable(request):
            self.out_of_money = True
            self.work.stop()
        if self.work.stopped:
            self.work.done()
            return
        hashed = request.hash(self.teacher)
        number = await self.ledger.send(request, hashed, client.name, task.attempt)
        answer = await client.ask(request)
        if isinstance(answer, Retry):
            if answer.kind == "429":
                client.limits.refused(answer.after)
            if task.attempt < self.teacher.attempts:
                await self.ledger.end(number, answer.kind)
                self.work.again(task, _pause(task.attempt, answer.after))
                return
            answer = Reply("failed", client.name, error=answer.kind)
        else:
            client.limits.answered(estimate, answer.prompt_tokens + answer.completion_tokens)
        await self._finish(number, task, answer)

    def _affordable(self, request: Request) -> bool:
        """Whether this request and all that are under way fit into the budget, each as dear as the
        dearest answer so far or as this one is expected to be."""
        if self.budget is None:
            return True
        tokens = request.prompt_tokens(), round(self.teacher.expected_completion_tokens)
        expected = dollars(Reply("finished", "", "", "", "", *tokens), self.teacher.prices)
        self.dearest = max(self.dearest, expected)
        under_way = sum(client.limits.active for client in self.clients)
        return self.spent + under_way * self.dearest <= self.budget

    async def _finish(self, number: int, task: _Task, answer: Reply) -> None:
        reply = replace(answer, attempts=task.attempt)
        cost = dollars(reply, self.teacher.prices)
        self.spent += cost
        self.dearest = max(self.dearest, cost)
        found = self.gate(task.request, reply.text) if reply.outcome == "finished" else None
        result = {"failed": reply.error, "rejected": "rejected"}.get(reply.outcome, "ok")
        await self.ledger.finish(number, result, task.request, reply, cost, found)
        self.work.done()


def _pause(attempt: int, after: float | None) -> float:
    """Seconds before the next attempt: what the server asked for, or doubling with jitter."""
    own = min(LONGEST_PAUSE, 0.5 * 2 ** (attempt - 1))
    return max(after or 0.0, own * random.uniform(0.5, 1.5))


def unanswered(batches: Iterator[Sequence[Request]], ledger: Ledger) -> Iterator[Request]:
    """The requests of the batches that have no outcome in the ledger."""
    for batch in batches:
        yield from ledger.unanswered(list(batch))
