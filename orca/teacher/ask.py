"""Asking all queries: work shared out to the endpoints, retries, money, an orderly end."""

from __future__ import annotations

import asyncio
import heapq
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from orca.errors import UserError
from orca.teacher.client import Client, Refused, Retry
from orca.teacher.ledger import Gate, Ledger
from orca.teacher.limits import LONGEST_PAUSE, Limits
from orca.teacher.request import Reply, Request
from orca.teacher.settings import Teacher

ALL_REJECTED = 20  # requests in a row, without any answer, that show a fault of the settings


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


class Asking:
    """One run over the queries.

    Args:
        gate: says which responses are set aside.
        budget: US dollars, of all programs that added to the ledger together; None: no limit.

    Attributes:
        clients: endpoints that are asked, by name.
        outcomes: how many queries have come to which outcome, in all programs together.
        results: how the attempts of this program ended, by endpoint.
        done: queries that this program brought to their outcome, by endpoint.
        spent: dollars so far, of all programs together.
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
        self.clients = {name: Client(name, one, teacher) for name, one in teacher.endpoints.items()}
        self.work = Work(requests)
        self.gate = gate
        self.budget = budget
        self.outcomes = Counter(ledger.counts("outcome"))
        self.results: dict[str, Counter[str]] = {name: Counter() for name in self.clients}
        self.done = dict.fromkeys(self.clients, 0)
        self.spent = ledger.total("dollars")
        self.dearest = 0.0
        self.failure: BaseException | None = None
        self.out_of_money = False
        self._rejected = 0  # in a row
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Ask until every query has its outcome, the budget is spent or :meth:`stop` was called.

        Raises:
            UserError: every endpoint refuses, no request is valid, or the ledger cannot be
                written.
        """
        clients = list(self.clients.values())
        await asyncio.gather(*(self._serve(client) for client in clients))
        await asyncio.gather(*self._tasks)
        await asyncio.gather(*(client.close() for client in clients))
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Send nothing more; what is under way is waited for."""
        self.work.stop()

    def fail(self, error: BaseException | None) -> None:
        """End as with :meth:`stop`, and let :meth:`run` raise the error."""
        self.failure = self.failure or error
        self.work.stop()

    def state(self, endpoint: str) -> str:
        """What the endpoint is doing, in words."""
        if (client := self.clients.get(endpoint)) is None:
            return "left out: it refuses"
        down = ", down" if client.limits.down else ""
        return f"{client.limits.active} of {int(client.limits.window)} under way{down}"

    async def _serve(self, client: Client) -> None:
        while client.name in self.clients:
            await client.limits.enter()
            await client.limits.pass_on()
            task = await self.work.take()
            if task is None:
                client.limits.leave()
                return
            running = asyncio.create_task(self._ask(client, task))
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0)

    async def _ask(self, client: Client, task: Task) -> None:
        try:
            await self._ask_once(client, task)
        except BaseException as error:
            self.work.done()
            self.fail(error)
        finally:
            client.limits.leave()

    async def _ask_once(self, client: Client, task: Task) -> None:
        request = task.request
        estimate = request.prompt_tokens() + (self.teacher.max_tokens or 0)
        client.limits.spend(estimate)
        if not self._affordable(request):
            self.out_of_money = True
            self.work.stop()
        if client.name not in self.clients:
            self.work.again(task, 0.0, task.attempt)
            return
        if self.work.stopped:
            self.work.done()
            return
        hashed = request.hash(self.teacher)
        number = await self.ledger.send(request, hashed, client.name, task.attempt)
        try:
            answer = await client.ask(request)
        except Refused as refused:
            await self.ledger.end(number, "refused")
            self._leave_out(client, refused)
            self.work.again(task, 0.0, task.attempt)
            return
        _adapt(client.limits, answer, estimate)
        await self._end(client.name, number, task, answer)

    def _leave_out(self, client: Client, refused: Refused) -> None:
        if self.clients.pop(client.name, None) is None:
            return  # another of its requests said so before
        if not self.clients:
            raise refused
        rest = ", ".join(self.clients)
        print(f"{refused}; going on without it: {rest}", file=sys.stderr, flush=True)

    async def _end(self, endpoint: str, number: int, task: Task, answer: Reply | Retry) -> None:
        """Record how the attempt ended; then ask again, or record what the query came to."""
        kind, reply, cost, again = weigh(self.teacher, endpoint, answer, task.attempt)
        self.results[endpoint][kind] += 1
        self.spent += cost
        self.dearest = max(self.dearest, cost)
        if again:
            pause = _pause(task.attempt, answer.after) if isinstance(answer, Retry) else 0.0
            await self.ledger.end(number, kind, reply, cost)
            self.work.again(task, pause, task.attempt + 1)
            return
        found = self.gate(task.request, reply.text) if reply.outcome == "finished" else None
        await self.ledger.finish(number, task.request, reply, cost, task.attempt, found)
        self.outcomes[reply.outcome] += 1
        self.done[endpoint] += 1
        self.work.done()
        self._check_rejected(reply)

    def _check_rejected(self, reply: Reply) -> None:
        if reply.outcome in ("finished", "length"):
            self._rejected = 0
        self._rejected += reply.outcome == "rejected"
        if self._rejected == ALL_REJECTED:
            raise UserError(
                f"endpoint {reply.endpoint} rejects every request ({reply.error}: "
                f"{reply.reason!r}): see its model and teacher.settings; "
                "ask_again=[rejected] asks them once more"
            )

    def _affordable(self, request: Request) -> bool:
        """Whether this request and all that are under way fit into the budget, each as dear as the
        dearest answer so far or as this one is expected to be."""
        if self.budget is None:
            return True
        expected = self.teacher.prices.dollars(
            request.prompt_tokens(), self.teacher.expected_completion_tokens
        )
        self.dearest = max(self.dearest, expected)
        under_way = sum(client.limits.active for client in self.clients.values())
        return self.spent + under_way * self.dearest <= self.budget


def weigh(
    teacher: Teacher, endpoint: str, answer: Reply | Retry, attempt: int
) -> tuple[str, Reply, float, bool]:
    """Kind of the end of an attempt, the reply that it makes, its dollars (without any discount),
    and whether the query is asked again."""
    left = attempt < teacher.attempts
    if isinstance(answer, Retry):
        return answer.kind, Reply("failed", endpoint, error=answer.kind), 0.0, left
    cost = teacher.prices.dollars(answer.prompt_tokens, answer.completion_tokens)
    return answer.outcome, answer, cost, left and teacher.policy(answer.outcome) == "again"


def _adapt(limits: Limits, answer: Reply | Retry, estimate: int) -> None:
    if isinstance(answer, Reply):
        limits.answered(estimate, answer.prompt_tokens + answer.completion_tokens)
    elif answer.kind == "429":
        limits.refused(answer.after)
    else:
        limits.failed()


def _pause(attempt: int, after: float | None) -> float:
    """Seconds before the next attempt: what the server asked for, or doubling with jitter."""
    own = min(LONGEST_PAUSE, 0.5 * 2 ** (attempt - 1))
    return max(after or 0.0, own * random.uniform(0.5, 1.5))


def unanswered(batches: Iterator[Sequence[Request]], ledger: Ledger) -> Iterator[Request]:
    """The requests of the batches that have no outcome in the ledger."""
    for batch in batches:
        yield from ledger.unanswered(list(batch))
