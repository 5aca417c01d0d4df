"""Asking all queries: work shared out to the endpoints, retries, money, an orderly end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence

from orca.teacher.client import Client, Refused, Retry
from orca.teacher.ledger import UNKNOWN, Judge, Ledger
from orca.teacher.limits import LONGEST_PAUSE, Limits
from orca.teacher.request import Reply, Request
from orca.teacher.settings import Teacher
from orca.teacher.telling import tell
from orca.teacher.weigh import judged, weigh
from orca.teacher.work import Task, Work

ALL_REJECTED = 20  # in a row, of an endpoint that never answered: the settings are wrong
ALL_REFUSED = 5  # in a row, of an endpoint that has answered: it does not any more
WAIT_FOR_MONEY = 0.5  # seconds


class Asking:
    """One run over the queries.

    Args:
        judge: says which responses are set aside.
        budget: US dollars, of all programs that added to the ledger together; None: no limit.

    Attributes:
        clients: endpoints that are asked, by name.
        outcomes: how many queries have come to which outcome, in all programs together.
        results: how the attempts of this program ended, by endpoint.
        done: queries that this program brought to their outcome, by endpoint.
        spent: dollars of answers so far, of all programs together.
        perhaps: dollars of requests without an answer, which the server may have charged.
        out_of_money: the budget ended the run.
        failure: what ended the run before its time.
    """

    def __init__(
        self,
        teacher: Teacher,
        ledger: Ledger,
        requests: Iterator[Request],
        judge: Judge,
        budget: float | None = None,
    ) -> None:
        self.teacher = teacher
        self.ledger = ledger
        self.clients = {name: Client(name, one, teacher) for name, one in teacher.endpoints.items()}
        self.work = Work(requests)
        self.judge = judge
        self.budget = budget
        self.outcomes = Counter(ledger.counts("outcome"))
        self.results: dict[str, Counter[str]] = {name: Counter() for name in self.clients}
        self.done = dict.fromkeys(self.clients, 0)
        self.spent = ledger.total("dollars")
        self.perhaps = ledger.perhaps()
        self.failure: BaseException | None = None
        self.out_of_money = False
        self._told_to_stop = False
        self._reserved: dict[int, float] = {}  # dollars of each query that is under way
        self._longest = teacher.expected_completion_tokens  # answer so far
        self._answered = {name: ledger.answered(name) for name in self.clients}
        self._in_a_row: Counter[tuple[str, str]] = Counter()  # of an endpoint, refused or rejected
        self._servers: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def complete(self) -> bool:
        """Every query has its outcome."""
        return self.work.complete

    @property
    def later(self) -> int:
        """Queries that wait to be asked again."""
        return self.work.later

    async def run(self) -> None:
        """Ask until every query has its outcome, the budget is spent or :meth:`stop` was called.

        Raises:
            UserError: every endpoint refuses, no request is valid, or the ledger cannot be
                written.
        """
        clients = list(self.clients.values())
        self._servers = [asyncio.create_task(self._serve(client)) for client in clients]
        await asyncio.gather(*self._servers, return_exceptions=True)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in clients))
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Send nothing more and wait for what is under way; the second time not even that."""
        if self._told_to_stop:
            for task in self._tasks:
                task.cancel()
        elif self._tasks:
            tell(
                f"stopping: the answers of {len(self._tasks)} requests under way are waited for "
                f"(at most {self.teacher.timeout:g} s); Ctrl-C again gives them up, and they may "
                "be charged"
            )
        self._told_to_stop = True
        self._end_serving()

    def _end_serving(self) -> None:
        self.work.stop()
        for server in self._servers:
            server.cancel()

    def fail(self, error: BaseException | None) -> None:
        """Send nothing more, and let :meth:`run` raise the error."""
        self.failure = self.failure or error
        self._end_serving()

    def state(self, endpoint: str) -> str:
        """What the endpoint is doing, in words."""
        if (client := self.clients.get(endpoint)) is None:
            return "left out: it refuses"
        down = ", down" if client.limits.down else ""
        return f"{client.limits.active} of {int(client.limits.window)} under way{down}"

    async def _serve(self, client: Client) -> None:
        try:
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
        except Exception as error:  # reading the queries
            self.fail(error)

    async def _ask(self, client: Client, task: Task) -> None:
        try:
            await self._ask_once(client, task)
        except asyncio.CancelledError:
            self.work.done()
        except BaseException as error:
            self.work.done()
            self.fail(error)
        finally:
            client.limits.leave()

    async def _ask_once(self, client: Client, task: Task) -> None:
        request = task.request
        estimate = request.prompt_tokens() + (self.teacher.max_tokens or 0)
        client.limits.spend(estimate)
        if self.work.stopped:
            self.work.done()
            return
        if client.name not in self.clients:
            self.work.again(task, 0.0, task.attempt)
            return
        dollars = self._most(request)
        if self.budget is not None and self._used() + dollars > self.budget:
            self._wait_for_money(task)
            return
        self._reserved[task.number] = dollars
        try:
            await self._send(client, task, estimate)
        finally:
            del self._reserved[task.number]

    async def _send(self, client: Client, task: Task, estimate: int) -> None:
        request = task.request
        hashed, expected = request.hash(self.teacher), self._expected(request)
        number = await self.ledger.send(request, hashed, client.name, task.attempt, expected)
        try:
            answer = await client.ask(request)
        except Refused as refused:
            await self._refused(client, number, task, refused)
            return
        self._in_a_row[client.name, "refused"] = 0
        _adapt(client.limits, answer, estimate)
        if isinstance(answer, Reply) and self._is_wrong(client.name, answer):
            await self._rejected(client, number, task, answer)
            return
        await self._end(client, number, task, answer)

    async def _refused(self, client: Client, number: int, task: Task, refused: Refused) -> None:
        """An endpoint that never answered, or does not any more, is left out; else it is this query
        that it refuses."""
        name = client.name
        self._in_a_row[name, "refused"] += 1
        if self._answered[name] and self._in_a_row[name, "refused"] < ALL_REFUSED:
            await self._end(client, number, task, Retry(str(refused.status)))
            return
        await self._record(client, number, task, "refused", Reply("failed", name, error="refused"))
        self._leave_out(client, refused)
        self.work.again(task, 0.0, task.attempt)

    def _is_wrong(self, endpoint: str, reply: Reply) -> bool:
        """Whether a rejection may be the fault of the settings, not of the query."""
        if reply.outcome != "rejected":
            self._answered[endpoint] = True
        return not self._answered[endpoint]

    async def _rejected(self, client: Client, number: int, task: Task, reply: Reply) -> None:
        """A query's rejection counts when its endpoint has answered another one."""
        name = client.name
        self._in_a_row[name, "rejected"] += 1
        last = task.attempt == self.teacher.attempts
        await self._record(client, number, task, "rejected", reply, last=last)
        if self._in_a_row[name, "rejected"] >= ALL_REJECTED:
            message = (
                f"endpoint {name} rejects every request ({reply.error}: {reply.reason!r}): see its "
                "model and teacher.settings"
            )
            self._leave_out(client, Refused(message, 400))
        if not last:
            self.work.again(task, _pause(task.attempt, None), task.attempt + 1)

    def _leave_out(self, client: Client, refused: Refused) -> None:
        if self.clients.pop(client.name, None) is None:
            return  # another of its requests said so before
        if not self.clients:
            raise refused
        rest = ", ".join(self.clients)
        tell(f"{refused}; going on without it: {rest}")

    async def _end(self, client: Client, number: int, task: Task, answer: Reply | Retry) -> None:
        """Record how the attempt ended; then ask again, or record what the query came to."""
        kind, reply, cost, again = weigh(
            self.teacher, client.name, answer, task.request, task.attempt
        )
        self.spent += cost
        self.perhaps += self._expected(task.request) if kind in UNKNOWN else 0.0
        self._longest = max(self._longest, reply.completion_tokens)
        # 429 from a server that answers nobody says nothing of the query.
        free = kind == "429" and client.limits.down
        await self._record(client, number, task, kind, reply, cost, last=not again)
        if again:
            pause = _pause(task.attempt, answer.after) if isinstance(answer, Retry) else 0.0
            self.work.again(task, pause, task.attempt + (not free))

    async def _record(
        self,
        client: Client,
        number: int,
        task: Task,
        kind: str,
        reply: Reply,
        dollars: float = 0.0,
        last: bool = False,
    ) -> None:
        """Count and write down how an attempt ended, and with the last one what its query came
        to."""
        self.results[client.name][kind] += 1
        if not last:
            await self.ledger.end(number, kind, reply, dollars)
            return
        found, fault = judged(self.judge, task.request, reply)
        await self.ledger.finish(number, task.request, reply, dollars, task.attempt, found)
        self.outcomes[reply.outcome] += 1
        self.done[client.name] += 1
        if fault is not None:
            raise fault
        self.work.done()

    # Money

    def _used(self) -> float:
        """Dollars that are gone, or may be when all that is under way has come."""
        return self.spent + self.perhaps + sum(self._reserved.values())

    def _expected(self, request: Request) -> float:
        length = self.teacher.expected_completion_tokens
        return self.teacher.prices.dollars(request.prompt_tokens(), length)

    def _most(self, request: Request) -> float:
        """Dollars of the longest answer that may come, or where that is not known, of the longest
        that came so far."""
        length = self.teacher.max_tokens or self._longest
        return self.teacher.prices.dollars(request.prompt_tokens(), length)

    def _wait_for_money(self, task: Task) -> None:
        """What is under way may turn out cheaper; without it the budget is spent."""
        if self._reserved:
            self.work.again(task, WAIT_FOR_MONEY, task.attempt)
            return
        self.out_of_money = True
        self.work.done()
        self._end_serving()


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
