"""Runs on one device that lose a worker or their disk: a sentence, and a state to go on from."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_stage import FAST, ROOT, losses, train

from orca.errors import UserError
from orca.training import newest_checkpoint
from orca.training.checkpoint import CheckpointWriter


def test_a_killed_worker_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *FAST, "epochs=50", "run=r"]
    command += [f"paths.runs={tmp_path}", "data.num_workers=1", "data.window=4"]
    command += ["callbacks.checkpoints.every_n_steps=2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    stage = tmp_path / "r" / "flan5m_chatgpt"
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        if (stage / "metrics.csv").exists() and len(losses(stage)) > 4:
            break
        time.sleep(0.02)
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
