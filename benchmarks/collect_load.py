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
import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil
import pyarrow as pa
import yaml
from load_evidence import REPEATED, Evidence, Limit, of_each, rates, stretches

from orca.mixture.query import QUERY_SCHEMA
from orca.mixture.query_set import write_query_set

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {  # a minute; a query and its answer are 148 tokens in the mean
    "requests_bind": Limit(7_200, 1_800_000),
    "tokens_bind": Limit(9_000, 720_000),
    "small": Limit(600, 180_000),
}
LATENCY, TIMEOUT, HANG, SLOW = 0.5, 5.0, 600.0, 2.0  # seconds; mean, as for a small model
CONCURRENCY = 128
MOMENTS = ("asks", "starts", "ends", "writes")
"""When a collector is killed: while it asks, in its first 6 s, in the last 2 % of the queries,
while it writes traces."""


@dataclass
class Run:
    """What happened.

    Attributes:
        lives: start and end of each process, Unix time.
        kills: in which moments.
        memory: (queries that the servers have settled, MiB resident) each second, by life.
        cpu: seconds of all collectors.
    """

    lives: list[tuple[float, float]] = field(default_factory=list)
    kills: list[str] = field(default_factory=list)
    memory: list[list[tuple[int, float]]] = field(default_factory=list)
    cpu: float = 0.0


class Progress:
    """How many queries the servers have settled: answered, or refused for good."""

    def __init__(self, logs: list[Path]) -> None:
        self._files: list[IO[bytes]] = [log.open("rb") for log in logs]
        self._rests = [b""] * len(logs)
        self._settled: set[str] = set()

    def settled(self) -> int:
        for n, file in enumerate(self._files):
            *lines, self._rests[n] = (self._rests[n] + file.read()).split(b"\n")
            for text in lines:
                line = json.loads(text)
                if "time" in line or line["fault"] in ("azure_filter", "too_long"):
                    self._settled.add(line["key"])
        return len(self._settled)


def write_queries(directory: Path, count: int, seed: int) -> None:
    """A set of queries of FLAN's lengths, log-normal with a mean of about 100 words."""
    chance = random.Random(seed)
    rows = [
        {
            "id": f"cot.{n:06d}",
            "collection": "cot",
            "task": "cot_load",
            "system_message_id": 16,
            "system_message": "You are an AI assistant." if n % 3 else "",
            "query": f"What is {n} + {n}? "
            + "word " * min(400, int(chance.lognormvariate(4, 0.8))),
            "targets": [str(2 * n)],
        }
        for n in range(count)
    ]
    write_query_set(directory, pa.Table.from_pylist(rows, QUERY_SCHEMA).to_batches(), {})


@contextlib.contextmanager
def servers(directory: Path, faults: float, seed: int) -> Iterator[dict[str, str]]:
    """The three servers; their addresses by endpoint."""
    processes, addresses = [], {}
    try:
        for name, limit in LIMITS.items():
            options = {
                "requests-per-minute": limit.requests,
                "tokens-per-minute": limit.tokens,
                "latency": LATENCY,
                "faults": faults,
                "hang": HANG,
                "slow": SLOW,
                "seed": seed,
                "name": name,
                "log": directory / f"{name}.jsonl",
            }
            command = [sys.executable, str(ROOT / "benchmarks/fault_server.py")]
            command += [f"--{option}={value}" for option, value in options.items()]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            assert processes[-1].stdout is not None
            addresses[name] = processes[-1].stdout.readline().split()[-1] + "/v1"
        yield addresses
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def collect_command(directory: Path, addresses: dict[str, str]) -> list[str]:
    """`collect.py` with a teacher of these endpoints, which know their limits."""
    teacher = yaml.safe_load((ROOT / "conf/teacher/local.yaml").read_text())
    (one,) = teacher["endpoints"].values()
    teacher["endpoints"] = {
        name: {
            **one,
            "base_url": address,
            "model": "load",
            "requests_per_minute": LIMITS[name].requests,
            "tokens_per_minute": LIMITS[name].tokens,
            "concurrency": CONCURRENCY,
        }
        for name, address in addresses.items()
    }
    teacher |= {"timeout": TIMEOUT, "attempts": 20}
    file = directory / "conf/teacher/load.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(teacher))
    return [
        *(sys.executable, str(ROOT / "collect.py"), "--config-dir", str(directory / "conf")),
        *("teacher=load", f"queries={directory / 'queries'}", f"out={directory / 'out'}"),
    ]


