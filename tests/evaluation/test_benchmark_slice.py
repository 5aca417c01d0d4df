"""A slice of the benchmarks while the tiny student trains, on two small tasks in BBH's format."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import compose_config
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from orca.config import CONF_DIR, check_config, explain
from orca.errors import UserError
from orca.evaluation import BenchmarkSlice, Protocol, read_samples
from orca.evaluation.ask import ask
from orca.evaluation.bbh import BBH
from orca.evaluation.choose import stratified
from orca.evaluation.hf_engine import HFEngine
from orca.evaluation.records import SCHEMA
from orca.evaluation.scores import grade, score
from orca.training import TRAIN_OPTIONS, newest_checkpoint, read_metrics, train_stage, weights_hash

TASKS = ["boolean_expressions", "navigate"]
FAST = [
    *("model=tiny", "logger=csv", "precision=32-true", "trainer.max_steps=4"),
    *("callbacks.answers.questions=2", "callbacks.answers.max_new_tokens=4"),
    *("data.held_out_examples=4", "trainer.val_check_interval=2"),
    "callbacks.checkpoints.every_n_steps=2",
]
PROTOCOL = Protocol("orca", temperature=0.7, max_new_tokens=100)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bbh/: two tasks of 12 items."""
    folder = tmp_path_factory.mktemp("data")
    prompts = folder / "bbh" / "cot-prompts"
    prompts.mkdir(parents=True)
    for task, words in zip(TASKS, (("True", "False"), ("Yes", "No")), strict=True):
        examples = [{"input": f"{task} {n}?", "target": words[n % 2]} for n in range(12)]
        (folder / "bbh" / f"{task}.json").write_text(json.dumps({"examples": examples}))
        (prompts / f"{task}.txt").write_text(f"canary\n-----\nAnswer {task}.\n")
    return folder


def slice_of(data: Path) -> list[str]:
    """Sampled, so that anything that drew from training's random numbers would show."""
    return [
        *(
            "benchmark=[bbh]",
            f"paths.benchmarks={data}",
            f"benchmark.bbh.tasks=[{','.join(TASKS)}]",
        ),
        *("callbacks.benchmarks.fraction=1", "protocol@callbacks.benchmarks.protocol=orca"),
        "callbacks.benchmarks.protocol.max_new_tokens=100",
    ]


def train(run_dir: Path, *overrides: str) -> Path:
    train_stage(compose_config(*FAST, *overrides, run_dir=run_dir), "flan5m_chatgpt")
    return run_dir / "flan5m_chatgpt"


def rows(stage: Path, *beginnings: str) -> list[tuple[int, str, float]]:
    metrics = read_metrics(stage / "metrics.csv")
    return [row for row in metrics if row[1].startswith(beginnings)]


@pytest.fixture(scope="module")
def sliced(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("sliced"), *slice_of(data))


def test_a_slice_changes_nothing_of_the_training(sliced: Path, tmp_path: Path) -> None:
    """Losses, gradient norms, held-out losses, answers and weights, bit for bit."""
    plain = train(tmp_path)
    names = ("train/", "val/", "data/")
    assert rows(sliced, *names) == rows(plain, *names) and len(rows(plain, "train/loss")) == 4
    assert (sliced / "samples.jsonl").read_text() == (plain / "samples.jsonl").read_text()
    assert weights_hash(sliced / "hf") == weights_hash(plain / "hf")
    assert rows(sliced, "eval/") and not rows(plain, "eval/")
    assert not (plain / "benchmarks").exists()


def test_the_figures_are_those_of_the_programs_own_code_for_the_same_weights(
    sliced: Path, data: Path
) -> None:
    items = stratified(BBH(str(data), TASKS).items(), 1)
    samples = list(ask(HFEngine(str(sliced / "hf"), device="cpu"), items, PROTOCOL, [1]))
    found = score(grade(samples, items))[-1]
    logged = {name: value for _, name, value in rows(sliced, "eval/")}  # the last ones
    assert logged == {
        "eval/bbh/accuracy": found.accuracy.value,
        "eval/bbh/stated": found.stated.value,
        "eval/bbh/format_failures": found.format_failures,
    }
    assert found.items == 24 and 0 < found.accuracy.value < 1, "nothing is compared"
    kept = read_samples(sliced / "benchmarks" / "step-000004")
    assert {s.item: s.text for s in kept} == {s.item: s.text for s in samples}
    assert len({s.text for s in kept}) > 6


def test_every_step_leaves_records_and_a_line(
    sliced: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    steps = [f"step-{n:06d}" for n in (0, 2, 4)]
    assert sorted(path.name for path in (sliced / "benchmarks").iterdir()) == steps
    assert [step for step, _, _ in rows(sliced, "eval/bbh/accuracy")] == [0, 1, 3]
    for number, name in zip((0, 2, 4), steps, strict=True):
        (part,) = (sliced / "benchmarks" / name / "samples").iterdir()
        table = pq.read_table(part)
        assert table.schema.names == SCHEMA.names and len(table) == 24
        facts = json.loads((sliced / "benchmarks" / name / "facts.json").read_text())
        assert facts["model"]["step"] == number and facts["protocol"]["name"] == "orca"
        assert {"device", "dtype", "template", "precision"} <= set(facts["model"])
    stage = train(tmp_path, *slice_of(data), "callbacks.benchmarks.every_validation=false")
    assert {path.name for path in (stage / "benchmarks").iterdir()} == {steps[0], steps[2]}
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split(": ")[0] for line in told[-2:]] == ["step 0, orca", "step 4, orca"]
    assert "24 items (stated" in told[-1]


