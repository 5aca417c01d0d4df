"""What W&B has of a sweep of stage pairs, read back from its offline files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb_offline import OfflineRun, offline_runs, read_offline_run

from orca.config import CONF_DIR
from orca.training import (
    WandbRun,
    model_artifact,
    read_metrics,
    trained_by,
    use_model,
    wandb_logger,
)
from orca.training.wandb_run import X_AXES, finish_failed, has_api_key

ROOT = CONF_DIR.parent
KEY = "planted4711" * 4
STAGES = ("flan5m_chatgpt", "flan1m_gpt4")
LOGGED = (
    *("train/loss", "train/gradient_norm", "train/lr", "val/loss", "val/exact_answer"),
    *("data/progress", "data/tokens", "data/target_tokens", "data/response_tokens"),
    *("throughput/tokens_per_second", "throughput/target_tokens_per_second"),
    *("throughput/data_wait", "throughput/fill", "throughput/peak_memory_gib"),
    "samples/response_tokens",
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two jobs of both stages, with a key in the environment."""
    runs = tmp_path_factory.mktemp("runs")
    command = [
        *(sys.executable, str(ROOT / "train.py"), "-m", "model=tiny", "stage=progressive"),
        *("seed=1,2", "trainer.max_steps=3", "trainer.val_check_interval=2", "run=pairs"),
        *("precision=32-true", "data.held_out_examples=4", "callbacks.answers.questions=2"),
        *("callbacks.answers.max_new_tokens=4", f"paths.runs={runs}", "logger.mode=offline"),
        "logger.tags=[mine]",
    ]
    environment = {**os.environ, "WANDB_API_KEY": KEY}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (runs / "output.txt").write_text(done.stdout + done.stderr)
    return runs


@pytest.fixture(scope="module")
def found(sweep: Path) -> list[OfflineRun]:
    return offline_runs(sweep)


def directory(sweep: Path, run: OfflineRun) -> Path:
    return sweep / run.name  # a run is named as its directory


def test_every_job_and_stage_is_a_run_of_one_group(sweep: Path, found: list[OfflineRun]) -> None:
    names = [f"pairs/seed={seed}/{stage}" for seed in (1, 2) for stage in sorted(STAGES)]
    assert [run.name for run in found] == names
    assert {run.group for run in found} == {"pairs"} and len({run.id for run in found}) == 4
    for run in found:
        _, job, stage = run.name.split("/")
        assert run.job_type == stage and run.ended == 0
        assert set(run.tags) == {"mine", stage, "tiny", "sample"}
        known = {"model": "tiny", "data": "sample", "stage": stage, "arm": None, "job": job}
        assert {name: run.config[name] for name in known} == known
        assert job == f"seed={run.config['seed']}" == f"seed={run.config['config']['seed']}"
        assert run.id == (directory(sweep, run) / "wandb_id.txt").read_text()


def test_every_metric_has_the_values_of_the_csv_file(sweep: Path, found: list[OfflineRun]) -> None:
    for run in found:
        rows = {row["_step"]: row for row in run.history}
        assert len(rows) == len(run.history), "a step has two rows"
        written = read_metrics(directory(sweep, run) / "metrics.csv")
        last = {(step, name): value for step, name, value in written}
        assert set(LOGGED) <= {name for _, name in last} <= set(run.metrics())
        for (step, name), value in last.items():
            assert rows[step][name] == pytest.approx(value, rel=1e-12), (step, name)
        assert [name for name in run.metrics() if name.startswith("val/loss/")]


def test_every_row_can_be_plotted_against_the_other_axes(found: list[OfflineRun]) -> None:
    for run in found:
        for row in run.history:
            assert set(X_AXES) <= set(row)
        tokens = [row["data/target_tokens"] for row in run.history]
        assert tokens == sorted(tokens) and tokens[-1] > tokens[0] > 0


def test_the_summary_has_the_lowest_loss_and_the_last_answers(found: list[OfflineRun]) -> None:
    for run in found:
        losses = [value for _, value in run.metrics()["val/loss"]]
        assert len(losses) == 3
        assert run.summary["val/loss"] == {"min": min(losses), "last": losses[-1]}
        assert run.summary["val/exact_answer"] == run.metrics()["val/exact_answer"][-1][1]
        assert run.summary["results"]["held_out_loss"]["after"] == losses[-1]


def test_artifacts_are_card_samples_and_the_model_by_address(
    sweep: Path, found: list[OfflineRun]
) -> None:
    for run in found:
        own = directory(sweep, run)
        card, samples, model = (
            run.artifacts[f"{kind}-{run.id}"] for kind in ("data-card", "samples", "hf")
        )
        assert set(card["entries"]) == {"data_card.json", "data_card.md"}
        assert samples["entries"] == {"samples.jsonl": str(own / "samples.jsonl")}
        weights = model["entries"]["hf/model.safetensors"]
        assert weights == (own / "hf/model.safetensors").as_uri()
        handoff = json.loads((own / "hf/orca.json").read_text())
        assert model["metadata"] == handoff and run.config["weights"] == handoff["weights"]
        (offline,) = (own / "wandb").glob("offline-run-*")
        assert not list(offline.rglob("*.safetensors"))
        assert (offline / "files/data_card.json").read_text() == (
            own / "data_card.json"
        ).read_text()


