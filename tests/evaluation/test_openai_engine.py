"""A model behind a server, which is a real process here that answers as it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from orca.config import CONF_DIR, check_config
from orca.errors import UserError
from orca.evaluation import read_samples
from orca.evaluation.engine import Output, Prompt
from orca.evaluation.openai_engine import OpenAIEngine
from orca.teacher import Endpoint, Prices, Teacher

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("judge_server.py")
PROMPTS = [Prompt(f"k{n}", "", f"Question {n}?") for n in range(4)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], str]]:
    """Starts a server with planted answers; its address."""
    started = []

    def start(planted: dict[str, Any]) -> str:
        (tmp_path / "planted.json").write_text(json.dumps(planted))
        command = [sys.executable, str(SERVER), str(tmp_path / "planted.json")]
        process = subprocess.Popen(
            [*command, str(tmp_path / "log.jsonl")], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{int(process.stdout.readline())}/v1"

    yield start
    for process in started:
        process.kill()
        process.wait()


def engine(address: str, directory: Path, price: float = 0.0, **options: Any) -> OpenAIEngine:
    prices = Prices(price, price, "2026-01-01")
    teacher = Teacher("t", {"one": Endpoint(address, "m", concurrency=1)}, prices)
    return OpenAIEngine(teacher, str(directory), **options)


def test_an_answer_that_ends_in_the_servers_own_words_is_an_answer(
    server: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    address = server(
        {
            "Question 0": {"text": "A", "finish_reason": "eos"},
            "Question 1": {"text": "B", "finish_reason": "length"},
            "Question 2": 400,
        }
    )
    one = engine(address, tmp_path / "out")
    found = {o.key: (o.text, o.finish_reason) for o in one.generate(PROMPTS, 0.7, 16)}
    assert found == {
        "k0": ("A", "other"),
        "k1": ("B", "length"),
        "k2": ("", "failed"),
        "k3": ("8 4\nBecause.", "stop"),
    }
    asked = len((tmp_path / "log.jsonl").read_text().splitlines())
    again = {o.key: o.text for o in one.generate(PROMPTS, 0.7, 16)}
    assert again["k0"] == "A"
    later = (tmp_path / "log.jsonl").read_text().splitlines()[asked:]
    assert len(later) == 1 and "Question 2" in later[0], "what failed is asked again, alone"
    bodies = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(b["temperature"] == 0.7 and b["max_completion_tokens"] == 16 for b in bodies)
    assert all("seed" not in b for b in bodies)


def test_a_budget_ends_the_run_and_keeps_what_was_paid(
    server: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    # An answer costs 10 dollars by these prices: seven prompt tokens and three of the answer.
    one = engine(server({}), tmp_path / "out", price=1e6, budget_usd=300.0)
    prompts, seen = [Prompt(f"k{n}", "", f"Q{n}") for n in range(200)], list[Output]()
    with pytest.raises(UserError, match=r"the budget of 300\.0 US dollars is used up"):
        seen.extend(one.generate(prompts, 0.7, 16))
    paid = len((tmp_path / "log.jsonl").read_text().splitlines())
    assert 0 < len(seen) == paid < 60
    more = engine(one.teacher.endpoints["one"].base_url, tmp_path / "out", price=1e6)
    assert len(list(more.generate(prompts[:60], 0.7, 16))) == 60
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 60, "none is paid twice"


def test_a_server_is_told_apart_by_its_address_and_model(tmp_path: Path) -> None:
    one, other = (engine(f"http://127.0.0.1:{p}/v1", tmp_path).describe() for p in (1, 2))
    assert one != other and one["models"] == ["m"]


@pytest.mark.parametrize("teacher", sorted(f.stem for f in (CONF_DIR / "teacher").glob("*.yaml")))
def test_every_teacher_can_be_evaluated_and_can_judge(teacher: str) -> None:
    options = ["engine=openai", "model_path=m", f"teacher@engine.teacher={teacher}"]
    options.append(f"teacher@judge.engine.teacher={teacher}")
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        config = compose("evaluate", options)
    if teacher == "local":
        config.engine.teacher.endpoints.local.model = "m"
        config.judge.engine.teacher.endpoints.local.model = "m"
    check_config(config, list(config))
    made: OpenAIEngine = instantiate(config.engine, _convert_="all")
    assert made.teacher.body.get("temperature") is not None and "top_p" not in made.teacher.body
    assert instantiate(config.judge, _convert_="all").engine.teacher.name == made.teacher.name


def test_a_model_behind_a_server_is_evaluated_by_the_program(
    server: Callable[[dict[str, Any]], str], shared_data: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "evaluate.py"), "model=served", "engine=openai",
            f"engine.teacher.endpoints.local.base_url={server({})}", "benchmark=[truthfulqa]",
            "fraction=0.005", f"out={tmp_path / 'out'}",
        ],
        cwd=tmp_path, env={**os.environ, "ORCA_SHARED_DATA": str(shared_data)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    samples = read_samples(tmp_path / "out")
    assert len(samples) == 3 and {s.text for s in samples} == {"8 4\nBecause."}
    bodies = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {b["model"] for b in bodies} == {"served"} and len(bodies) == 3
