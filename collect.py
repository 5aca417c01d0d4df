"""Ask a teacher the queries of a query set and write explanation traces.

    python collect.py teacher=gpt4 queries=queries/flan/flan1m plan=true    # dollars and days first
    python collect.py teacher=local teacher.endpoints.local.model=NAME queries=queries/mini/flan1m
    python collect.py teacher=gpt4 queries=queries/flan/flan1m out=traces/gpt4 budget_usd=50

The same command goes on where an earlier one ended. Options are in conf/collect.yaml.
"""

from __future__ import annotations

import asyncio
import functools
import signal
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from orca.config import check_config, run_program
from orca.errors import Unfinished
from orca.teacher import (
    Asking,
    Ledger,
    Teacher,
    ledger_facts,
    plan,
    plan_report,
    read_requests,
    run_gates,
    show_progress,
    summary,
    unanswered,
    write_rejected,
    write_traces,
)

OPTIONS = ("teacher", "gates", "queries", "out", "limit", "budget_usd", "plan", "paths")


def main(config: DictConfig) -> None:
    """Ask, and write what was answered, whatever ends the program."""
    check_config(config, OPTIONS)
    teacher: Teacher = instantiate(config.teacher, _convert_="all")
    queries = Path(config.queries)
    if config.plan:
        batches = read_requests(queries, config.limit)
        requests = (request for batch in batches for request in batch)
        print(plan_report(plan(requests, teacher, teacher.expected_completion_tokens)))
        return
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out / "ledger.sqlite", ledger_facts(teacher, queries))
    try:
        asking = asyncio.run(_ask(config, teacher, ledger, queries))
    finally:
        traces = write_traces(ledger, teacher.name, out)
        write_rejected(ledger, teacher.name, out)
        print(summary(ledger, traces, out), flush=True)
    if asking.work.stopped:
        why = "the budget is spent" if asking.out_of_money else "stopped"
        raise Unfinished(f"{why}: the same command goes on")


async def _ask(config: DictConfig, teacher: Teacher, ledger: Ledger, queries: Path) -> Asking:
    requests = unanswered(read_requests(queries, config.limit), ledger)
    gates = instantiate(config.gates, _convert_="all").values()
    gate = functools.partial(run_gates, list(gates))
    asking = Asking(teacher, ledger, requests, gate, config.budget_usd)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asking.stop)
    progress = asyncio.create_task(show_progress(asking))
    try:
        await asking.run()
    finally:
        progress.cancel()
    return asking


if __name__ == "__main__":
    run_program(main, "collect")
