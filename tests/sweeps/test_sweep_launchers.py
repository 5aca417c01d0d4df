"""Whole sweeps through every launcher: jobs that fail, that are killed, that are told to stop."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from orca.config import CONF_DIR
from orca.training import newest_checkpoint

ROOT = CONF_DIR.parent
HAS_RAY = importlib.util.find_spec("ray") is not None
LAUNCHERS = [
    ["hydra/launcher=joblib"],
    pytest.param(
        ["hydra/launcher=ray", "hydra.launcher.cpus_per_rank=1"],
        marks=pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install '.[ray]'"),
    ),
    ["hydra/launcher=submitit_local"],
]
PROGRAM = """
import os, signal, time
from pathlib import Path
from orca.config import run_program
from orca.errors import UserError

def main(config):
    directory = Path(config.paths.run_dir)
    if config.seed == 2 and not (directory.parent / "mended").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == 3:
        raise UserError("this seed cannot be")
    with (directory / "ran").open("a") as file:
        file.write("ran")
    return float(config.seed)

if __name__ == "__main__":
    run_program(main, "train")
"""
TRAIN = [
    "model=tiny",
    "logger=csv",
    "precision=32-true",
    "callbacks.answers=null",
    "data.held_out_examples=4",
    "data.num_workers=0",
    "resume=auto",
    "run=r",
]


def start(program: Path, runs: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(program), "-m", f"paths.runs={runs}", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_a_job_that_is_a_process_has_the_command_lines_directories_and_variables(
    tmp_path: Path,
) -> None:
    for where in ("typed", "searched"):
        (tmp_path / where / "arm").mkdir(parents=True)
        text = f"# @package _global_\nseed: {len(where)}\n"
        (tmp_path / where / "arm" / f"{where}.yaml").write_text(text)
    program = tmp_path / "program.py"
    program.write_text(
        PROGRAM.replace('file.write("ran")', "file.write(f\"{config.seed} {os.environ['SAID']}\")")
    )
    options = ["hydra/launcher=joblib", "run=r", "arm=typed,searched"]
    options += [f"hydra.searchpath=['file://{tmp_path}/searched']"]
    options += ["+hydra.job.env_set.SAID=aloud", f"--config-dir={tmp_path}/typed"]
    finish(start(program, tmp_path, *options), 1)  # 1: nothing was trained
    for where in ("typed", "searched"):
        assert (tmp_path / f"r/arm={where}/ran").read_text() == f"{len(where)} aloud"
    told = json.loads((tmp_path / "r/arm=typed/job.json").read_text())["launcher"]
    assert f"hydra.searchpath=['file://{tmp_path}/typed','file://{tmp_path}/searched']" in told


def finish(process: subprocess.Popen[str], status: int) -> str:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == status, said[-3000:]
    return said


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS, ids=["joblib", "ray", "submitit_local"])
def test_a_killed_and_a_failed_job_lose_no_other_and_run_again_alone(
    tmp_path: Path, launcher: list[str]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    said = finish(start(program, tmp_path, *launcher, "run=r", "seed=1,2,3,4"), 1)
    sweep = tmp_path / "r"
    assert {d.name for d in sweep.glob("seed=*")} == {f"seed={i}" for i in (1, 2, 3, 4)}
    assert (sweep / "seed=1/ran").exists() and (sweep / "seed=4/ran").exists()
    if launcher[0] != "hydra/launcher=submitit_local":
        assert "seed=2: killed by SIGKILL" in said
        assert "seed=3: status 2: this seed cannot be" in said and "Traceback" not in said
    (sweep / "mended").touch()
    finish(start(program, tmp_path, *launcher, "run=r", "seed=2"), 1)  # 1: nothing was trained
    assert (sweep / "seed=2/ran").read_text() == "ran"
    assert (sweep / "seed=1/ran").read_text() == "ran"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS, ids=["joblib", "ray", "submitit_local"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_sweep_leaves_no_process_and_goes_on(
    tmp_path: Path, launcher: list[str], number: signal.Signals
) -> None:
    """Two trainings side by side; SIGTERM saves both, SIGKILL ends them where they are."""
    if launcher[0] == "hydra/launcher=submitit_local" and number == signal.SIGKILL:
        pytest.skip("its jobs are the scheduler's: they run on, as documented")
    train = ROOT / "train.py"
    options = [*launcher, *TRAIN, "trainer.max_steps=400", "optimizer.lr=1e-3,2e-3"]
    options += ["callbacks.checkpoints.every_n_steps=20"]
    if "joblib" in launcher[0]:
        options.append("hydra.launcher.n_jobs=2")
    sweep = start(train, tmp_path, *options)
    stages = [tmp_path / f"r/optimizer.lr={lr}/flan5m_chatgpt" for lr in ("0.001", "0.002")]
    deadline = time.time() + 200
    while time.time() < deadline and sweep.poll() is None:
        if all(newest_checkpoint(stage / "checkpoints") for stage in stages):
            break
        time.sleep(0.1)
    processes = psutil.Process(sweep.pid).children(recursive=True)
    assert processes and sweep.poll() is None, "the sweep ended before it could be stopped"
    sweep.send_signal(number)
    if number == signal.SIGTERM:
        said = finish(sweep, 75)
        assert "told to stop (SIGTERM)" in said and "resume=auto" in said, said[-2000:]
        # submitit's local executor shows the KeyboardInterrupt with which it cancels a job.
        assert "Traceback" not in said or "submitit_local" in launcher[0]
    else:
        sweep.communicate(timeout=60)
    left = psutil.wait_procs(processes, timeout=30)[1]
    # Agents of Ray, which train nothing, look for their killed raylet less often than that.
    left = [p for p in left if "Agent" not in p.name()]
    assert not left, "processes outlive the sweep"
    assert not any((stage / "results.json").exists() for stage in stages)
    said = finish(start(train, tmp_path, *options), 0)
    assert all((stage / "results.json").exists() for stage in stages)
    assert (tmp_path / "r/sweep.csv").exists()
    logs = "".join(path.read_text() for path in (tmp_path / "r").rglob("output.log"))
    if launcher[0] != "hydra/launcher=submitit_local":
        assert logs.count("resuming after step") == 2
