"""Asking through OpenAI's Batch API: upload, create, look, collect, and go on after any death.

A batch and its requests are in the ledger before the server hears of them. Where the answer to its
creation is lost (a kill, a timeout, a status of 500), the batch is looked for in the server's list,
by a token in its metadata or by its input file, before it is created once more. Two things are
assumed of the server: a batch is in the list when two polls have passed since the call that made it
was given up, and a creation that is answered with a status from 400 to 499 did not come about.
API: developers.openai.com/api/docs/guides/batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from openai.types import Batch as Remote

from orca.errors import UserError
from orca.teacher.ask import ALL_REJECTED
from orca.teacher.batch_client import BatchClient, NotNow, write_row
from orca.teacher.batch_ledger import Batch, BatchLedger, Waiting, over
from orca.teacher.batch_queue import Queue
from orca.teacher.client import Retry, redact
from orca.teacher.ledger import Judge, Ledger
from orca.teacher.records import Statement, ended, finished
from orca.teacher.request import Reply, Request
from orca.teacher.settings import Teacher
from orca.teacher.telling import tell
from orca.teacher.weigh import judged, weigh

FINAL = ("completed", "failed", "expired", "cancelled")
LOST = "lost"  # what becomes of a batch that the server does not know any more
LOOKS = 3  # at what the server does not have but should, before that is believed
FAULTS = 3  # batches in a row that fail at an endpoint before the program gives up
LINES = 1_000  # recorded together


class Batching:
    """One run over the queries by batches; what :class:`orca.teacher.ask.Asking` is for requests.

    Args:
        read: begins a pass over the queries without outcome that wait in no batch.
        tokens: most estimated prompt tokens in an endpoint's queue; None: not known, then one batch
            after the other is sent, until the server says that it is too much.
        poll: seconds between looks.
        give_up: batches that the server does not know any more are lost; their queries are free.

    Raises:
        UserError: an endpoint is Azure's, or batches are open at one that the teacher has not.
    """

    def __init__(
        self,
        teacher: Teacher,
        ledger: Ledger,
        read: Callable[[], Iterator[Request]],
        judge: Judge,
        budget: float | None = None,
        tokens: int | None = None,
        poll: float = 30.0,
        give_up: bool = False,
    ) -> None:
        self.teacher, self.ledger, self.read, self.judge = teacher, ledger, read, judge
        self.budget, self.poll, self.give_up = budget, poll, give_up
        self.batches = BatchLedger(ledger)
        _check(teacher, self.batches.open())
        self.clients: dict[str, BatchClient] = {}  # by endpoint, none before the run
        self.outcomes = Counter(ledger.counts("outcome"))
        self.results: dict[str, Counter[str]] = {name: Counter() for name in teacher.endpoints}
        self.done = dict.fromkeys(teacher.endpoints, 0)
        self.spent = ledger.total("dollars")
        self.stopped = self.complete = False
        self.later = 0  # no query waits on its own
        self.perhaps = ledger.perhaps()
        self.queue = Queue(teacher, self.batches, budget, tokens)
        self._seen: dict[int, Remote] = {}  # by number
        self._looks: Counter[int] = Counter()
        self._results: dict[int, Counter[str]] = {}  # of a batch's lines, in this program
        self._faults: Counter[str] = Counter()
        self._told: dict[int, str] = {}  # what a batch waits for, told once
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Go on until every query has its outcome, the budget is spent or :meth:`stop` was called.

        Raises:
            UserError: an endpoint refuses, batches fail one after the other, or a batch is gone.
        """
        endpoints = self.teacher.endpoints.items()
        self.clients = {name: BatchClient(name, one, self.teacher) for name, one in endpoints}
        self.queue.begin(self.read())
        try:
            while not self.stopped:
                for batch in self.batches.open():
                    await self._advance(batch)
                while not self.stopped and (
                    new := self.queue.cut(self._taken(), self.spent + self.perhaps)
                ):
                    await self._advance(new)
                if self.batches.open():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stop.wait(), self.poll)
                elif self.queue.freed and not self.queue.out_of_money:
                    self.queue.begin(self.read())
                else:
                    self.complete = not self.stopped and not self.queue.out_of_money
                    break
        finally:
            for client in self.clients.values():
                await client.close()
        if self._failure is not None:
            raise self._failure

    @property
    def out_of_money(self) -> bool:
        """The budget ended the run."""
        return self.queue.out_of_money

    def stop(self) -> None:
        """Do nothing more: batches go on at the server."""
        self.stopped = True
        self._stop.set()

    def fail(self, error: BaseException | None) -> None:
        """End as with :meth:`stop`, and let :meth:`run` raise the error."""
        self._failure = self._failure or error
        self.stop()

    def state(self, endpoint: str) -> str:
        """How far the endpoint's batches are, in words."""
        mine = [batch for batch in self.batches.open() if batch.endpoint == endpoint]
        counts = [c for b in mine if (s := self._seen.get(b.number)) and (c := s.request_counts)]
        return (
            f"{len(mine)} batches under way: {sum(one.completed for one in counts):,} answered and "
            f"{sum(one.failed for one in counts):,} failed of {sum(b.requests for b in mine):,}"
        )

    async def _advance(self, batch: Batch) -> None:
        if self.stopped:
            return
        fault = ""
        try:
            await (self._create(batch) if batch.remote is None else self._look(batch))
        except NotNow as error:
            fault = str(error)
        if fault and fault != self._told.get(batch.number):
            where = f"batch {batch.number} at {batch.endpoint}"
            tell(f"{where}: {fault}; tried again every {self.poll:g} s")
        self._told[batch.number] = fault

    def _taken(self) -> set[int]:
        """Batches that the server has found valid."""
        return {number for number, one in self._seen.items() if one.status != "validating"}

    async def _create(self, batch: Batch) -> None:
        client, file = self.clients[batch.endpoint], batch.file
        if batch.tried is not None:
            if time.time() - batch.tried < 2 * self.poll:
                return
            if found := await client.find(file, batch.token):
                self._created(batch, found)
                return
        if file is None:
            waiting = self.batches.waiting(batch).items()
            name = batch.endpoint
            lines = [write_row(n, one.request, name, self.teacher) + b"\n" for n, one in waiting]
            file = await client.upload(f"orca_batch_{batch.number}.jsonl", b"".join(lines))
            self.batches.set(batch, file=file)
        self.batches.set(batch, tried=time.time())
        try:
            self._created(batch, await client.create(file, batch.token))
        except NotNow as error:
            self.batches.set(batch, tried=None if error.sure else time.time())
            raise
        except UserError:
            self.batches.set(batch, tried=None, file=None)
            raise

    def _created(self, batch: Batch, remote: str) -> None:
        self.batches.set(batch, remote=remote)
        tell(f"batch {batch.number} at {batch.endpoint}: {batch.requests:,} requests, {remote}")

    async def _look(self, batch: Batch) -> None:
        assert batch.remote is not None
        client = self.clients[batch.endpoint]
        remote = await client.look(batch.remote)
        if remote is None:
            self._gone(batch, f"batch {batch.remote}")
            return
        self._seen[batch.number] = remote
        if remote.status not in FINAL:
            return
        for file in (remote.output_file_id, remote.error_file_id):
            if not file:  # null, or empty
                continue
            lines = await client.lines(file)
            if lines is None:
                self._gone(batch, f"file {file} of batch {batch.remote}")
                return
            for start in range(0, len(lines), LINES):
                self._record_lines(batch, lines[start : start + LINES])
        if remote.status == "failed":
            self._failed(batch, remote)
            return
        left = self.batches.waiting(batch)
        if left and self._looks[batch.number] < LOOKS:
            self._looks[batch.number] += 1
            raise NotNow(f"{remote.status}, and {len(left):,} requests have no line")
        missing = "missing" if remote.status == "completed" else f"batch_{remote.status}"
        self._record(batch, left, dict.fromkeys(left, Retry(missing)))
        self.batches.close(batch, remote.status)
        self._ended(batch, remote.status)

    def _record_lines(self, batch: Batch, lines: Iterable[bytes]) -> None:
        answers: dict[int, Reply | Retry] = {}
        client, latency = self.clients[batch.endpoint], time.time() - batch.at
        for line in lines:
            if (found := client.read_row(line, latency)) is not None:
                answers.setdefault(*found)
        self._record(batch, self.batches.waiting(batch, answers), answers)

    def _record(
        self, batch: Batch, waiting: dict[int, Waiting], answers: Mapping[int, Reply | Retry]
    ) -> None:
        """Record the end of these attempts together."""
        statements: list[Statement] = []
        results: Counter[str] = Counter()
        outcomes: Counter[str] = Counter()
        spent = 0.0
        for number, one in waiting.items():
            answer = answers[number]
            kind, reply, full, again = weigh(
                self.teacher, batch.endpoint, answer, one.request, one.attempt
            )
            results[kind] += 1
            spent += (cost := full * (1 - self.teacher.prices.batch_discount))
            if again:
                statements += over(batch, number, ended(number, kind, reply, cost))
                self.queue.again(one.request, one.attempt + 1)
                continue
            found, fault = judged(self.judge, one.request, reply)
            if fault is not None:
                self.fail(fault)
            last = finished(number, one.request, reply, cost, one.attempt, found)
            statements += over(batch, number, *last)
            outcomes[reply.outcome] += 1
        self.ledger.write(statements)
        self.spent += spent
        self.outcomes += outcomes
        self.results[batch.endpoint] += results
        self.done[batch.endpoint] += outcomes.total()
        self._results.setdefault(batch.number, Counter()).update(results)

    def _ended(self, batch: Batch, status: str) -> None:
        self._faults[batch.endpoint] = 0
        results = self._results.pop(batch.number, Counter())
        words = ", ".join(f"{n:,} {kind}" for kind, n in results.most_common())
        tell(f"batch {batch.number} at {batch.endpoint}: {status}: {words or 'nothing new'}")
        if results["rejected"] + results["refused"] == results.total() >= ALL_REJECTED:
            raise UserError(
                f"endpoint {batch.endpoint} rejects every request of a batch: see report.md and "
                "teacher.settings; ask_again=[rejected] asks them once more"
            )

    def _failed(self, batch: Batch, remote: Remote) -> None:
        """The server did not take the batch: its queries are free, and no attempt is lost."""
        errors = (remote.errors and remote.errors.data) or []
        too_much = any(one.code == "token_limit_exceeded" for one in errors)
        words = "; ".join(f"{one.code}: {one.message}" for one in errors[:3]) or "no reason given"
        words = redact(words, self.teacher.endpoints[batch.endpoint], 300)
        self.batches.close(batch, "failed", "token_limit_exceeded" if too_much else "batch_failed")
        self.queue.freed = True
        where = f"batch {batch.number} at {batch.endpoint} failed ({words})"
        if too_much:
            most = self.queue.lower(batch)
            tell(f"{where}: at most {most:,} tokens are queued from now on; see batch_tokens")
            return
        self._faults[batch.endpoint] += 1
        if self._faults[batch.endpoint] == FAULTS:
            raise UserError(f"{where}, the {FAULTS}. in a row; nothing of them is paid or lost")
        tell(f"{where}: its queries are sent again")

    def _gone(self, batch: Batch, what: str) -> None:
        self._looks[batch.number] += 1
        if self._looks[batch.number] < LOOKS:
            raise NotNow(f"the server does not know {what} (404)")
        if not self.give_up:
            raise UserError(
                f"endpoint {batch.endpoint} does not know {what} (404): give the key of the "
                "project that made it; if it is lost, ask_again=[lost] asks its queries once more"
            )
        self.batches.close(batch, LOST, LOST)
        self.queue.freed = True
        tell(f"batch {batch.number} at {batch.endpoint} is lost; its queries are asked again")


def _check(teacher: Teacher, batches: Iterable[Batch]) -> None:
    for name, endpoint in teacher.endpoints.items():
        if endpoint.kind != "openai":
            raise UserError(
                f"teacher.endpoints.{name}.kind={endpoint.kind}: batches go to Azure by its v1 "
                "API: kind=openai and base_url=https://RESOURCE.openai.azure.com/openai/v1"
            )
    for batch in batches:
        if batch.endpoint not in teacher.endpoints:
            raise UserError(
                f"batch {batch.number} is open at endpoint {batch.endpoint}, which is not in "
                "teacher.endpoints: give it as before"
            )
