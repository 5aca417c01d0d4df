"""Real ranks on the CPU (gloo, FSDP2): the number of ranks changes nothing but rounding."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from orca.config import CONF_DIR
from orca.training import newest_checkpoint, read_metrics

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


def train(runs: Path, name: str, *options: str) -> Path:
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        *OPTIONS,
        f"paths.runs={runs}",
        f"run={name}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return runs / name / "flan5m_chatgpt"


def losses(directory: Path) -> list[float]:
    rows = read_metrics(directory / "metrics.csv")
    return [value for _, name, value in rows if name == "train/loss"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One unsharded run and one on two ranks, from the same weights on disk."""
    directory = tmp_path_factory.mktemp("sharding")
    train(directory, "base", "model=tiny", "trainer.max_steps=1")
    model = ["model=hub", "model.name=t", f"model.path={directory}/base/flan5m_chatgpt/hf"]
    model += ["optimizer.lr=1e-3"]
    train(directory, "one", *model)
    train(directory, "two", *model, "strategy=fsdp", "trainer.devices=2")
    return directory


def test_two_ranks_train_as_one_and_export_the_same_weights(runs: Path) -> None:
    one, two = runs / "one/flan5m_chatgpt", runs / "two/flan5m_chatgpt"
    assert len(losses(one)) == 6 and losses(two) == pytest.approx(losses(one), rel=1e-6)
    ours, theirs = (load_file(d / "hf/model.safetensors") for d in (one, two))
    assert sorted(ours) == sorted(theirs)
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in ours) < 1e-5


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_checkpoint_of_two_ranks_goes_on_with_another_number(
    runs: Path, tmp_path: Path, ranks: int
) -> None:
    shutil.copytree(runs / "two", tmp_path / "two")
    stage = tmp_path / "two/flan5m_chatgpt"
    (stage / "results.json").unlink()
    shutil.rmtree(stage / "checkpoints/step00000006.ckpt")
    found = newest_checkpoint(stage / "checkpoints")
    assert found is not None and found[0] == 3
    model = ["model=hub", "model.name=t", f"model.path={runs}/base/flan5m_chatgpt/hf"]
    options = [*model, "optimizer.lr=1e-3", "strategy=fsdp", f"trainer.devices={ranks}"]
    train(tmp_path, "two", *options, "resume=auto")
    expected = losses(runs / "two/flan5m_chatgpt")
    assert losses(stage) == pytest.approx(expected, rel=1e-6) and len(expected) == 6


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
    model = ["model=hub", "model.name=t", f"model.path={runs}/base/flan5m_chatgpt/hf"]
    model += ["optimizer.lr=1e-3", "strategy=fsdp", "trainer.devices=2"]
    got = losses(train(tmp_path, "levers", *model, *levers))
    rel = 1e-4 if "optimizer=adamw_8bit" in levers else 1e-5
    assert got == pytest.approx(losses(runs / "two/flan5m_chatgpt"), rel=rel) and len(got) == 6


@pytest.mark.slow
def test_8bit_moments_resume_exactly_on_two_ranks(runs: Path, tmp_path: Path) -> None:
    model = ["model=hub", "model.name=t", f"model.path={runs}/base/flan5m_chatgpt/hf"]
    model += ["optimizer=adamw_8bit", "optimizer.lr=1e-3", "strategy=fsdp", "trainer.devices=2"]
    stage = train(tmp_path, "eight", *model)
    expected = losses(stage)
    (stage / "results.json").unlink()
    shutil.rmtree(stage / "checkpoints/step00000006")
    assert losses(train(tmp_path, "eight", *model, "resume=auto")) == expected
    assert len(expected) == 6


def test_several_devices_without_sharding_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"strategy=single trains on one device"):
        train(tmp_path, "x", "model=tiny", "trainer.devices=2")
