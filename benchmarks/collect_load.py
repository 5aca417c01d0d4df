"""Does a collection that is killed again and again lose nothing, pay nothing twice, stay fast?

    python benchmarks/collect_load.py --kills 20 --directory /tmp/load
    python benchmarks/collect_load.py --kills 0 --directory /tmp/load

Three servers that limit and fail (:mod:`fault_server`), each with its own limits, and one
`collect.py` that asks them all. It is SIGKILLed, at moments spread over the run, and started again
with the same command, until it is left to end. Then :mod:`load_evidence` compares ledger and
traces with the servers' logs; the program fails where they differ. Memory is looked at every
second; a run with ``--kills 0`` shows how it goes on.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import sqlite3
from collections import Counter
from pathlib import Path

from load_evidence import REPEATED, Evidence, of_each, rates, stretches
from load_run import CONCURRENCY, LATENCY, LIMITS, MOMENTS, ROOT, SLOW, TIMEOUT, Run, collect


def page(options: argparse.Namespace, run: Run, evidence: Evidence) -> str:
    """The result page."""
    names = ("openai", "httpx", "pyarrow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    versions += f", SQLite {sqlite3.sqlite_version}"
    command = f"--queries {options.queries} --kills {options.kills}"
    command += f" --faults {options.faults:g} --seed {options.seed}"
    parts = [
        f"""# A collection under load, killed {options.kills} times

- Command: `python benchmarks/collect_load.py {command}`, {datetime.date.today().isoformat()}
- Hardware: {machine_name()}, which servers and collector share; load average at the end \
{os.getloadavg()[1]:.1f}, nice {os.nice(0)}
- Versions: Python {platform.python_version()}, {versions}
- Servers: three processes on loopback; {options.faults:.0%} of all admitted requests meet a \
fault, every kind among them; answers of 74 characters after {LATENCY:g} s in the mean \
(log-normal), `hang` until the client's timeout of {TIMEOUT:g} s, `slow` over {SLOW:g} s
- Collector: {CONCURRENCY} requests at once for each endpoint, gates=standard
""",
        invariants(run, evidence),
        throughput(run, evidence),
        memory_and_cpu(run, evidence),
    ]
    return "\n".join(parts)


def invariants(run: Run, evidence: Evidence) -> str:
    killed = Counter(run.kills)
    paid, results = evidence.times_paid(), evidence.results()
    again = paid.total() - len(paid)
    rows = "\n".join(f"| {name} | {n:,} |" for name, n in evidence.violations().items())
    had = evidence.paid_again()
    why = "\n".join(f"| {name} | {results[name]:,} | {had[name]:,} |" for name in REPEATED)
    return f"""## Nothing lost, nothing paid twice

SIGKILL: {", ".join(f"{killed[m]} while it {m}" for m in MOMENTS if killed[m]) or "none"}. \
{len(evidence.asked):,} queries came to {of_each(outcome for _, outcome, *_ in evidence.replies)}, \
by {len(evidence.sent):,} attempts.

| must be 0 | |
| --- | --- |
{rows}

The servers billed {paid.total():,} answers to {len(paid):,} queries: **{again:,} paid again**. \
The ledger's attempts after which a server may have been paid without the collector's knowing:

| result of the attempt | attempts | queries paid again that had one |
| --- | --- | --- |
{why}

All results: {of_each(evidence.ended.values())}.
"""


def throughput(run: Run, evidence: Evidence) -> str:
    spans, tail = stretches(run.lives, evidence)
    seconds = sum(end - start for start, end in spans)
    found = rates(evidence, LIMITS, spans)
    rows = ""
    for name, rate in found.items():
        limit = LIMITS[name]
        rows += f"| {name} | {limit.requests:,} | {limit.tokens:,} | {rate.passed / seconds:.1f} "
        rows += f"| {rate.refused:,} | {rate.requests_share:.1%} | {rate.tokens_share:.1%} |\n"
    passed = sum(rate.passed for rate in found.values())
    allowed = sum(rate.allowed for rate in found.values())
    saved = allowed / seconds * len(spans)
    ended = [at for *_, at in evidence.replies]
    done = sum(any(a <= at <= b for a, b in spans) for at in ended)
    wall, rest = run.lives[-1][1] - run.lives[0][0], max(ended) - tail
    return f"""## Throughput

Over the {seconds:.0f} s in which a collector was there to ask: in each life from its first request
to its end, up to the moment at which every query had been sent once. What a server takes from its
limits counts, requests that then meet a fault too. Allowed is what the limit that binds lets pass
in these seconds. Not in it: the second's worth that a server saves while no collector lives,
{saved:,.0f} requests in {len(spans)} lives; with it the share is {passed / (allowed + saved):.1%}.

| endpoint | requests/min | tokens/min | passed/s | over a limit | of the requests | of the tokens |
| --- | --- | --- | --- | --- | --- | --- |
{rows}
Together {passed / seconds:.1f} requests/s passed of {allowed / seconds:.1f} allowed: \
**{passed / allowed:.1%}** (goal 95 %), and {done / seconds:.1f} queries/s came to their outcome.
The tail, in which only queries under way and asked again were left, took {rest:.1f} s. The whole
took {wall:.0f} s, {wall - seconds - rest:.0f} s of it starts and ends of {len(run.lives)} \
process(es).
"""


def memory_and_cpu(run: Run, evidence: Evidence) -> str:
    lives = [[p for p in life if p[0] < len(evidence.asked)] for life in run.memory]
    most = max(lives, key=lambda life: life[-1][0] - life[0][0] if life else -1)
    steady = most[len(most) // 2 :]
    tenths = [most[len(most) * n // 10] for n in range(1, 10)] + [most[-1]]
    rows = "\n".join(f"| {n:,} | {mib:.0f} |" for n, mib in dict(tenths).items())
    peak = max(mib for life in run.memory for _, mib in life)
    return f"""## Memory and processor

Resident memory of the process that asked most, once a second; {slope(steady):+.2f} MiB for 10,000 \
queries in the second half. The peak of all, writing traces included, is {peak:.0f} MiB.

| queries | MiB |
| --- | --- |
{rows}

{run.cpu:.0f} s of CPU for {len(run.lives)} process(es) with their starts: \
{run.cpu / len(evidence.sent) * 1e3:.2f} ms a request.
"""


def slope(points: list[tuple[int, float]]) -> float:
    """Least squares, for 10,000 queries."""
    if len({n for n, _ in points}) < 2:
        return float("nan")
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((n - x) ** 2 for n, _ in points)
    return 1e4 * sum((n - x) * (mib - y) for n, mib in points) / spread


def machine_name() -> str:
    from train_step_cpu import cpu_name  # takes torch, which nothing else here wants

    return cpu_name()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--faults", type=float, default=0.2, help="share of requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, required=True, help="emptied first")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args()
    run, evidence = collect(options)
    text = page(options, run, evidence)
    print(text)
    machine = "".join(c if c.isalnum() else "-" for c in machine_name().lower()).strip("-")
    name = f"collect_load_{options.kills}_kills_{machine}_{datetime.date.today().isoformat()}.md"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / name).write_text(text, encoding="utf-8")
    wrong = {name: n for name, n in evidence.violations().items() if n}
    if wrong:
        raise SystemExit(f"these must be 0: {wrong}")


if __name__ == "__main__":
    main()
