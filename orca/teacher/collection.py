"""A collection from beginning to end: what collect.py runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca.errors import Unfinished, UserError
from orca.mixture.query_set import MANIFEST
from orca.mixture.sampling import check_number
from orca.teacher.ask import Asking, unanswered
from orca.teacher.batch import LOST, Batching
from orca.teacher.batch_ledger import BatchLedger, check_no_batches
from orca.teacher.gates import Gate, run_gates
from orca.teacher.ledger import Ledger
from orca.teacher.plan import Plan, plan, plan_report, remaining_report
from orca.teacher.progress import Progress, show_progress
from orca.teacher.queries import count_requests, read_requests
from orca.teacher.report import collection_report, ledger_facts, save_report, summary
from orca.teacher.request import Request
from orca.teacher.settings import Teacher
from orca.teacher.shards import Shards


@dataclass(frozen=True)
class Collection:
    """What is asked, of whom, and where it goes: the options of conf/collect.yaml.

    Args:
        gates: by name, in their order.
        gates_config: their configuration, which says whether they are those of an earlier program.
        new_logger: makes the logger that gets the metrics; None: there is none.

    Raises:
        UserError: an option that cannot be.
    """

    teacher: Teacher
    queries: Path
    out: Path
    gates: Mapping[str, Gate]
    gates_config: Any
    new_logger: Callable[[], Any] | None = None
    limit: int | None = None
    budget_usd: float | None = None
    ask_again: Sequence[str] = ()
    student_system_message: str | None = None
    batch: bool = False
    batch_tokens: int | None = None
    batch_poll: float = 30.0

    def __post_init__(self) -> None:
        for name in ("limit", "batch_tokens"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value)
        if not isinstance(self.batch_poll, int | float) or not self.batch_poll > 0:
            raise UserError(f"batch_poll={self.batch_poll}: seconds, more than 0")
        if not isinstance(self.ask_again, list | tuple):
            raise UserError(f"ask_again={self.ask_again}: a list, as [failed]")
        message = self.student_system_message
        if not isinstance(message, str | None):
            raise UserError(f"student_system_message={message}: a text, or null")
        if not isinstance(self.gates, Mapping):
            raise UserError("gates=null: gates=none leaves all out")
        self._check_budget()

    def _check_budget(self) -> None:
        budget = self.budget_usd
        if budget is None:
            return
        if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
            raise UserError(f"budget_usd={budget!r}: US dollars, more than 0, or null")
        if not self.teacher.prices.dollars(1, 1):
            raise UserError("budget_usd: the prices of this teacher are 0 (teacher.prices)")

    def plan(self) -> str:
        """Requests, tokens, dollars and days, before anything is sent: of the whole, and of what
        remains where a ledger has some of it."""
        whole = self._plan(one for batch in self._batches() for one in batch)
        if not self._ledger_file.exists():
            return plan_report(whole)
        try:
            ledger = self._open_ledger()
        except UserError as error:
            return f"{plan_report(whole)}\nwhat remains of it is unknown: {error}"
        try:
            rest = self._plan(unanswered(self._batches(), ledger))
            remains = remaining_report(rest, whole, ledger.total("dollars"), ledger.path)
        finally:
            ledger.close()
        return f"{plan_report(whole)}\n{remains}"

    def _plan(self, requests: Iterator[Request]) -> Plan:
        length = self.teacher.expected_completion_tokens
        return plan(requests, self.teacher, length, self.batch)

    def _batches(self) -> Iterator[list[Request]]:
        return read_requests(self.queries, self.limit)

    @property
    def _ledger_file(self) -> Path:
        return self.out / "ledger.sqlite"

    def _open_ledger(self) -> Ledger:
        return Ledger(self._ledger_file, ledger_facts(self.teacher, self.queries))

    def run(self) -> None:
        """Ask, and write what was answered, whatever ends it.

        Raises:
            UserError: something must be changed first, a larger budget for example.
            Unfinished: it was stopped, and can go on.
        """
        for endpoint in self.teacher.endpoints.values():
            endpoint.key()
        if (self.out / MANIFEST).exists():
            raise UserError(f"out={self.out} is a query set: give another directory")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"out={self.out} cannot be a directory: {error.strerror}") from None
        ledger = self._open_ledger()
        try:
            self._collect(ledger)
        finally:
            ledger.close()

    def _collect(self, ledger: Ledger) -> None:
        self._prepare(ledger)
        teacher = self.teacher
        keep, message = set(teacher.traced), self.student_system_message
        shards = Shards(ledger, self.out, teacher.name, keep, message)
        shards.write()
        total, before = count_requests(self.queries, self.limit), self._done(ledger)
        asking = self._asking(ledger)
        progress = Progress(asking, total, before)
        try:
            asyncio.run(self._ask(asking, progress, shards))
        finally:
            ledger.end_interrupted()
            traces, _ = shards.write()
            report = collection_report(ledger, teacher, self.queries, traces)
            save_report(report, self.out)
            print(summary(report, self.out), flush=True)
        if not asking.complete:
            self._say_why(asking, ledger)

    def _prepare(self, ledger: Ledger) -> None:
        """Bring what the ledger has to what the options say now, and tell what that changes."""
        if other := ledger.judge(self.gates_config, self._judge):
            print(f"the gates are other than before: {other:,} responses are judged otherwise")
        models = sorted({endpoint.model for endpoint in self.teacher.endpoints.values()})
        if (before := ledger.facts().get("models", models)) != models:
            print(f"the models are {models}, and were {before}: the traces' column model tells")
        ledger.note("models", models)
        if again := ledger.withdraw(one for one in self.ask_again if one != LOST):
            print(f"{again:,} queries are asked again")
        there_are = ledger.counts("outcome")
        for outcome in ("length", "content_filter"):
            if self.teacher.policy(outcome) == "again" and (kept := there_are.get(outcome)):
                print(
                    f"{kept:,} queries whose answers ended by {outcome} keep that outcome: "
                    f"teacher.on_{outcome}=again holds for answers that are yet to come"
                )

    def _done(self, ledger: Ledger) -> int:
        """How many of the queries have their outcome."""
        if self.limit is None:  # all that the ledger has are of this query set
            return sum(ledger.counts("outcome").values())
        return sum(ledger.done(batch) for batch in self._batches())

    def _judge(self, request: Request, text: str) -> tuple[str, str] | None:
        return run_gates(self.gates.values(), request, text)

    def _asking(self, ledger: Ledger) -> Asking | Batching:
        def requests() -> Iterator[Request]:
            return unanswered(self._batches(), ledger)

        if not self.batch:
            check_no_batches(ledger)
            return Asking(self.teacher, ledger, requests(), self._judge, self.budget_usd)
        return Batching(
            self.teacher,
            ledger,
            requests,
            self._judge,
            self.budget_usd,
            tokens=self.batch_tokens,
            poll=self.batch_poll,
            give_up=LOST in self.ask_again,
        )

    async def _ask(self, asking: Asking | Batching, progress: Progress, shards: Shards) -> None:
        logger = self.new_logger() if self.new_logger else None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, asking.stop)
        log = logger.log_metrics if logger else None
        print("\n".join(progress.opening()), flush=True)
        showing = asyncio.create_task(
            show_progress(progress, log, each=lambda: shards.write_whole(asking.outcomes.total()))
        )

        def end(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                asking.fail(task.exception())

        showing.add_done_callback(end)
        try:
            await asking.run()
        finally:
            showing.cancel()
            if logger:
                progress.look()
                logger.log_metrics(progress.metrics(), asking.outcomes.total())
                logger.finalize("success")

    def _say_why(self, asking: Asking | Batching, ledger: Ledger) -> None:
        """Raise what says why there are queries without an outcome."""
        if asking.out_of_money:
            raise UserError(
                f"budget_usd={self.budget_usd} has no room for another answer: "
                f"${asking.spent:,.2f} spent, ${asking.perhaps:,.2f} perhaps charged for answers "
                "that never came; a larger one goes on"
            )
        batches = len(BatchLedger(ledger).open())
        more = f"; {batches} batches go on at the server" if batches else ""
        raise Unfinished(f"stopped{more}: the same command goes on")
