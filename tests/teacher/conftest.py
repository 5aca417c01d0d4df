"""Servers that fail, as processes, and query sets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orca.mixture.query import QUERY_SCHEMA
from orca.mixture.query_set import write_query_set
from orca.teacher.request import Request

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@dataclass(frozen=True)
class FaultServer:
    """A running benchmarks/fault_server.py or batch_server.py."""

    base_url: str
    log: Path
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return int(self.base_url.removesuffix("/v1").rpartition(":")[2])

    def arrived(self) -> list[dict[str, Any]]:
        """The log's lines of requests."""
        return [line for line in self.lines() if "arrived" in line]

    def paid(self) -> list[dict[str, Any]]:
        """The log's lines of answers that cost."""
        return [line for line in self.lines() if "time" in line]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def calls(self, call: str = "") -> int:
        """How many calls there were, as `POST /v1/batches`, of batch_server.py."""
        return sum(line.get("call", "-").startswith(call) for line in self.lines())


def write_set(out: Path, requests: Iterable[Request]) -> Path:
    """A query set of these requests."""
    rows = [
        {
            "id": one.id,
            "collection": one.collection,
            "task": one.task,
            "system_message_id": 16,
            "system_message": one.system_message,
            "query": one.query,
            "targets": list(one.targets),
        }
        for one in requests
    ]
    write_query_set(out, pa.Table.from_pylist(rows, QUERY_SCHEMA).to_batches(), {})
    return out


Start = Callable[..., FaultServer]


@pytest.fixture
def fault_server(tmp_path: Path) -> Iterator[Start]:
    """Starts servers, as in `fault_server(faults=0.2, latency=0.1)`, and kills them at the end."""
    yield from _servers("fault_server.py", tmp_path)


@pytest.fixture
def batch_server(tmp_path: Path) -> Iterator[Start]:
    """The same for servers of batches."""
    yield from _servers("batch_server.py", tmp_path)


def _servers(program: str, tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start(**options: Any) -> FaultServer:
        log = tmp_path / f"served_{len(processes)}.jsonl"
        command = [sys.executable, str(BENCHMARKS / program), "--log", str(log)]
        for name, value in options.items():
            for one in value if isinstance(value, list) else [value]:
                command += [f"--{name.replace('_', '-')}", str(one)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()  # empty when the process ended
        assert line.startswith("listening on "), "the server did not start"
        return FaultServer(line.split()[-1] + "/v1", log, process)

    yield start
    for process in processes:
        process.kill()
        process.communicate()
