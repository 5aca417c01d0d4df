"""The whole collection against a real server that limits and fails, killed and started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_answers import answer_to, key_of
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from orca.config import CONF_DIR, check_config
from orca.teacher import Ledger, Teacher
from orca.teacher.request import Request
from orca.traces import TraceSource

from .conftest import write_set

ROOT = Path(__file__).resolve().parents[2]
QUERIES = 300


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    requests = [
        Request(
            f"cot.{n:04d}",
            "You are an AI assistant." if n % 3 else "",
            f"What is {n} + {n}?",
            "cot",
            "cot_test",
            (str(2 * n),),
        )
        for n in range(QUERIES)
    ]
    return write_set(tmp_path_factory.mktemp("queries") / "set", requests)


def command(server: Any, queries: Path, out: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "collect.py"),
        "teacher=local",
        f"teacher.endpoints.local.base_url={server.base_url}",
        "teacher.endpoints.local.model=m",
        "teacher.timeout=3",
        "teacher.attempts=12",
        f"queries={queries}",
        f"out={out}",
        *options,
    ]


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_every_query_ends_once_whatever_the_server_does_and_whenever_it_is_killed(
    fault_server: Callable[..., Any], queries: Path, tmp_path: Path
) -> None:
    server = fault_server(faults=0.15, latency=0.1, hang=30, seed=3, slow=0.5)
    out = tmp_path / "traces"
    arguments = command(server, queries, out)
    kills = 0
    for asked in (60, 150):
        process = subprocess.Popen(
            arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(server.arrived()) < asked and process.poll() is None:
            time.sleep(0.05)
        kills += process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert kills == 2, "it ended before it was killed: the test would not test a kill"
    done = run(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    ledger = Ledger(out / "ledger.sqlite", {})
    rows = list(ledger.rows())
    assert sorted(row["query"] for row in rows) == [f"cot.{n:04d}" for n in range(QUERIES)]
    outcomes = Counter(row["outcome"] for row in rows)
    assert outcomes["finished"] > 0.9 * QUERIES
    for row in rows:
        if row["outcome"] == "finished":
            assert row["response"] == answer_to(row["text"]), "the answer is to another query"
    interrupted = ledger.counts("result", "ended").get("interrupted", 0)
    keys = {
        key_of(Request(row["query"], row["system_message"], row["text"]).messages()): row
        for row in rows
    }
    paid = Counter(line["key"] for line in server.paid())
    assert set(paid) <= set(keys)
    again = sum(paid.values()) - len(paid)
    assert interrupted > 0, "nothing was in flight: the kills tested nothing"
    assert again <= interrupted + ledger.counts("result", "ended").get("timeout", 0)
    traces = TraceSource("traces/*.parquet", "trace", str(out))
    assert len(traces) == outcomes["finished"]
    first = traces[0]
    assert first.response == answer_to(first.query) and first.teacher == "local"


def test_no_query_waits_for_a_slow_endpoint_while_another_is_free(
    fault_server: Callable[..., Any], queries: Path, tmp_path: Path
) -> None:
    fast, slow = fault_server(latency=0.05), fault_server(requests_per_minute=60)
    other = f"{{_target_: orca.teacher.Endpoint, base_url: '{slow.base_url}', model: m}}"
    done = run(command(fast, queries, tmp_path / "out", f"+teacher.endpoints.b={other}"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(fast.paid()) + len(slow.paid()) == QUERIES
    times = [line["arrived"] for line in fast.arrived() + slow.arrived()]
    assert 1 <= len(slow.paid()) <= 2 + (max(times) - min(times))
    assert max(times) - max(line["arrived"] for line in fast.arrived()) <= 1


def test_a_finished_collection_asks_nothing_again(
    fault_server: Callable[..., Any], queries: Path, tmp_path: Path
) -> None:
    server = fault_server(latency=0.01)
    arguments = command(server, queries, tmp_path / "out", "limit=40")
    assert run(arguments, tmp_path).returncode == 0
    assert len(server.paid()) == 40
    done = run(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(server.arrived()) == 40
    more = run(command(server, queries, tmp_path / "out", "limit=50"), tmp_path)
    assert more.returncode == 0 and len(server.arrived()) == 50


def test_the_budget_stops_cleanly_and_the_same_command_goes_on(
    fault_server: Callable[..., Any], queries: Path, tmp_path: Path
) -> None:
    server = fault_server(latency=0.05)
    prices = ["teacher.prices.completion=1000", "teacher.expected_completion_tokens=20"]
    out = tmp_path / "out"
    done = run(command(server, queries, out, *prices, "budget_usd=1.0"), tmp_path)
    assert done.returncode == 2, done.stderr
    assert "budget_usd=1.0 has no room for another answer" in done.stderr
    ledger = Ledger(out / "ledger.sqlite", {})
    spent, asked = ledger.total("dollars"), len(list(ledger.rows()))
    ledger.close()
    assert 0.5 < spent <= 1.0 and asked < QUERIES
    more = run(command(server, queries, out, *prices, "limit=100"), tmp_path)
    assert more.returncode == 0
    assert len(server.paid()) == max(100, asked), "nothing was paid twice"


def test_a_wrong_key_or_address_is_told_and_the_key_is_written_nowhere(
    queries: Path, tmp_path: Path, fault_server: Callable[..., Any]
) -> None:
    secret = "sk-planted-4711"
    server = fault_server(latency=0.01)
    variable = "teacher.endpoints.local.key_variable=ORCA_TEST_KEY"
    wandb = ["logger=wandb", "logger.mode=offline"]
    arguments = command(server, queries, tmp_path / "out", "limit=5", variable, *wandb)
    missing = run(arguments, tmp_path)
    assert missing.returncode == 2 and "ORCA_TEST_KEY is needed" in missing.stderr
    environment = {**os.environ, "ORCA_TEST_KEY": secret}
    done = subprocess.run(
        arguments, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    wrong = [a.replace("/v1", "/elsewhere") for a in arguments]
    refused = subprocess.run(
        wrong, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120
    )
    assert secret not in done.stdout + done.stderr + refused.stdout + refused.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in written}
    assert {".sqlite", ".parquet", ".json", ".md", ".wandb", ".log"} <= kinds, kinds
    assert not [path for path in written if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("group", "option"),
    [(g, f.stem) for g in ("teacher", "gates") for f in sorted((CONF_DIR / g).glob("*.yaml"))],
)
def test_every_option_of_the_groups_composes_into_the_program(group: str, option: str) -> None:
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        config = compose("collect", [f"{group}={option}", "queries=x"])
    if option == "evaluated":
        OmegaConf.update(config, "model_path", "m", force_add=True)  # evaluate.py has it
    if config.teacher.name == "local":
        config.teacher.endpoints.local.model = "m"
    check_config(config, list(config))
    assert isinstance(instantiate(config.teacher, _convert_="all"), Teacher)
    gates = instantiate(config.gates, _convert_="all")
    assert all(hasattr(gate, "reject") for gate in gates.values())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("limit=0", "limit=0: a whole number"),
        ("limit=2.5", r"limit=2\.5: a whole number"),
        ("budget_usd=-1", "budget_usd=-1: US dollars"),
        ("budget_usd=5", "the prices of this teacher are 0"),
        ("ask_again=[length]", "ask_again: 'length' is none of failed, rejected"),
        ("teacher.settings.stream=true", "stream"),
        ("teacher.nme=x", "nme"),
        ("out=${queries}", "is a query set: give another directory"),
    ],
)
def test_an_option_that_cannot_be_is_told_before_anything_is_sent(
    option: str, message: str, fault_server: Callable[..., Any], queries: Path, tmp_path: Path
) -> None:
    server = fault_server()
    done = run(command(server, queries, tmp_path / "out", option), tmp_path)
    assert done.returncode == 2 and re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr and not server.arrived()


def test_what_failed_is_asked_again_on_demand_and_other_settings_are_refused(
    fault_server: Callable[..., Any], queries: Path, tmp_path: Path
) -> None:
    """A server that is not there fails every query; the same command with ask_again gets them."""
    server, out = fault_server(), tmp_path / "out"
    options = ["limit=3", "teacher.attempts=2"]
    nowhere = [a.replace(str(server.port), "9") for a in command(server, queries, out, *options)]
    done = run(nowhere, tmp_path)
    assert done.returncode == 0 and "3 failed" in done.stdout, done.stderr
    assert "ask_again=[failed] asks what is failed once more" in done.stdout
    assert "not finished because of: 3 unreachable" in done.stdout
    assert "0 traces" in run(command(server, queries, out, *options), tmp_path).stdout
    assert not server.arrived()
    done = run(command(server, queries, out, *options, "ask_again=[failed]"), tmp_path)
    assert "3 queries are asked again" in done.stdout and "3 finished" in done.stdout, done.stderr
    other = run(command(server, queries, out, "teacher.settings.temperature=0.1"), tmp_path)
    assert other.returncode == 2 and "was begun with settings" in other.stderr


def test_plan_sends_nothing(
    fault_server: Callable[..., Any], queries: Path, tmp_path: Path
) -> None:
    server = fault_server()
    done = run(command(server, queries, tmp_path / "out", "plan=true"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "300" in done.stdout and not server.arrived()
    assert not (tmp_path / "out").exists()
