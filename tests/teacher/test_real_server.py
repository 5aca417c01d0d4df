"""A real model behind a real OpenAI-compatible server answers, and training reads the answers."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from orca.errors import UserError
from orca.teacher import Endpoint, Ledger, Prices, Teacher
from orca.teacher.client import Client
from orca.teacher.request import Reply, Request
from orca.traces import Trace, TraceSource
from orca.training import Pretrained
from orca.training.embedded import write_embedded

from .conftest import write_set

ROOT = Path(__file__).resolve().parents[2]
MODEL = "models/smollm2"
START = 120.0  # seconds
MOST_TOKENS = 32
served = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")),
    reason="transformers serve needs pip install -e '.[serve]'",
)
SHORT = (
    "What is the capital of France?",
    "What is the capital of Spain?",
    "Say hello.",
    "What is the capital of Italy?",
)
LONG = "Write a long story about a dragon and a castle."


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, smollm2: Pretrained) -> Iterator[Path]:
    """A directory from which ``models/smollm2`` is the embedded model."""
    directory = tmp_path_factory.mktemp("served")
    write_embedded(directory / MODEL)
    yield directory
    shutil.rmtree(directory)  # half a gigabyte


@pytest.fixture(scope="module")
def base_url(directory: Path) -> Iterator[str]:
    """Address of a running ``transformers serve models/smollm2``."""
    log = directory / "serve.log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", MODEL]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0"],
            cwd=directory, env=environment, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield _address(process, log) + "/v1"
    finally:
        process.terminate()
        process.wait(30)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


def write_queries(out: Path) -> Path:
    brief = "You are an AI assistant. Answer briefly."
    requests = [
        Request(f"cot.{n}", "" if n % 2 else brief, query, "cot", "cot_test", ("unknown",))
        for n, query in enumerate((*SHORT, LONG))
    ]
    return write_set(out, requests)


def collect(base_url: str, model: str, queries: Path, out: Path) -> subprocess.CompletedProcess:
    options = [
        "teacher=local",
        f"teacher.endpoints.local.base_url={base_url}",
        f"teacher.endpoints.local.model={model}",
        "teacher.settings.temperature=0",  # the same answers every time
        f"teacher.settings.max_tokens={MOST_TOKENS}",
        "gates=none",
        f"queries={queries}",
        f"out={out}",
    ]
    return subprocess.run(
        [sys.executable, str(ROOT / "collect.py"), *options],
        cwd=out.parent, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def greedy_answers(model_directory: Path, traces: Iterable[Trace]) -> list[str]:
    """What the model itself says, without any server."""
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    model = AutoModelForCausalLM.from_pretrained(model_directory)
    answers = []
    for trace in traces:
        messages = [{"role": "user", "content": trace.query}]
        if trace.system_message:
            messages.insert(0, {"role": "system", "content": trace.system_message})
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        length = prompt["input_ids"].shape[1]
        tokens = model.generate(**prompt, do_sample=False, max_new_tokens=MOST_TOKENS)
        answers.append(tokenizer.decode(tokens[0, length:], skip_special_tokens=True))
    return answers


@served
def test_answers_of_a_real_model_become_traces_that_training_reads(
    base_url: str, directory: Path, tmp_path: Path
) -> None:
    queries, out = write_queries(tmp_path / "queries"), tmp_path / "out"
    done = collect(base_url, MODEL, queries, out)
    assert done.returncode == 0, done.stderr
    traces = {trace.query: trace for trace in TraceSource("traces/*.parquet", "trace", str(out))}
    assert set(traces) == set(SHORT), "the cut answer is no trace, every other one is"
    expected = greedy_answers(directory / MODEL, traces.values())
    assert [trace.response for trace in traces.values()] == expected
    assert {trace.teacher for trace in traces.values()} == {"local"}
    assert traces[SHORT[1]].system_message == "" != traces[SHORT[0]].system_message
    ledger = Ledger(out / "ledger.sqlite", {})
    rows = {row["text"]: row for row in ledger.rows()}
    assert {row["outcome"] for text, row in rows.items() if text != LONG} == {"finished"}
    cut = rows[LONG]
    assert (cut["outcome"], cut["completion_tokens"]) == ("length", MOST_TOKENS)
    assert all(row["prompt_tokens"] > 10 for row in rows.values())
    assert all(0 < row["completion_tokens"] <= MOST_TOKENS for row in rows.values())


@served
def test_another_model_name_is_rejected_in_the_words_of_the_server(base_url: str) -> None:
    """It serves one model, and its words name it: the only hint at what is wrong."""
    endpoint = Endpoint(base_url, "smollm2")
    client = Client("local", endpoint, Teacher("local", {"local": endpoint}, Prices(0, 0, "none")))
    reply = asyncio.run(client.ask(Request("cot.0", "", SHORT[0])))
    assert isinstance(reply, Reply) and reply.outcome == "rejected"
    assert MODEL in reply.reason


def test_the_served_directory_makes_the_server_heed_the_temperature(directory: Path) -> None:
    """Without do_sample `transformers serve` answers greedily, whatever a request asks for."""
    assert GenerationConfig.from_pretrained(directory / MODEL).do_sample
    with pytest.raises(UserError, match="is there already"):
        write_embedded(directory / MODEL)
