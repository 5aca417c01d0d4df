"""A job of a sweep as a process: its end is told, it ends when asked, it outlives nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from orca.config import CONF_DIR
from orca.errors import UserError
from orca.sweeps import launchers
from orca.sweeps.jobs import Job, Outcome, StopRequest, run_process
from orca.sweeps.launchers import JoblibLauncher, jobs_at_once
from orca.sweeps.names import SweptOptions, sweep_job_name

JOB_SIDE = "from orca.sweeps.jobs import ThisJob; job = ThisJob(); "
PATIENT = JOB_SIDE + (
    "import pathlib, signal, sys, time; "
    "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('saved').touch(), sys.exit(75))); "
    "pathlib.Path('ready').touch(); time.sleep(60)"
)
TWO_ERRORS = "import sys; print('error: no such file\\nerror: ranks failed'); sys.exit(2)"
STUBBORN = PATIENT.replace("(pathlib.Path('saved').touch(), sys.exit(75))", "None")


def run(code: str, directory: Path, urgency: Any = lambda: 0) -> Outcome:
    environment = {"PYTHONPATH": str(CONF_DIR.parent)}
    return run_process(
        [sys.executable, "-c", code], directory, environment, urgency, str(directory)
    )


@pytest.mark.parametrize(
    ("code", "status", "value", "why"),
    [
        (JOB_SIDE + "job.give_back(0.25)", 0, 0.25, ""),
        (JOB_SIDE + "job.give_back(None)", 0, None, ""),
        (TWO_ERRORS, 2, None, "status 2: no such file"),
        ("import sys; print('later'); sys.exit(75)", 75, None, "unfinished: later"),
        ("raise RuntimeError('broken')", 1, None, "status 1: RuntimeError: broken"),
        ("import os; os.kill(os.getpid(), 9)", -9, None, "killed by SIGKILL"),
    ],
)
def test_the_end_of_a_job_is_told_with_its_reason(
    tmp_path: Path, code: str, status: int, value: float | None, why: str
) -> None:
    (tmp_path / ".value.json").write_text("3.0")  # an earlier run's
    outcome = run(code, tmp_path)
    assert (outcome.status, outcome.value) == (status, value)
    assert outcome.why.startswith(why) and bool(outcome.why) == bool(status)


@pytest.mark.parametrize(("code", "urgency", "saves"), [(PATIENT, 1, True), (STUBBORN, 2, False)])
def test_a_job_that_is_told_to_stop_saves_or_ends_at_once(
    tmp_path: Path, code: str, urgency: int, saves: bool
) -> None:
    begun = time.time()
    outcome = run(code, tmp_path, lambda: urgency if (tmp_path / "ready").exists() else 0)
    assert outcome.status is None and time.time() - begun < 30
    assert (tmp_path / "saved").exists() == saves


def test_a_job_ends_with_its_launcher(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, os; from orca.sweeps.jobs import run_process; "
        f"run_process([sys.executable, '-c', {PATIENT!r}], pathlib.Path(), {{}}, lambda: 0, '.')"
    )
    environment = {**os.environ, "PYTHONPATH": str(CONF_DIR.parent)}
    launcher = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    deadline = time.time() + 60
    while not (tmp_path / "ready").exists() and time.time() < deadline:
        time.sleep(0.05)
    (job,) = psutil.Process(launcher.pid).children()
    launcher.kill()
    launcher.wait()
    assert not psutil.wait_procs([job], timeout=10)[1], "the job runs on without its launcher"
    assert not (tmp_path / "saved").exists()


def test_a_second_ctrl_c_and_no_second_sigterm_is_urgent() -> None:
    stop, before = StopRequest(), signal.getsignal(signal.SIGINT)
    with stop.listening():
        assert stop.urgency == 0
        for number, urgency in ((15, 1), (15, 1), (2, 1), (2, 2)):
            os.kill(os.getpid(), number)
            assert stop.urgency == urgency
    assert signal.getsignal(signal.SIGINT) is before


def job(number: int, gpus: int = 0, ranks: int = 1) -> Job:
    return Job(number, f"job{number}", Path(f"job{number}"), [], gpus, ranks)


def test_jobs_at_once_have_gpus_or_cores_of_their_own() -> None:
    def at_once(n: int, each: int, gpus: int, cores: int = 64, jobs: int = 99) -> int:
        ranks = max(each, 1)
        return jobs_at_once(n, [job(i, each, ranks) for i in range(jobs)], gpus, cores)

    assert [at_once(-1, each, 8) for each in (1, 2, 3, 8)] == [8, 4, 2, 1]
    assert [at_once(-1, 0, 0, cores) for cores in (1, 2, 4, 16)] == [1, 2, 2, 4]
    assert at_once(-1, 1, 8, jobs=3) == 3 and at_once(2, 1, 8) == 2
    with pytest.raises(UserError, match=r"n_jobs=9 on 8 GPU\(s\), 1 for a job.*Take 1 to 8"):
        at_once(9, 1, 8)
    with pytest.raises(UserError, match=r"n_jobs=5 on 4 core\(s\)"):
        at_once(5, 0, 0, 4)
    with pytest.raises(UserError, match="n_jobs=0"):
        at_once(0, 0, 0, 4)


def test_no_two_jobs_share_a_gpu_and_a_failed_one_gives_its_own_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five GPUs of this process, two for each of seven jobs; the machine is made up."""
    in_use: Counter[str] = Counter()
    seen: list[str] = []

    def pretend(command: Any, directory: Path, environment: dict[str, str], *_: Any) -> Outcome:
        mine = environment["CUDA_VISIBLE_DEVICES"].split(",")
        in_use.update(mine)
        assert len(mine) == 2 and max(in_use.values()) == 1
        time.sleep(0.02)
        in_use.subtract(mine)
        seen.append(directory.name)
        return Outcome(-9, why="killed by SIGKILL") if directory.name == "job1" else Outcome(0, 1.0)

    monkeypatch.setattr(launchers, "visible_gpus", lambda: ["0", "2", "3", "5", "7"])
    monkeypatch.setattr(launchers, "run_process", pretend)
    told: list[int] = []
    outcomes = JoblibLauncher(n_jobs=-1)._run(
        [job(i, gpus=2, ranks=2) for i in range(7)],
        StopRequest(),
        lambda j, _: told.append(j.number),
    )
    assert sorted(seen) == [f"job{i}" for i in range(7)] and sorted(told) == list(range(7))
    assert [outcome.status for outcome in outcomes] == [0, -9, 0, 0, 0, 0, 0]
    assert not +in_use


