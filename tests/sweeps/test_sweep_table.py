"""How a sweep begins and ends: what is refused, which jobs count as finished, exit statuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from orca.config import _job
from orca.sweeps.jobs import ThisJob
from orca.sweeps.names import SweptOptions, quoted
from orca.training.sweep import SweepTable

RESULTS = {
    "held_out_loss": {"before": 2.0, "after": 1.0}, "exact_answer": None,
    "target_tokens": 5, "tokens_per_second": 1.0, "seconds": 1.0,
}  # fmt: skip


def configuration(directory: Path, *options: str, **more: Any) -> Any:
    base = {
        "model": {"name": "tiny"}, "data": {"name": "sample"}, "run": "${model.name}-${data.name}",
        "plan": False,
        "hydra": {
            "overrides": {"task": list(options)}, "sweep": {"dir": str(directory)},
            "sweeper": {"params": None}, "runtime": {"choices": {"hydra/launcher": "basic"}},
        },
    }  # fmt: skip
    return OmegaConf.merge(base, more)


def finished_job(directory: Path, launch: str) -> Path:
    (directory / "s").mkdir(parents=True)
    (directory / "s/config.yaml").write_text("seed: 1\n")
    (directory / "s/results.json").write_text(json.dumps(RESULTS))
    (directory / "job.json").write_text(json.dumps({"launch": launch, "stages": ["s"]}))
    return directory


def end(directory: Path, launch: str) -> int:
    """Exit status of a sweep's end."""
    table = SweepTable()
    table.launch = launch
    try:
        table.on_multirun_end(configuration(directory))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize(
    ("options", "varied"),
    [
        (["model=tiny,small"], "model"),
        (["seed=1,2", "data.name=a,b"], "data.name"),
        (["experiment=one,two"], "experiment"),
        (["run=a,b"], "run"),
        (["run=a", "paths.runs=x,y"], "paths.runs"),
    ],
)
def test_jobs_that_would_lie_in_several_directories_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], varied: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        SweptOptions().on_multirun_start(configuration(tmp_path, *options))
    assert ended.value.code == 2 and f"other {varied} would lie" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_models_and_experiments_vary_where_the_run_has_a_name(tmp_path: Path) -> None:
    options = ["run=a", "model=tiny,small", "experiment=one,two"]
    SweptOptions().on_multirun_start(configuration(tmp_path, *options, run="a"))
    assert json.loads((tmp_path / "swept.json").read_text()) == ["model", "experiment"]


def test_a_plan_leaves_nothing_and_is_not_launched(tmp_path: Path) -> None:
    directory = tmp_path / "runs"
    config = configuration(directory, "seed=1,2", plan=True)
    table = SweepTable()
    table.on_multirun_start(config)
    SweptOptions().on_multirun_start(config)
    directory.mkdir()
    (directory / "multirun.yaml").touch()  # Hydra's
    table.on_multirun_end(config)
    assert not directory.exists()
    config.hydra.runtime.choices["hydra/launcher"] = "joblib"
    with pytest.raises(SystemExit):
        SweptOptions().on_multirun_start(config)


def test_a_job_that_was_refused_has_not_ended_well_whatever_an_earlier_launch_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = finished_job(tmp_path / "seed=1", "new")
    assert end(tmp_path, "new") == 0
    (job / "error.txt").write_text("holds a finished run\n")
    assert end(tmp_path, "new") == 1
    said = capsys.readouterr().out
    assert "the last attempt of seed=1 failed (holds a finished run)" in said
    assert "not finished: seed=1" in said


def test_a_table_that_cannot_be_made_ends_the_sweep_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = finished_job(tmp_path / "seed=1", "new")
    (job / "s/results.json").write_text('{"stage": ')  # half written
    assert end(tmp_path, "new") == 1
    assert "results.json is no JSON" in capsys.readouterr().err


def test_a_job_that_ended_well_has_no_reason_of_another_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sweep is refused while the job trains, and says so in its directory."""
    hydra = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(tmp_path)}}})
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra.hydra)

    def main(_: Any) -> float:
        (tmp_path / "error.txt").write_text("another process trains here")
        return 1.0

    assert _job(main, [], ThisJob())(OmegaConf.create()) == 1.0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["a", "it's", "x='a b',y=\"c\"", "a\\", "a\\'b", "$`!{}[],"])
def test_a_quoted_value_is_read_to_the_letter(text: str) -> None:
    (read,) = OverridesParser.create().parse_overrides([f"key={quoted(text)}"])
    assert read.value() == text