def test_a_run_that_ended_within_a_slice_goes_on(
    sliced: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the ended run left of later steps is in nobody's way, and its figures come again."""
    asked = BenchmarkSlice._write

    def end(self: Any, step: int, *rest: Any) -> None:
        asked(self, step, *rest)
        if step == 2:
            raise ValueError("ended here")

    with monkeypatch.context() as patch:
        patch.setattr(BenchmarkSlice, "_write", end)
        with pytest.raises(ValueError, match="ended here"):
            train(tmp_path, *slice_of(data))
    stage = tmp_path / "flan5m_chatgpt"
    found = newest_checkpoint(stage / "checkpoints")
    assert found is not None and found[0] == 2
    for step in (3, 4):
        later = stage / "benchmarks" / f"step-{step:06d}"
        (later / "samples").mkdir(parents=True)
        (later / "facts.json").write_text('{"model": "another"}')
    train(tmp_path, *slice_of(data), "resume=auto")
    assert {p.name[-1] for p in (stage / "benchmarks").iterdir()} == {"0", "2", "4"}
    before, after = rows(stage, "eval/"), rows(sliced, "eval/")
    assert before == [row for row in after if row[0] != 1] and before
    assert weights_hash(stage / "hf") == weights_hash(sliced / "hf")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["paths.benchmarks=/nowhere"], "/nowhere/bbh: no such folder"),
        (["paths.benchmarks=null"], "paths.benchmarks is not set"),
        (["callbacks.benchmarks.fraction=2"], "fraction=2: a number above 0"),
        (["model.architecture.max_position_embeddings=128"], r"24 of the 24 prompts leave no room"),
    ],
)
def test_what_cannot_be_asked_is_said_before_training(
    data: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train(tmp_path, *slice_of(data), *options)
    assert not (tmp_path / "flan5m_chatgpt").exists()


def built(*overrides: str) -> BenchmarkSlice:
    config = compose_config(*overrides)
    check_config(config, TRAIN_OPTIONS)
    try:
        return instantiate(config.callbacks.benchmarks, directory="runs/test")
    except InstantiationException as error:
        raise UserError(explain(error)) from None


@pytest.mark.parametrize("name", sorted(f.stem for f in (CONF_DIR / "benchmark").glob("*.yaml")))
def test_every_benchmark_is_built_or_refused_with_a_sentence(name: str) -> None:
    if name in ("agieval", "bbh", "truthfulqa"):
        (one,) = built(f"benchmark=[{name}]").benchmarks
        assert one.name == name
        return
    with pytest.raises(UserError, match=rf"only multiple choice.*evaluate\.py .*\[{name}\]"):
        built(f"benchmark=[{name}]")


@pytest.mark.parametrize("name", sorted(f.stem for f in (CONF_DIR / "protocol").glob("*.yaml")))
def test_every_protocol_asks_for_short_answers(name: str) -> None:
    found = built("benchmark=[bbh]", f"protocol@callbacks.benchmarks.protocol={name}").protocol
    assert found.name == name and found.max_new_tokens == 32


def test_it_is_off_and_greedy_by_default() -> None:
    assert not built().benchmarks and built().protocol.name == "greedy"
    with pytest.raises(UserError, match="must be 1 to 17"):
        built("callbacks.benchmarks.system_message=18")


def test_log_likelihoods_are_asked_too(data: Path, tmp_path: Path) -> None:
    protocol = "protocol@callbacks.benchmarks.protocol=loglikelihood"
    stage = train(tmp_path, *slice_of(data), protocol, "trainer.max_steps=2")
    samples = read_samples(stage / "benchmarks" / "step-000002")
    assert len(samples) == 24 and all(sample.text.startswith("A:-") for sample in samples)
    assert rows(stage, "eval/bbh/format_failures") == [
        (0, "eval/bbh/format_failures", 0.0),
        (1, "eval/bbh/format_failures", 0.0),
    ]


@pytest.mark.slow
def test_two_sharded_ranks_ask_as_one_and_go_on(data: Path, tmp_path: Path) -> None:
    """Also where a slice is the first that new ranks compute: after a resume, and where there is
    no validation before it."""

    def answers(stage: Path, step: int) -> dict[str, str]:
        return {s.item: s.text for s in read_samples(stage / "benchmarks" / f"step-{step:06d}")}

    def start(name: str, *more: str) -> Path:
        ranks = ["strategy=fsdp", "trainer.devices=2", "trainer.accelerator=cpu"]
        options = [*FAST, *slice_of(data), *ranks, *more, f"paths.runs={tmp_path}", f"run={name}"]
        command = [sys.executable, str(CONF_DIR.parent / "train.py"), "data.global_batch=2"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert sum(line.startswith("step ") for line in done.stdout.splitlines()) >= 1, "rank 0"
        return tmp_path / name / "flan5m_chatgpt"

    one = train(tmp_path / "one", *slice_of(data), "data.global_batch=2")
    two = start("two")
    assert answers(two, 0) == answers(one, 0) and len(answers(two, 4)) == 24
    figures = rows(two, "eval/")
    (two / "results.json").unlink()
    shutil.rmtree(two / "checkpoints" / "step00000004")
    start("two", "resume=auto")
    assert rows(two, "eval/") == figures and len(figures) == 9
    assert answers(start("alone", "data.held_out=null"), 0) == answers(one, 0)