def test_a_job_run_alone_has_the_directory_that_it_had_in_the_sweep(tmp_path: Path) -> None:
    def name(*options: str, params: dict[str, str] | None = None) -> str:
        hydra = {
            "overrides": {"task": list(options)},
            "sweep": {"dir": str(tmp_path)},
            "sweeper": {"params": params},
        }
        config = OmegaConf.create({"hydra": hydra})
        SweptOptions().on_multirun_start(config)
        given = [*(f"{key}={value}" for key, value in (params or {}).items()), *options]
        overrides = OverridesParser.create().parse_overrides(given)
        config.hydra.overrides.task = BasicSweeper.split_arguments(overrides, None)[0][0]
        HydraConfig.instance().cfg = config
        try:
            return sweep_job_name(7)
        finally:
            HydraConfig.instance().cfg = None

    assert name("model=tiny", "seed=3") == "7"  # nothing varies
    assert name("model=tiny", "optimizer.lr=1e-4,1e-3") == "optimizer.lr=0.0001"
    assert name("optimizer.lr=1e-3", "model=tiny") == "optimizer.lr=0.001"
    assert name("seed=1,2", "optimizer.lr=1e-3") == "optimizer.lr=0.001,seed=1"
    assert name("model=tiny", "optimizer.lr=1e-4,1e-3") == "optimizer.lr=0.0001"
    assert name("optimizer.lr=1e-3", params={"arm": "a,b"}) == "optimizer.lr=0.001,arm=a"
    assert name("arm=x/y") == "arm=x_y"
