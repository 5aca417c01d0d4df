"""A collector under load, killed again and again: three servers that limit and fail, and the
moments at which `collect.py` is SIGKILLed and started again with the same command."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil
import pyarrow as pa
import yaml
from load_evidence import Evidence, Limit

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
