"""Ask a teacher the queries of a query set and write explanation traces.

    python collect.py teacher=gpt4 queries=queries/flan/flan1m plan=true    # dollars and days first
    python collect.py teacher=local teacher.endpoints.local.model=NAME queries=queries/mini/flan1m
    python collect.py teacher=gpt4 queries=queries/flan/flan1m out=traces/gpt4 budget_usd=50
    python collect.py teacher=gpt4 queries=queries/flan/flan1m out=traces/gpt4 batch=true

The same command goes on where an earlier one ended. Options are in conf/collect.yaml.
"""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Iterator
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from orca.config import check_config, run_program
from orca.errors import Unfinished, UserError
from orca.mixture.query_set import MANIFEST
from orca.mixture.sampling import check_number
from orca.teacher import (
    Asking,
    Batching,
    Ledger,
    Progress,
    Shards,
    Teacher,
    collection_report,
    count_requests,
    ledger_facts,
    plan,
    plan_report,
    read_requests,
    run_gates,
    save_report,
    show_progress,
    summary,
    unanswered,
)
from orca.teacher.batch import LOST, check_no_batches
from orca.teacher.batch_ledger import BatchLedger
from orca.teacher.request import Request

OPTIONS = (
    "teacher", "gates", "logger", "queries", "out", "limit", "budget_usd", "plan", "ask_again",
    "student_system_message", "batch", "batch_tokens", "batch_poll", "run", "paths",
)  # fmt: skip


def main(config: DictConfig) -> None:
    """Ask, and write what was answered, whatever ends the program."""
    check_config(config, OPTIONS)
    teacher: Teacher = instantiate(config.teacher, _convert_="all")
    _check(config, teacher)
    queries, out = Path(config.queries), Path(config.out)
    if config.plan:
        batches = read_requests(queries, config.limit)
        requests = (request for batch in batches for request in batch)
        length = teacher.expected_completion_tokens
        print(plan_report(plan(requests, teacher, length, config.batch)))
        return
    if (out / MANIFEST).exists():
        raise UserError(f"out={out} is a query set: give another directory")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be a directory: {error.strerror}") from None
    ledger = Ledger(out / "ledger.sqlite", ledger_facts(teacher, queries))
    try:
        collect(config, teacher, ledger, queries, out)
    finally:
        ledger.close()


def collect(config: DictConfig, teacher: Teacher, ledger: Ledger, queries: Path, out: Path) -> None:
    gates = instantiate(config.gates, _convert_="all")
    gate = functools.partial(run_gates, list(gates.values()))
    if other := ledger.judge(OmegaConf.to_container(config.gates, resolve=True), gate):
        print(f"the gates are other than before: {other:,} responses are judged otherwise")
    models = sorted({endpoint.model for endpoint in teacher.endpoints.values()})
    if (before := ledger.facts().get("models", models)) != models:
        print(f"the models are {models}, and were {before}: the traces' column model tells")
    ledger.note("models", models)
    if again := ledger.withdraw(one for one in config.ask_again if one != LOST):
        print(f"{again:,} queries are asked again")
    keep = {"finished", *(one for one in ("length",) if teacher.policy(one) == "keep")}
    shards = Shards(ledger, out, teacher.name, keep, config.student_system_message)
    shards.write()

    def requests() -> Iterator[Request]:
        return unanswered(read_requests(queries, config.limit), ledger)

    asking: Asking | Batching
    budget, lost = config.budget_usd, LOST in config.ask_again
    if config.batch:
        tokens, poll = config.batch_tokens, config.batch_poll
        asking = Batching(teacher, ledger, requests, gate, budget, tokens, poll, lost)
    else:
        check_no_batches(ledger)
        asking = Asking(teacher, ledger, requests(), gate, budget)
    progress = Progress(asking, count_requests(queries, config.limit))
    try:
        asyncio.run(_ask(config, asking, progress, shards))
    finally:
        ledger.end_interrupted()
        traces, _ = shards.write()
        report = {**collection_report(ledger, teacher.name), "traces": traces}
        save_report(report, out)
        print(summary(report, out), flush=True)
    if not asking.complete:
        if asking.out_of_money:
            raise UserError(
                f"budget_usd={config.budget_usd} has no room for another answer: "
                f"${asking.spent:,.2f} spent, ${asking.perhaps:,.2f} perhaps charged for answers "
                "that never came; a larger one goes on"
            )
        batches = len(BatchLedger(ledger).open())
        more = f"; {batches} batches go on at the server" if batches else ""
        raise Unfinished(f"stopped{more}: the same command goes on")


async def _ask(
    config: DictConfig, asking: Asking | Batching, progress: Progress, shards: Shards
) -> None:
    logger = None
    if config.logger:  # logger=csv has none: the ledger has every figure
        logger = instantiate(config.logger, directory=config.out, name=config.run)
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


def _check(config: DictConfig, teacher: Teacher) -> None:
    if config.limit is not None:
        check_number("limit", config.limit)
    if config.batch_tokens is not None:
        check_number("batch_tokens", config.batch_tokens)
    if not isinstance(config.batch_poll, int | float) or not config.batch_poll > 0:
        raise UserError(f"batch_poll={config.batch_poll}: seconds, more than 0")
    if not isinstance(config.ask_again, ListConfig):
        raise UserError(f"ask_again={config.ask_again}: a list, as [failed]")
    if not isinstance(config.student_system_message, str | None):
        raise UserError(f"student_system_message={config.student_system_message}: a text, or null")
    if not isinstance(config.gates, DictConfig):
        raise UserError("gates=null: gates=none leaves all out")
    budget = config.budget_usd
    if budget is None:
        return
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
        raise UserError(f"budget_usd={budget!r}: US dollars, more than 0, or null")
    if not teacher.prices.dollars(1, 1):
        raise UserError("budget_usd: the prices of this teacher are 0 (teacher.prices)")


if __name__ == "__main__":
    run_program(main, "collect")