def test_stage_two_names_the_run_that_it_began_with(sweep: Path, found: list[OfflineRun]) -> None:
    by_name = {run.name: run for run in found}
    for seed in (1, 2):
        first, second = (by_name[f"pairs/seed={seed}/{stage}"] for stage in STAGES)
        assert second.config["uses_run"] == first.id
        assert second.config["uses_model"] in first.artifacts
        assert "uses_run" not in first.config
        handoff = json.loads((directory(sweep, second) / "hf/orca.json").read_text())
        assert handoff["started_from"]["run"]["id"] == first.id
        assert handoff["started_from"]["weights"] == first.config["weights"]
        trained = trained_by(directory(sweep, second) / "hf")
        assert trained and trained["id"] == second.id and trained["group"] == second.group


def test_the_key_is_in_no_file_and_no_output(sweep: Path) -> None:
    files = [file for file in sweep.rglob("*") if file.is_file()]
    assert {".wandb", ".log", ".yaml", ".csv", ".json"} <= {file.suffix for file in files}
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


def test_a_run_that_failed_is_ended_and_the_next_is_another(tmp_path: Path) -> None:
    for name in ("one", "two"):
        logger = wandb_logger(str(tmp_path / name), "orca", name, "group", "offline", [])
        logger.log_metrics({"train/loss": 1.0}, 0)
        finish_failed()
    one, two = offline_runs(tmp_path)
    assert (one.name, one.ended, two.name, two.ended) == ("one", 1, "two", 1)
    assert one.id != two.id and len(two.history) == 1


class LoggedRun:
    """Keeps what is logged; it has seven steps already."""

    step = 7

    def __init__(self, **_: Any) -> None:
        self.rows: list[tuple[int | None, dict[str, Any]]] = []

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    def log(self, row: dict[str, Any], step: int | None = None) -> None:
        self.rows.append((step, row))


@pytest.mark.parametrize(("appends", "step"), [(False, 2), (True, 9)])
def test_a_collection_counts_on_and_a_stage_names_its_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appends: bool, step: int
) -> None:
    import wandb

    monkeypatch.setattr(wandb, "init", LoggedRun)
    logger = wandb_logger(str(tmp_path), "orca", "n", None, "offline", [], appends=appends)
    logger.log_metrics({"done": 1.0}, 2)
    assert logger.experiment.rows == [(step, {"done": 1.0})]


def test_steps_do_not_go_back() -> None:
    run = LoggedRun()
    logger = WandbRun(experiment=run)  # type: ignore[arg-type]
    logger.log_metrics({"data/progress": 0.1, "data/target_tokens": 7, "epoch": 0}, 4)
    logger.log_metrics({"val/loss": 1.0}, 5)
    logger.log_metrics({"eval/bbh/accuracy": 0.5}, 4)  # asked with the validation, a step less
    logger.log_metrics({"samples/held_out": "a table"})
    axes = {"data/progress": 0.1, "data/target_tokens": 7}
    assert run.rows == [
        (4, axes),
        (5, axes | {"val/loss": 1.0}),
        (5, axes | {"eval/bbh/accuracy": 0.5}),
        (5, axes | {"samples/held_out": "a table"}),
    ]


class OnlineRun:
    """Stands for a run of a server, which there is none of: keeps what it is told."""

    offline = False

    def __init__(self, error: Exception | None = None) -> None:
        self.config: dict[str, Any] = {}
        self.used: list[str] = []
        self.error = error
        self.config = type("Config", (dict,), {"update": lambda s, d, **_: dict.update(s, d)})()

    def use_artifact(self, name: str, type: str) -> None:
        if self.error:
            raise self.error
        self.used.append(name)


def test_online_the_model_of_another_run_is_linked(capsys: pytest.CaptureFixture[str]) -> None:
    import wandb

    run = OnlineRun()
    use_model(run, {"id": "abcd"})
    assert run.used == [f"{model_artifact('abcd')}:latest"] and run.config["uses_run"] == "abcd"
    unsent = OnlineRun(wandb.errors.CommError("no such artifact"))
    use_model(unsent, {"id": "abcd"})
    assert unsent.config["uses_model"] == "hf-abcd"
    assert "hf-abcd is named but not linked (no such artifact)" in capsys.readouterr().err


def test_a_key_is_found_for_the_server_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(file))
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example.org")
    assert not has_api_key()
    file.write_text(f"machine wandb.example.org\n  login user\n  password {KEY}\n")
    assert has_api_key()
    monkeypatch.setenv("WANDB_BASE_URL", "http://elsewhere.example.org")
    assert not has_api_key()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_api_key()


def test_a_file_that_is_cut_off_is_read_to_its_last_whole_record(sweep: Path) -> None:
    offline = next(path for path in sweep.rglob("offline-run-*") if path.is_dir())
    (file,) = offline.glob("*.wandb")
    content = file.read_bytes()
    try:
        file.write_bytes(content[: len(content) // 2])
        run = read_offline_run(offline, wait=0.0)
    finally:
        file.write_bytes(content)
    assert run.ended is None and run.name
