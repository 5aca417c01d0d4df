"""What W&B has of an evaluation, read back from the file of an offline run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_report_page import HIDDEN, make_results
from wandb_offline import OfflineRun, read_offline_run

from orca.evaluation import log_results, save_results
from orca.evaluation.results import Results
from orca.evaluation.tracking import metrics
from orca.training import wandb_logger


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results()


TRAINED = {
    **{"id": "abcd1234", "name": "pairs/seed=1/flan1m_gpt4", "group": "pairs"},
    **{"stage": "flan1m_gpt4", "model": "tiny", "data": "sample", "seed": 1},
}


@pytest.fixture(scope="module")
def offline(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an offline run with the results."""
    directory = tmp_path_factory.mktemp("run")
    results.facts = {**results.facts, "trained by": TRAINED}
    save_results(results, directory)
    (directory / "samples").mkdir()
    (directory / "samples/part-00000.parquet").write_bytes(HIDDEN.encode())
    given = ("orca", "a run", "pairs", "offline", [], "evaluation")
    logger = wandb_logger(str(directory), *given)
    log_results(results, logger, directory)
    logger.experiment.finish()
    (run,) = (directory / "wandb").glob("offline-run-*")
    return run


@pytest.fixture(scope="module")
def run(offline: Path) -> OfflineRun:
    return read_offline_run(offline)


@pytest.fixture(scope="module")
def logged(run: OfflineRun) -> dict[str, Any]:
    """Everything that was logged, by name; a table is a dictionary. All of it is one row."""
    (row,) = run.history
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name.startswith(("tables/", "plots/")):
            key, _, inner = name.rpartition("/")
            found.setdefault(key, {})[inner] = value
        else:
            found[name] = value
    return found


def test_every_score_is_a_metric_in_per_cent(results: Results, logged: dict[str, Any]) -> None:
    wanted = metrics(results)
    assert {name: logged.get(name) for name in wanted} == pytest.approx(wanted)
    head = "a run (orca, message 5)"
    average = results.scores["bbh"][head][-1]
    assert wanted[f"eval/bbh/accuracy/{head}"] == average.accuracy.value
    assert len([name for name in wanted if name.startswith("eval/bbh/")]) == 3 * 3 * 24
    assert f"eval/vicuna/of_ChatGPT/{head}" in wanted
    assert wanted["eval/toxigen/hate/average/mean"] == pytest.approx(0.2)


def test_the_metric_of_a_single_run_has_its_plain_name(results: Results) -> None:
    results = Results("m", {}, scores={"bbh": {"m (orca)": results.scores["bbh"].popitem()[1]}})
    assert {"eval/bbh/navigate/accuracy", "eval/bbh/format_failures"} <= set(metrics(results))


def test_tables_have_the_reports_cells(
    results: Results, logged: dict[str, Any], offline: Path
) -> None:
    kept = [logged[name] for name in logged if name.startswith("tables/")]
    tables = [*results.tables, *results.details]
    assert len(kept) == len(tables) == 15
    assert {reference["_type"] for reference in kept} == {"table-file"}
    files = [json.loads((offline / "files" / one["path"]).read_text()) for one in kept]
    found = sorted(json.dumps([one["columns"], one["data"]]) for one in files)
    assert found == sorted(json.dumps([*table.values()]) for table in tables)


def test_each_benchmark_and_message_has_a_plot(logged: dict[str, Any], offline: Path) -> None:
    plots = [name for name in logged if name.startswith("plots/")]
    assert len(plots) == 9
    plot = next(name for name in plots if "on_agieval" in name)
    found = json.loads((offline / "files" / logged[plot]["path"]).read_text())
    assert found["columns"] == ["task", "accuracy, %"] and len(found["data"]) == 8


def test_the_configuration_is_the_facts_and_no_text_is_sent(
    results: Results, offline: Path, run: OfflineRun
) -> None:
    assert run.config["evaluation"] == results.facts
    assert run.config["about"] == results.about
    files = [file for file in offline.rglob("*") if file.is_file()]
    assert len(files) > 15
    for file in files:
        for text in (HIDDEN, "An <i>answer</i>"):
            assert text.encode() not in file.read_bytes(), file


def test_the_run_is_in_the_group_of_the_model_and_names_its_run(
    run: OfflineRun, offline: Path
) -> None:
    assert (run.group, run.job_type, run.name) == ("pairs", "evaluation", "a run")
    assert (run.config["uses_run"], run.config["uses_model"]) == ("abcd1234", "hf-abcd1234")
    known = {name: TRAINED[name] for name in ("stage", "model", "data", "seed")}
    assert {name: run.config[name] for name in known} == known
    out = offline.parents[1]
    entries = run.artifacts[f"evaluation-{run.id}"]["entries"]
    part = "samples/part-00000.parquet"
    assert entries == {"report.json": str(out / "report.json"), part: (out / part).as_uri()}
