"""Real ranks on the CPU (gloo): strategy and number of ranks change nothing but rounding, and
a run that loses a rank, is told to stop or hangs says so and goes on where it was."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from conftest import compose_config
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from orca.config import CONF_DIR
from orca.errors import UserError
from orca.training import export, newest_checkpoint, read_metrics, weights_hash
from orca.training.strategies import check_strategy

ROOT = CONF_DIR.parent
OPTIONS = [
    "logger=csv",
    "precision=32-true",
    "callbacks.answers.questions=2",
    "callbacks.answers.max_new_tokens=4",
    "data.held_out_examples=4",
    "data.global_batch=4",
    "trainer.accelerator=cpu",
    "trainer.max_steps=6",
    "callbacks.checkpoints.every_n_steps=3",
    "callbacks.checkpoints.keep=2",
]


def command(runs: Path, name: str, *options: str) -> list[str]:
    return [str(ROOT / "train.py"), *OPTIONS, f"paths.runs={runs}", f"run={name}", *options]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def train(runs: Path, name: str, *options: str, status: int = 0) -> Path:
    done = subprocess.run(
        [sys.executable, *command(runs, name, *options)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr[-3000:]
    return runs / name / "flan5m_chatgpt"


def losses(directory: Path) -> list[float]:
    rows = read_metrics(directory / "metrics.csv")
    return [value for _, name, value in rows if name == "train/loss"]


def model_of(runs: Path) -> list[str]:
    weights = f"model.path={runs}/base/flan5m_chatgpt/hf"
    return ["model=hub", "model.name=t", weights, "optimizer.lr=1e-3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run on one device and one on two ranks, from the same weights on disk."""
    directory = tmp_path_factory.mktemp("sharding")
    train(directory, "base", "model=tiny", "trainer.max_steps=1")
    train(directory, "one", *model_of(directory))
    train(directory, "two", *model_of(directory), "strategy=fsdp", "trainer.devices=2")
    return directory


def assert_same_run(ours: Path, theirs: Path, steps: int = 6) -> None:
    assert len(losses(ours)) == steps and losses(theirs) == pytest.approx(losses(ours), rel=1e-6)
    weights = [load_file(d / "hf/model.safetensors") for d in (ours, theirs)]
    assert sorted(weights[0]) == sorted(weights[1])
    assert max(float((weights[0][k] - weights[1][k]).abs().max()) for k in weights[0]) < 1e-5


def test_two_ranks_train_as_one_and_export_the_same_weights(runs: Path) -> None:
    assert_same_run(runs / "one/flan5m_chatgpt", runs / "two/flan5m_chatgpt")


def test_two_ranks_answer_as_one(tmp_path: Path) -> None:
    """Every rank writes the same rows in step; before training the weights are exactly the same."""
    # Weights that are far apart, for else a tiny model repeats one blank.
    wide = ("model=tiny", "+model.architecture.initializer_range=0.3", "optimizer.lr=1e-6")
    train(tmp_path, "base", *wide, "trainer.max_steps=1")
    train(tmp_path, "one", *model_of(tmp_path), "trainer.max_steps=1")
    two = ("strategy=fsdp", "trainer.devices=2", "trainer.max_steps=1")
    train(tmp_path, "two", *model_of(tmp_path), *two)
    answers = [
        [row for row in map(json.loads, file.read_text().splitlines()) if row["step"] == 0]
        for file in (tmp_path / name / "flan5m_chatgpt/samples.jsonl" for name in ("one", "two"))
    ]
    assert answers[0] == answers[1] and all(row["response"] for row in answers[0])
    assert len(answers[0]) == 2


@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [
        (["strategy=ddp"], 2),
        pytest.param(["strategy=ddp", "data.micro_batch=2"], 2, marks=pytest.mark.slow),
        pytest.param(["strategy=hsdp", "strategy.strategy.replicas=2"], 4, marks=pytest.mark.slow),
    ],
)
def test_every_strategy_trains_as_one_device(
    runs: Path, tmp_path: Path, strategy: list[str], ranks: int
) -> None:
    stage = train(tmp_path, "r", *model_of(runs), *strategy, f"trainer.devices={ranks}")
    assert_same_run(runs / "one/flan5m_chatgpt", stage)