def moments(kills: int, queries: int, chance: random.Random) -> Iterator[tuple[str, int]]:
    """(moment, queries settled before it) of each kill, spread over the run."""
    late = kills // 10
    spread = ["starts"] * (kills // 5) + ["asks"] * (kills - kills // 5 - 2 * late)
    chance.shuffle(spread)
    for n, moment in enumerate(spread):
        yield moment, int(queries * (n + chance.uniform(0.5, 1)) / (len(spread) + 0.5))
    for moment in ["ends"] * late + ["writes"] * late:
        yield moment, int(queries * chance.uniform(0.98, 1)) if moment == "ends" else 0


def live(
    command: list[str],
    directory: Path,
    progress: Progress,
    run: Run,
    kill: tuple[str, int] | None,
    chance: random.Random,
) -> None:
    """Start a collector, and kill it at its moment; None: it is left to end."""
    began = time.time()
    with (directory / "collect.log").open("a") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        memory = _wait_for(kill, process, directory, progress, chance)
        if kill:
            time.sleep(chance.uniform(0, 0.02))
            if process.poll() is not None:
                raise SystemExit(f"it ended before it was killed while it {kill[0]}: more queries")
            run.kills.append(kill[0])
    finally:
        if kill or process.poll() is None:
            process.kill()
    if process.wait() and not kill:
        raise SystemExit(f"it failed:\n{(directory / 'collect.log').read_text()[-2000:]}")
    run.lives.append((began, time.time()))
    run.memory.append(memory)
    moment = kill[0] if kill else "to the end"
    print(f"life {len(run.lives)}: {moment}, {progress.settled():,} queries", flush=True)


def _wait_for(
    kill: tuple[str, int] | None,
    process: subprocess.Popen[bytes],
    directory: Path,
    progress: Progress,
    chance: random.Random,
) -> list[tuple[int, float]]:
    """Until it is time to kill, or it ended; (queries settled, MiB resident) each second."""
    moment, target = kill or ("", 0)
    began, seconds = time.time(), chance.uniform(0, 6) if moment == "starts" else math.inf
    memory: list[tuple[int, float]] = []
    watched = psutil.Process(process.pid)
    while process.poll() is None and time.time() < began + seconds:
        settled = progress.settled()
        if time.time() - began >= len(memory):
            with contextlib.suppress(psutil.NoSuchProcess):
                memory.append((settled, watched.memory_info().rss / 2**20))
        if moment in ("asks", "ends") and settled >= target:
            break
        if moment == "writes" and _writes(directory / "out/traces", began):
            break
        time.sleep(0.001 if moment == "writes" else 0.05)
    return memory


def _writes(traces: Path, began: float) -> bool:
    """Whether a file is being written by the process that began then, not left by one before."""
    with contextlib.suppress(FileNotFoundError):  # it got its name meanwhile
        return any(file.stat().st_mtime > began for file in traces.glob("*.partial"))
    return False


def collect(options: argparse.Namespace) -> tuple[Run, Evidence]:
    """The whole protocol."""
    directory: Path = options.directory.resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    write_queries(directory / "queries", options.queries, options.seed)
    chance, run = random.Random(options.seed), Run()
    logs = {name: directory / f"{name}.jsonl" for name in LIMITS}
    with servers(directory, options.faults, options.seed) as addresses:
        command = collect_command(directory, addresses)
        progress = Progress(list(logs.values()))
        for kill in [*moments(options.kills, options.queries, chance), None]:
            live(command, directory, progress, run, kill, chance)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)  # the servers are still there
        run.cpu = used.ru_utime + used.ru_stime
    evidence = Evidence.read(
        directory / "queries", directory / "out", logs, options.faults, options.seed
    )
    return run, evidence


def page(options: argparse.Namespace, run: Run, evidence: Evidence) -> str:
    """The result page."""
    from train_step_cpu import cpu_name  # takes torch, which nothing else here wants

    names = ("openai", "httpx", "pyarrow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    versions += f", SQLite {sqlite3.sqlite_version}"
    command = f"--queries {options.queries} --kills {options.kills}"
    command += f" --faults {options.faults:g} --seed {options.seed}"
    parts = [
        f"""# A collection under load, killed {options.kills} times

- Command: `python benchmarks/collect_load.py {command}`, {datetime.date.today().isoformat()}
- Hardware: {cpu_name()}, which servers and collector share; load average at the end \
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
    from train_step_cpu import cpu_name

    machine = "".join(c if c.isalnum() else "-" for c in cpu_name().lower()).strip("-")
    name = f"collect_load_{options.kills}_kills_{machine}_{datetime.date.today().isoformat()}.md"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / name).write_text(text, encoding="utf-8")
    wrong = {name: n for name, n in evidence.violations().items() if n}
    if wrong:
        raise SystemExit(f"these must be 0: {wrong}")


if __name__ == "__main__":
    main()
