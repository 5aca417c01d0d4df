"""From an answer in an evaluation back to the requests to the teacher, by ids in files alone."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from fault_answers import answer_to, key_of
from hydra.utils import instantiate
from omegaconf import OmegaConf

from orca.config import CONF_DIR
from orca.evaluation.records import read_facts
from orca.teacher.request import Request
from orca.training import weights_hash

from .conftest import write_set

ROOT = CONF_DIR.parent
QUERIES = 60


def program(name: str, *options: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / name), *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_evaluations_answer_leads_back_to_the_requests_to_the_teacher(
    fault_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = fault_server(faults=0.1, latency=0.01, seed=3, hang=5)
    asked = [
        Request(f"cot.{n:03d}", "", f"What is {n} + {n}?", "cot", "sum") for n in range(QUERIES)
    ]
    queries = write_set(tmp_path / "queries", asked)
    program(
        *("collect.py", "teacher=local", f"teacher.endpoints.local.base_url={server.base_url}"),
        *("teacher.endpoints.local.model=m", f"queries={queries}", f"out={tmp_path / 'traces'}"),
        *("teacher.timeout=3", "teacher.attempts=12"),
    )
    program(
        *("train.py", "model=tiny", "data=local", f"data.path={tmp_path / 'traces'}"),
        *("data.format=trace", "data.parts.chatgpt='traces/*.parquet'", "data.max_tokens=512"),
        *("data.global_batch=2", "data.num_workers=0", "precision=32-true", "logger=csv"),
        *(f"paths.runs={tmp_path / 'runs'}", "run=pair", "callbacks.answers=null"),
        *("stage=progressive", "data.parts.gpt4='traces/*.parquet'", "trainer.max_steps=3"),
    )
    model = tmp_path / "runs/pair/flan1m_gpt4/hf"
    program(
        *("evaluate.py", f"model={model}", "benchmark=[held_out]", "fraction=0.01"),
        *("protocol=greedy", "protocol.max_new_tokens=4", f"out={tmp_path / 'evaluation'}"),
    )

    # An answer, and the run that trained the model which gave it.
    (part,) = (tmp_path / "evaluation/samples").glob("*.parquet")
    assert all(row["item"] and row["model"] for row in pq.read_table(part).to_pylist())
    facts = read_facts(tmp_path / "evaluation")
    ids = {f.read_text(): f.parent for f in (tmp_path / "runs").rglob("wandb_id.txt")}
    assert len(ids) == 2
    run = ids[facts["trained by"]["id"]]
    assert run == model.parent
    results = json.loads((run / "results.json").read_text())
    assert results["handoff"]["weights"] == weights_hash(model)
    assert weights_hash(model).startswith(facts["model"]["weights"])

    # Its first stage.
    started = results["handoff"]["started_from"]
    first = ids[started["run"]["id"]]
    assert first.name == "flan5m_chatgpt"
    assert (
        json.loads((first / "results.json").read_text())["handoff"]["weights"] == started["weights"]
    )

    # The traces that it trained on: its configuration gives the same stream again.
    trained = ids_of_traces(first)
    card = json.loads((first / "data_card.json").read_text())
    assert len(trained) == card["totals"]["examples"] > 2

    # The queries, the requests that were sent for each of them, and what the server saw.
    ledger = sqlite3.connect(tmp_path / "traces/ledger.sqlite")
    arrived = [line["key"] for line in server.arrived()]
    for name in trained:
        (row,) = ledger.execute("SELECT sent, text, response FROM replies WHERE query = ?", (name,))
        number, text, response = row
        requests = [
            n for (n,) in ledger.execute("SELECT number FROM sent WHERE query = ?", (name,))
        ]
        assert number in requests
        (query,) = (one for one in asked if one.id == name)
        assert text == query.query and response == answer_to(text)
        assert arrived.count(key_of(query.messages())) == len(requests)


def ids_of_traces(run: Path) -> list[str]:
    """Ids of the examples that a run trained on, in their order, from the files that it left."""
    config = OmegaConf.load(run / "config.yaml")
    facts = json.loads((run / "data_card.json").read_text())
    stage, template = config.stages[run.name], instantiate(config.template)
    tokenizer = instantiate(config.model).tokenizer()
    template.prepare(tokenizer)
    datamodule = instantiate(config.data, _partial_=True)(
        part=stage.part, epochs=stage.epochs, tokenizer=tokenizer, template=template
    )
    found: list[str] = []
    for number, item in enumerate(datamodule.stream(), start=1):
        found += [example.id for example in item.pack.examples]
        if number == facts["totals"]["packs"]:
            break
    again = datamodule.card.facts
    assert {k: again[k] for k in ("data", "curriculum", "seed", "packing", "held out")} == {
        k: facts["facts"][k] for k in ("data", "curriculum", "seed", "packing", "held out")
    }
    return found