@pytest.mark.parametrize(
    ("start", "options"),
    [
        ("two", ["strategy=fsdp", "trainer.devices=4"]),
        ("two", ["strategy=single"]),
        pytest.param("two", ["strategy=fsdp", "trainer.devices=1"], marks=pytest.mark.slow),
        pytest.param("one", ["strategy=ddp", "trainer.devices=2"], marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_goes_on_under_another_strategy_and_number_of_ranks(
    runs: Path, tmp_path: Path, start: str, options: list[str]
) -> None:
    shutil.copytree(runs / start, tmp_path / start)
    stage = tmp_path / start / "flan5m_chatgpt"
    (stage / "results.json").unlink()
    shutil.rmtree(stage / "hf")
    shutil.rmtree(stage / "checkpoints/step00000006")
    found = newest_checkpoint(stage / "checkpoints")
    assert found is not None and found[0] == 3
    train(tmp_path, start, *model_of(runs), *options, "resume=auto")
    assert_same_run(runs / "one/flan5m_chatgpt", stage)


def start_and_disturb(
    arguments: list[str],
    stage: Path,
    disturb: Callable[[list[psutil.Process]], Any],
    more_environment: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Start two ranks, disturb them after a few steps; exit status and what was said."""
    process = subprocess.Popen(
        arguments,
        env=environment(**(more_environment or {})),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        if (stage / "metrics.csv").exists() and len(losses(stage)) > 4:
            break
        time.sleep(0.02)
    ranks = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RANK" in child.environ() and "multiprocessing" not in " ".join(child.cmdline())
    ]
    assert len(ranks) == 2, "the run ended before it could be disturbed"
    disturb(sorted(ranks, key=lambda rank: int(rank.environ()["RANK"])))
    _, said = process.communicate(timeout=180)
    return process.returncode, said


LONG = ["data.max_tokens=1536", "trainer.max_steps=-1", "model=tiny"]  # to the end of the data
TWO = ["strategy=fsdp", "trainer.devices=2"]


def check_resumes(tmp_path: Path, unbroken: Path) -> None:
    stage = train(tmp_path, "r", *LONG, *TWO, "resume=auto")
    assert losses(stage) == losses(unbroken) and len(losses(stage)) > 40
    assert weights_hash(stage / "hf") == weights_hash(unbroken / "hf")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("unbroken"), "r", *LONG, *TWO)


def test_ranks_with_unequal_work_at_the_end_train_as_one(unbroken: Path, tmp_path: Path) -> None:
    """The last global batch has fewer packs than ranks and micro-batches could take."""
    card = json.loads((unbroken / "data_card.json").read_text())
    assert card["totals"]["packs"] % 4 in (1, 3), "the end is equal: nothing would be tested"
    one = train(tmp_path, "one", *LONG)
    assert len(losses(one)) == len(losses(unbroken))
    assert losses(one) == pytest.approx(losses(unbroken), rel=1e-4)


@pytest.mark.parametrize(
    "number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_to_one_rank_alone_saves_on_all_and_queues_again(
    tmp_path: Path, unbroken: Path, number: signal.Signals
) -> None:
    arguments = [sys.executable, *command(tmp_path, "r", *LONG, *TWO)]
    arguments.append("callbacks.checkpoints.every_n_steps=1000")
    stage = tmp_path / "r/flan5m_chatgpt"
    status, said = start_and_disturb(arguments, stage, lambda ranks: ranks[1].send_signal(number))
    found = newest_checkpoint(stage / "checkpoints")
    assert status == 75, said
    assert found is not None and 4 < found[0] == len(losses(stage)) < 40
    check_resumes(tmp_path, unbroken)


@pytest.mark.slow
def test_a_signal_to_the_launcher_reaches_the_ranks(tmp_path: Path, unbroken: Path) -> None:
    arguments = [sys.executable, *command(tmp_path, "r", *LONG, *TWO)]
    stage = tmp_path / "r/flan5m_chatgpt"
    status, said = start_and_disturb(
        arguments, stage, lambda ranks: ranks[0].parent().send_signal(signal.SIGUSR1)
    )
    found = newest_checkpoint(stage / "checkpoints")
    assert status == 75 and found is not None and found[0] == len(losses(stage)), said
    check_resumes(tmp_path, unbroken)


def test_a_killed_rank_is_named_and_the_run_goes_on_bitwise(tmp_path: Path, unbroken: Path) -> None:
    arguments = [sys.executable, *command(tmp_path, "r", *LONG, *TWO)]
    stage = tmp_path / "r/flan5m_chatgpt"
    status, said = start_and_disturb(arguments, stage, lambda ranks: ranks[1].kill())
    assert status == 75 and re.search(r"rank 1 was killed \(SIGKILL", said), said
    check_resumes(tmp_path, unbroken)


@pytest.mark.slow
def test_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    seen: list[psutil.Process] = []

    def kill_launcher(ranks: list[psutil.Process]) -> None:
        seen.extend(ranks)
        ranks[0].parent().kill()

    arguments = [sys.executable, *command(tmp_path, "r", *LONG, *TWO)]
    status, _ = start_and_disturb(arguments, tmp_path / "r/flan5m_chatgpt", kill_launcher)
    assert status == -signal.SIGKILL
    assert not psutil.wait_procs(seen, timeout=10)[1], "ranks train on without their launcher"


@pytest.mark.slow
def test_a_rank_that_hangs_is_named(tmp_path: Path) -> None:
    arguments = [sys.executable, *command(tmp_path, "r", *LONG, *TWO)]
    arguments.append("strategy.strategy.timeout_minutes=0.2")
    stage = tmp_path / "r/flan5m_chatgpt"
    status, said = start_and_disturb(arguments, stage, lambda ranks: ranks[1].suspend())
    assert status != 0
    assert re.search(r"Stuck: rank 1: .*step \d+, .*silent for \d+ s", said), said
    assert newest_checkpoint(stage / "checkpoints") is not None


def test_a_restarted_rank_reads_nothing_of_those_that_are_gone() -> None:
    """torchrun's store outlives its ranks; one that read their addresses would call nobody."""
    agent = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    code = (
        "import datetime; import torch.distributed as dist; from orca.training import ranks; "
        "ranks.join_ranks(datetime.timedelta(seconds=30)); "
        "store = dist.distributed_c10d._get_default_store(); "
        "print('left over' if store.check(['address']) else 'clean', dist.get_world_size()); "
        "store.set('address', 'of a rank')"
    )
    environment = {
        **os.environ,
        **{"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "GROUP_WORLD_SIZE": "1"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(agent.port)},
        **{"TORCHELASTIC_RUN_ID": "r", "TORCHELASTIC_USE_AGENT_STORE": "True"},
    }
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "TORCHELASTIC_RESTART_COUNT": str(count)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for count in (0, 0, 1)
    ]
    assert said == ["clean 1", "left over 1", "clean 1"], "the second stands for no mending"


@pytest.mark.slow
def test_torchrun_starts_lost_ranks_again_by_itself(tmp_path: Path, unbroken: Path) -> None:
    """The same final weights as the run that lost none, and nothing for the user to do."""
    arguments = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    arguments += ["--max-restarts=1", "--nproc-per-node=2", *command(tmp_path, "r", *LONG, *TWO)]
    stage = tmp_path / "r/flan5m_chatgpt"
    status, said = start_and_disturb(arguments, stage, lambda ranks: ranks[0].kill())
    assert status == 0, said
    assert losses(stage) == losses(unbroken)
    assert weights_hash(stage / "hf") == weights_hash(unbroken / "hf")


@pytest.mark.slow
def test_slurm_tasks_are_ranks(runs: Path, tmp_path: Path) -> None:
    """Two tasks with the variables that srun sets (there is no SLURM here)."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    names = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "1"}
    names |= {"SLURM_NTASKS_PER_NODE": "2"}
    names |= {"SLURM_NODELIST": "localhost", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "orca"}
    tasks = [
        subprocess.Popen(
            [sys.executable, *command(tmp_path, "r", *model_of(runs), *TWO)],
            env=environment(
                **names, MASTER_PORT=port, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [task.communicate(timeout=180)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert_same_run(runs / "one/flan5m_chatgpt", tmp_path / "r/flan5m_chatgpt")


def test_several_devices_without_a_strategy_for_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"strategy=single trains on one device"):
        train(tmp_path, "x", "model=tiny", "trainer.devices=2")


@pytest.mark.parametrize(
    ("options", "ranks", "words"),
    [
        (["strategy=hsdp", "strategy.strategy.replicas=2"], 2, "replicas=2 does not divide 2"),
        (["strategy=hsdp", "strategy.strategy.replicas=3"], 8, "replicas=3 does not divide 8"),
        (["strategy=hsdp"], 2, "one copy of the model is strategy=fsdp"),
        (["strategy=fsdp", "strategy.strategy.cpu_offload=true"], 2, "in host memory already"),
        (["strategy=fsdp", "strategy.strategy.reduce_dtype=bfloat16"], 2, "bf16-mixed, not 32"),
        (["strategy=fsdp", "strategy.strategy.reduce_dtype=float8"], 2, "float32 or bfloat16"),
        (["strategy=fsdp", "strategy.strategy.replicas=0"], 2, "at least 1"),
    ],
)
def test_choices_that_cannot_work_together_are_refused(
    options: list[str], ranks: int, words: str
) -> None:
    config = compose_config(*options)
    with pytest.raises(UserError, match=words):
        strategy = refused_inside(lambda: instantiate(config.strategy.strategy))
        check_strategy(config.strategy.name, strategy, torch.device("cpu"), ranks, "32-true")


def refused_inside(build: Callable[[], Any]) -> Any:
    """What ``build`` returns; Hydra wraps the errors of constructors."""
    try:
        return build()
    except InstantiationException as error:
        raise error.__cause__ or error from None


@pytest.mark.slow
def test_two_ranks_go_on_from_a_directory_of_many_weight_files(runs: Path, tmp_path: Path) -> None:
    """Each rank reads its rows; losses are those of the same weights in one file."""
    source = runs / "base/flan5m_chatgpt/hf"
    model = AutoModelForCausalLM.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    facts = {"dtype": "float32", "stage": "s", "fingerprint": {}, "card": ""}
    export(model, tokenizer, tmp_path / "hf", **facts, max_shard_bytes=50_000)
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 4
    options = ["model=hub", "model.name=t", f"model.path={tmp_path}/hf", "optimizer.lr=1e-3"]
    stage = train(tmp_path, "many", *options, "strategy=fsdp", "trainer.devices=2")
    assert losses(stage) == losses(runs / "two/flan5m_chatgpt") and len(losses(stage)) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "levers",
    [
        ["activation_checkpointing=full"],
        ["activation_checkpointing=selective", "compile=true"],
        ["optimizer=adamw_8bit"],
    ],
    ids=lambda levers: levers[0],
)
def test_levers_change_nothing_on_two_ranks(runs: Path, tmp_path: Path, levers: list[str]) -> None:
    model = [*model_of(runs), *TWO]
    got = losses(train(tmp_path, "levers", *model, *levers))
    rel = 1e-4 if "optimizer=adamw_8bit" in levers else 1e-5
    assert got == pytest.approx(losses(runs / "two/flan5m_chatgpt"), rel=rel) and len(got) == 6


@pytest.mark.slow
def test_8bit_moments_resume_exactly_on_two_ranks(runs: Path, tmp_path: Path) -> None:
    model = [*model_of(runs), *TWO, "optimizer=adamw_8bit"]
    stage = train(tmp_path, "eight", *model)
    expected = losses(stage)
    (stage / "results.json").unlink()
    shutil.rmtree(stage / "checkpoints/step00000006")
    assert losses(train(tmp_path, "eight", *model, "resume=auto")) == expected
    assert len(expected) == 6
