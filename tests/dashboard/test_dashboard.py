"""The W&B workspace and report: what they name is logged, and saving them again makes no others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import compose_config
from wandb_offline import OfflineRun, offline_runs

from orca.config import CONF_DIR
from orca.dashboard import build_report, build_workspace, main, specification
from orca.dashboard_panels import RUN_FACTS, paper_tables
from orca.errors import UserError
from orca.evaluation.item import Item, Sample
from orca.evaluation.paper import AGIEVAL, ORCA
from orca.evaluation.protocol import Protocol
from orca.evaluation.results import build_results
from orca.evaluation.tracking import metrics
from orca.training import train_stage

pytest.importorskip("wandb_workspaces", reason="python -m orca.dashboard is an extra: dashboard")

SWEPT = ["optimizer.lr", "arm"]
KEY = "planted4711" * 4
ONLY_SOMETIMES = ("throughput/mfu", "guards/skipped_steps")
"""Logged on devices whose peak is known, and by steps whose loss is no number."""


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    given = ("team", "orca", "Orca", SWEPT)
    return specification(build_workspace(*given), build_report(*given, whole=False))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> OfflineRun:
    """A short run of the tiny student."""
    directory = tmp_path_factory.mktemp("run")
    config = compose_config(
        *("model=tiny", "logger.mode=offline", "precision=32-true", "trainer.max_steps=2"),
        *("callbacks.answers.questions=2", "callbacks.answers.max_new_tokens=4"),
        *("data.held_out_examples=4", "callbacks.checkpoints=null"),
        run_dir=directory,
    )
    train_stage(config, "flan5m_chatgpt")
    (found,) = offline_runs(directory)
    return found


def panels(value: Any) -> Iterator[dict[str, Any]]:
    """Every panel's configuration, at whatever depth."""
    if isinstance(value, dict):
        if "viewType" in value and "config" in value:
            yield value["config"]
        for inner in value.values():
            yield from panels(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from panels(inner)


def named_metrics(spec: Any) -> set[str]:
    """Metrics of lines, bars, axes, columns and goals, without W&B's ``.min`` and ``.last``."""
    found: set[str] = set()
    for panel in panels(spec):
        names = [*panel.get("metrics", []), panel.get("xAxis"), panel.get("targetKey")]
        accessors = [column["accessor"] for column in panel.get("columns", [])]
        names += [a.removeprefix("summary:") for a in accessors if a.startswith("summary:")]
        found |= {re.sub(r"\.(min|last)$", "", name) for name in names if name}
    return found - {"_step"}


def test_every_metric_of_a_panel_is_one_that_runs_log(
    spec: dict[str, Any], run: OfflineRun
) -> None:
    logged = set(run.metrics())
    for file in (CONF_DIR / "benchmark").glob("*.yaml"):
        name = file.stem
        item = Item(f"{name}/task/0", name, "task", "?", ("A", "B"), gold=("A",))
        sample = Sample(item.id, name, "task", 0, 0, 1, "?", "A", "stop", ("A",), "A", "A")
        results = build_results("m", {}, Protocol("orca"), {name: [item]}, [sample])
        logged |= set(metrics(results))
    source = "".join(f.read_text() for f in (CONF_DIR.parent / "orca/training").glob("*.py"))
    assert all(f'"{name}"' in source for name in ONLY_SOMETIMES)
    for part in ("workspace", "report"):
        wanted = named_metrics(spec[part])
        assert len(wanted) > 20
        assert not wanted - logged - set(ONLY_SOMETIMES), part
    assert "train/losss" not in logged  # so that a typo would be seen


def test_every_pattern_of_a_panel_finds_metrics(spec: dict[str, Any], run: OfflineRun) -> None:
    patterns = {panel["metricRegex"] for panel in panels(spec) if "metricRegex" in panel}
    assert patterns
    for pattern in patterns:
        assert [name for name in run.metrics() if re.fullmatch(pattern, name)], pattern


def test_every_key_that_panels_group_by_is_in_a_runs_configuration(
    spec: dict[str, Any], run: OfflineRun
) -> None:
    keys = {panel["groupBy"] for panel in panels(spec) if "groupBy" in panel}
    assert {"stage.value", "arm.value", "config.value.optimizer.lr"} <= keys
    for key in keys:
        first, _, rest = key.partition(".value")
        value: Any = run.config[first]
        for part in rest.strip(".").split(".") if rest else ():
            value = value[part]
    assert set(RUN_FACTS) <= set(run.config)


def test_the_report_has_the_papers_cells(spec: dict[str, Any]) -> None:
    text = json.dumps(spec["report"], ensure_ascii=False)
    for table in paper_tables():
        for row in table.texts():
            assert f"| {' | '.join(row)} |" in text
    assert str(AGIEVAL.averages[ORCA]) in text


def test_a_file_is_written_without_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    config = dashboard_config(out=str(tmp_path / "spec.json"), swept=["seed"])
    main(config)
    written = json.loads((tmp_path / "spec.json").read_text())
    assert written["workspace"]["name"] == written["report"]["name"] == "Orca"
    assert any("seed" in str(panel) for panel in panels(written))
    config.out = None
    with pytest.raises(UserError, match=r"no W&B key.*out=FILE"):
        main(config)
    config.swept = "seed"
    with pytest.raises(UserError, match=r"swept=seed: a list"):
        main(config)


def test_a_server_that_is_not_there_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 cannot be reached") as error:
        main(dashboard_config())
    assert KEY not in str(error.value)


def dashboard_config(**options: Any) -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        config = compose("dashboard", ["entity=team"])
    for name, value in options.items():
        config[name] = value
    return config


@dataclass
class Server:
    """A running graphql_server.py, which stands for W&B's."""

    url: str
    file: Path

    def told(self) -> dict[str, Any]:
        return json.loads(self.file.read_text())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    program = Path(__file__).parent / "graphql_server.py"
    command = [sys.executable, str(program), str(tmp_path / "views.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield Server(process.stdout.readline().strip(), tmp_path / "views.json")
    process.kill()
    process.communicate()


def save(server: Server, cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY,
        "PYTHONPATH": str(CONF_DIR.parent),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "orca.dashboard", "entity=team", *options],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.slow
def test_saving_again_brings_the_same_two_views_up_to_date(server: Server, tmp_path: Path) -> None:
    first = save(server, tmp_path)
    assert first.returncode == 0, first.stderr
    before = server.told()["views"]
    assert sorted(view["type"] for view in before.values()) == ["project-view", "runs"]
    again = save(server, tmp_path, "swept=[optimizer.lr]")
    assert again.returncode == 0, again.stderr
    told = server.told()
    assert set(told["views"]) == set(before) and not told["unknown"]
    for identity, view in told["views"].items():
        lr = "config.value.optimizer.lr"
        assert lr in view["spec"] and f'"groupBy":"{lr}"' not in before[identity]["spec"]
    report = next(i for i, view in before.items() if view["type"] == "runs")
    assert report in again.stdout and first.stdout == again.stdout
    shown = first.stdout + first.stderr + again.stdout + again.stderr
    assert KEY not in shown + json.dumps(told)


@pytest.mark.slow
def test_a_project_that_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    done = save(server, tmp_path, "project=elsewhere")
    assert done.returncode == 2 and "team/elsewhere" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not server.told()["views"]
