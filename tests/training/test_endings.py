"""Runs on one device that lose a worker or their disk: a sentence, and a state to go on from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from test_stage import FAST, ROOT, losses, train

from orca.errors import UserError
from orca.training import Student, newest_checkpoint, read_metrics
from orca.training.checkpoint import CheckpointWriter
from orca.training.directory import RunDirectory


def wait_for_steps(process: subprocess.Popen[str], stage: Path) -> None:
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        if (stage / "metrics.csv").exists() and len(losses(stage)) > 4:
            return
        time.sleep(0.02)
    raise AssertionError("the run ended before it could be disturbed")


def test_a_killed_worker_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *FAST, "epochs=50", "run=r"]
    command += [f"paths.runs={tmp_path}", "data.num_workers=1", "data.window=4"]
    command += ["callbacks.checkpoints.every_n_steps=2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    stage = tmp_path / "r" / "flan5m_chatgpt"
    wait_for_steps(process, stage)
    (worker,) = psutil.Process(process.pid).children()
    worker.kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said[-2000:]
    assert "a tokenising process was lost" in said and "Traceback" not in said
    assert newest_checkpoint(stage / "checkpoints") is not None


def test_a_run_whose_checkpoint_cannot_be_written_ends_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for the second checkpoint alone (the error is made up, the rest is real)."""
    commit = CheckpointWriter._commit

    def full(self: Any, step: int, *rest: Any) -> None:
        if step == 4:
            raise OSError(28, "No space left on device")
        commit(self, step, *rest)

    options = [*FAST, "trainer.max_steps=40", "callbacks.checkpoints.every_n_steps=2"]
    reference = train(tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointWriter, "_commit", full)
        with pytest.raises(UserError, match=r"step 4 could not be written.*No space.*resume=auto"):
            train(tmp_path / "broken", *options)
    stage = tmp_path / "broken" / "flan5m_chatgpt"
    found = newest_checkpoint(stage / "checkpoints")
    assert found is not None and found[0] == 2
    results = train(tmp_path / "broken", *options, "resume=auto")
    assert results["handoff"]["weights"] == reference["handoff"]["weights"]
    assert losses(stage) == losses(tmp_path / "whole" / "flan5m_chatgpt")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_of_processes_saves(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As schedulers send it: to the tokenising workers too."""
    command = [sys.executable, str(ROOT / "train.py"), *FAST, "epochs=50", "run=r"]
    command += [f"paths.runs={tmp_path}", "data.num_workers=2", "data.window=4"]
    command += ["callbacks.checkpoints.every_n_steps=0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    stage = tmp_path / "r" / "flan5m_chatgpt"
    wait_for_steps(process, stage)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    found = newest_checkpoint(stage / "checkpoints")
    assert process.returncode == 75 and "Traceback" not in said, said[-2000:]
    assert found is not None and found[0] == len(losses(stage)) > 4


def test_a_refused_new_run_leaves_the_old_one(tmp_path: Path) -> None:
    options = [*FAST, "trainer.max_steps=2"]
    results = train(tmp_path, *options)
    stage = tmp_path / "flan5m_chatgpt"
    before = sorted(path.name for path in stage.rglob("*"))
    with pytest.raises(UserError, match="flex attention has no gradient on cpu"):
        train(tmp_path, *options, "overwrite=true", "attention=flex")
    with pytest.raises(InstantiationException, match="keep=0"):  # Hydra's, of a callback's own
        train(tmp_path, *options, "overwrite=true", "callbacks.checkpoints.keep=0")
    assert sorted(path.name for path in stage.rglob("*")) == before
    assert train(tmp_path, *options, "resume=auto") == results
    with pytest.raises(UserError, match="flex"):
        train(tmp_path / "new", *options, "attention=flex")
    assert not (tmp_path / "new" / "flan5m_chatgpt").exists()  # no "unfinished run" in the way
    train(tmp_path, *options, "overwrite=true")
    assert not list(tmp_path.glob(".*.replaced"))


def test_a_run_is_kept_until_another_has_trained_however_many_attempts_that_takes(
    tmp_path: Path,
) -> None:
    """The first attempt is killed before its first step; the second is refused."""
    stage, config = tmp_path / "stage", OmegaConf.create({"a": 1})
    stage.mkdir()
    (stage / "results.json").write_text("the finished run")
    RunDirectory(stage).start(config)  # and no more of it
    assert not (stage / "results.json").exists()
    second = RunDirectory(stage)
    second.start(config)
    second.undo()
    assert (stage / "results.json").read_text() == "the finished run"
    third = RunDirectory(stage)
    third.start(config)
    third.begin()
    third.undo()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.yaml", "stage"]


def test_one_process_at_a_time_trains_in_a_directory(tmp_path: Path) -> None:
    other = RunDirectory(tmp_path / "flan5m_chatgpt")
    other.lock()
    with pytest.raises(UserError, match=r"another process trains in .*flan5m_chatgpt.*run=NAME"):
        train(tmp_path, *FAST, "trainer.max_steps=1")
    other.release()
    train(tmp_path, *FAST, "trainer.max_steps=1")


def test_a_run_whose_first_step_is_skipped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all callbacks; the loss of the first micro-batch is made no number."""
    forward, calls = Student.forward, [0]

    def poisoned(self: Any, batch: Any) -> Any:
        calls[0] += torch.is_grad_enabled()
        factor = float("nan") if calls[0] == 1 and torch.is_grad_enabled() else 1.0
        return forward(self, batch) * factor

    monkeypatch.setattr(Student, "forward", poisoned)
    results = train(tmp_path, *FAST, "trainer.max_steps=3")
    stage = tmp_path / "flan5m_chatgpt"
    assert results["skipped_steps"] == 1 and len(losses(stage)) == 3
    rows = read_metrics(stage / "metrics.csv")
    assert [s for s, n, _ in rows if n == "throughput/fill"] == [0, 1, 2]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_one_that_is_not() -> None:
    """The short form of benchmarks/kill_resume.py, on two ranks."""
    command = [sys.executable, str(ROOT / "benchmarks/kill_resume.py")]
    done = subprocess.run(
        [*command, "--kills", "3", "--steps", "150", "--matrix-steps", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("**identical**") == 2
