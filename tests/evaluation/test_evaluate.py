"""The program, with the real embedded model: killed, started again, and its options."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from orca.config import CONF_DIR, check_config
from orca.evaluation import read_samples

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("benchmark", "engine", "judge", "protocol", "toxicity")


def command(out: Path, *options: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "evaluate.py"), "model=smollm2_135m", "benchmark=[truthfulqa]",
        "fraction=0.02", "protocol=greedy", "protocol.max_new_tokens=6", f"out={out}", *options,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(
    shared_data: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "ORCA_SHARED_DATA": str(shared_data)}
    whole = subprocess.run(
        command(tmp_path / "whole"), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    assert "### truthfulqa, accuracy, %" in whole.stdout and "smollm2_135m (greedy)" in whole.stdout
    begun = subprocess.run(
        command(tmp_path / "killed", "fraction=0.01"), cwd=tmp_path, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert begun.returncode == 0, begun.stderr
    process = subprocess.Popen(
        command(tmp_path / "killed"), cwd=tmp_path, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    told = next(line for line in process.stdout if " answers, " in line)  # it asks from here on
    assert told.startswith("14 answers, 7 of them there")
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    again = subprocess.run(
        command(tmp_path / "killed"), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    answers = [
        sorted((s.item, s.text) for s in read_samples(tmp_path / name))
        for name in ("whole", "killed")
    ]
    assert answers[0] == answers[1] and len({item for item, _ in answers[0]}) == 14


@pytest.mark.parametrize(
    ("group", "option"),
    [(g, f.stem) for g in GROUPS for f in sorted((CONF_DIR / g).glob("*.yaml"))],
)
def test_every_option_of_the_groups_composes_into_the_program(group: str, option: str) -> None:
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        config = compose("evaluate", [f"{group}={option}", "model_path=a/b/hf"])
    check_config(config, list(config))
    assert config.name == "a-b" and config.out == "evaluations/a-b"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("fraction=2", "fraction=2: a number above 0"),
        ("fraction=10%", "fraction=10%: a number above 0"),
        ("system_message=1", "system_message=1: a list"),
        ("system_message=[99]", "must be 1 to 17"),
        ("protocol.draws=2", "every draw would be the same"),
        ("compare=/nowhere/run", "compare=/nowhere/run: a list"),
        ("compare=[/nowhere/run]", "/nowhere/run is no run of evaluate.py"),
        ("traces.path=/nowhere/traces", "/nowhere/traces"),
        ("benchmark.truthfulqa.path=/nowhere", "/nowhere"),
        ("protokol=orca", "protokol"),
        ("benchmark=[agievl]", "there is no benchmark=agievl. Did you mean agieval?"),
        ("model=/nowhere/model", "/nowhere/model"),
        ("model=/nowhere/arm=a,seed=1/hf", "/nowhere/arm=a,seed=1/hf"),
    ],
)
def test_an_option_that_cannot_be_is_a_sentence(
    option: str, message: str, shared_data: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "ORCA_SHARED_DATA": str(shared_data)}
    done = subprocess.run(
        command(tmp_path / "out", option), cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
