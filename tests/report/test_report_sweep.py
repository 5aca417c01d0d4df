"""Sweeps, from directories written by hand: intervals, groups, and what is missing."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from made_runs import losses, write_stage

from orca.report import (
    compare,
    estimate,
    read_run,
    read_sweep,
    save_csv,
    sweep_html,
    sweep_markdown,
    sweep_text,
    write_comparison,
    write_run_report,
    write_sweep_report,
)
from orca.report.__main__ import write
from orca.report.again import command
from orca.report.run_charts import compared_charts
from orca.report.sweep import t_quantile
from orca.report.sweep_tables import duration

STAGE = "flan5m_chatgpt"


def write_job(sweep: Path, options: list[str], loss: float | None, stages: int = 1) -> Path:
    """A job with its job.json; it is finished where it has a loss."""
    swept = [one for one in options if one.split("=")[0] in ("optimizer.lr", "seed", "arm")]
    job = sweep / ",".join(swept)
    names = [STAGE, "flan1m_gpt4"][:stages]
    for name in names:
        told = [one for one in options if not one.startswith(("arm", "resume"))]
        ends = None if loss is None else (5.0, loss)
        write_stage(job / name, losses([5.0, 4.0, loss or 3.0]), ends, told)
    record = {"launch": "x", "options": options, "launcher": [], "stages": names}
    (job / "job.json").write_text(json.dumps(record))
    return job


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two learning rates, three and one finished seeds, and a job that failed."""
    for lr, seed, loss in (("0.1", 1, 1.0), ("0.1", 2, 2.0), ("0.1", 3, 3.0), ("0.2", 1, 1.5)):
        write_job(tmp_path, ["model=tiny", f"optimizer.lr={lr}", f"seed={seed}"], loss)
    failed = tmp_path / "optimizer.lr=0.2,seed=2"
    failed.mkdir()
    record = {"options": ["model=tiny", "optimizer.lr=0.2", "seed=2"], "launcher": ["a/b=c"],
              "stages": [STAGE]}  # fmt: skip
    (failed / "job.json").write_text(json.dumps(record))
    (failed / "error.txt").write_text("the disk <is> full\n")
    return tmp_path


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_t_quantiles_are_those_of_textbooks(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=6e-4)


def test_t_quantiles_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (1, 2, 3, 4, 7, 20, 100, 1000):
        assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-6)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=12))
def test_an_interval_is_scipys(values: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = estimate(values)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.n == len(values) and found.mean == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(np.mean(values) - half, abs=1e-6)
    assert found.high == pytest.approx(np.mean(values) + half, abs=1e-6)


def test_jobs_are_grouped_by_what_was_swept_but_the_seed(sweep: Path) -> None:
    found = read_sweep(sweep)
    assert found.keys == ("optimizer.lr", "seed")
    assert [(g.label, len(g.jobs), len(g.finished)) for g in found.groups] == [
        ("optimizer.lr=0.2", 2, 1),
        ("optimizer.lr=0.1", 3, 3),
    ]
    one, three = (group.estimates()["held_out_loss"] for group in found.groups)
    assert (one.n, one.mean, one.low) == (1, 1.5, None)
    # The mean of 1, 2, 3 is 2 ± 4.303 · 1 / √3.
    assert three.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-4)
    assert three.high == pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-4)


def test_the_table_says_n_intervals_and_that_one_seed_has_none(sweep: Path) -> None:
    text = sweep_text(read_sweep(sweep))
    assert "2.0000 [-0.4841, 4.4841]" in text and "1.5000 (one seed)" in text
    assert "1 of 2" in text, "of two seeds one has finished"
    markdown = sweep_markdown(read_sweep(sweep))
    assert "| 0.1 | 3 | 2.0000 [-0.4841, 4.4841] |" in markdown and "t(0.975, n − 1)" in markdown


def test_the_csv_has_a_row_for_each_job_with_its_groups_interval(sweep: Path) -> None:
    save_csv(read_sweep(sweep), sweep / "sweep.csv")
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["held_out_loss"]) for row in rows] == [1.0, 1.5, 2.0, 3.0], "best first"
    by_job = {row["job"]: row for row in rows}
    own = by_job["optimizer.lr=0.1,seed=3"]
    assert (own["optimizer.lr"], own["seed"], own["seeds"], own["stage"]) == (
        "0.1",
        "3",
        "3",
        STAGE,
    )
    assert float(own["held_out_loss_low"]) == pytest.approx(-0.4841, abs=1e-4)
    assert by_job["optimizer.lr=0.2,seed=1"]["held_out_loss_low"] == ""


def test_a_failed_job_is_listed_with_its_reason_and_the_command_that_runs_it_again(
    sweep: Path,
) -> None:
    found = read_sweep(sweep)
    (job,) = found.unfinished
    again = (
        "python train.py -m model=tiny optimizer.lr=0.2 seed=2 resume=auto a/b=c "
        "\"hydra.sweep.subdir='optimizer.lr=0.2,seed=2'\""
    )
    assert job.run.state == "failed" and command(job.run) == again
    for text in (sweep_text(found), sweep_markdown(found)):
        assert "the disk <is> full" in text and again in text
    page = write_sweep_report(found).read_text()
    assert "the disk &lt;is&gt; full" in page and "optimizer.lr=0.2 seed=2 resume=auto" in page


def test_a_running_job_is_no_failure_and_gives_no_command(sweep: Path) -> None:
    job = write_job(sweep, ["model=tiny", "optimizer.lr=0.3", "seed=1"], None)
    with FileLock(job / f".{STAGE}.lock"):
        text = sweep_text(read_sweep(sweep))
    assert "running: optimizer.lr=0.3,seed=1" in text and "it is still running" in text
    assert "unfinished: optimizer.lr=0.3,seed=1" in sweep_text(read_sweep(sweep))


def test_a_job_whose_last_stage_never_began_has_not_finished(sweep: Path) -> None:
    """Its first stage has results, which must not pass for the job's."""
    job = write_job(sweep, ["model=tiny", "optimizer.lr=0.3", "seed=1"], 0.5)
    record = json.loads((job / "job.json").read_text()) | {"stages": [STAGE, "flan1m_gpt4"]}
    (job / "job.json").write_text(json.dumps(record))
    found = read_sweep(sweep)
    assert job.name in [one.run.name for one in found.unfinished]
    assert "flan1m_gpt4 not started" in sweep_text(found)
    (group,) = [g for g in found.groups if g.label == "optimizer.lr=0.3"]
    assert group.estimates() == {} and group.estimates(STAGE)["held_out_loss"].mean == 0.5


def test_a_job_that_was_run_again_stays_in_its_group(sweep: Path) -> None:
    again = ["model=tiny", "optimizer.lr=0.1", "seed=4", "resume=auto"]
    write_job(sweep, again, 2.0)
    (group,) = [g for g in read_sweep(sweep).groups if g.label == "optimizer.lr=0.1"]
    assert len(group.jobs) == 4


def test_jobs_of_several_stages_have_rows_for_each(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_job(tmp_path, ["model=tiny", f"seed={seed}"], 1.0 * seed, stages=2)
    found = read_sweep(tmp_path)
    save_csv(found, tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert "## After each stage" in sweep_markdown(found)
    (group,) = found.groups
    assert group.estimates()["held_out_loss"].n == 2, "a job counts once"


def test_an_older_sweep_is_known_by_its_directories_names(tmp_path: Path) -> None:
    """Without job.json: options from the names, the rest from what the last launch was told."""
    launch = {"hydra": {"overrides": {"task": ["experiment=one", "arm=b", "seed=2", "x=1"]}}}
    (tmp_path / "multirun.yaml").write_text(json.dumps(launch))
    for arm, loss in (("a", 1.0), ("b", 2.0)):
        job = write_job(tmp_path, [f"arm={arm}", "seed=2"], loss)
        (job / "job.json").unlink()
    (tmp_path / "arm=c,seed=2").mkdir()  # started, and left nothing
    found = read_sweep(tmp_path)
    assert {group.label for group in found.groups} == {"arm=a", "arm=b", "arm=c"}
    (lost,) = found.unfinished
    again = command(lost.run)
    assert again is not None
    assert again.startswith("python train.py -m experiment=one x=1 arm=c seed=2 resume=auto ")


def test_options_with_commas_in_names_are_not_torn_apart(tmp_path: Path) -> None:
    for value in ("[1,2]", "[3,4]"):
        write_stage(tmp_path / f"a={value},seed=1" / STAGE, losses([1.0]), (2.0, 1.0))
    assert [g.label for g in read_sweep(tmp_path).groups] == ["a=[1, 2]", "a=[3, 4]"]


def test_losses_of_other_held_out_sets_are_not_ranked(sweep: Path) -> None:
    """Neither those of other files, nor the same fractions of other data."""

    def told() -> tuple[str, str]:
        found = read_sweep(sweep)
        return sweep_text(found), sweep_html(found, sweep / "report.html")

    text, page = told()
    assert "different held-out sets" not in text and "lowest held-out loss" in page
    job = sweep / "optimizer.lr=0.1,seed=1" / STAGE / "data_card.json"
    job.write_text(job.read_text().replace('"same"', '"other"'))
    text, page = told()
    assert "2 different held-out sets" in text and "lowest held-out loss" not in page
    losses = [job.last and job.last.measures["held_out_loss"] for job in read_sweep(sweep).jobs]
    assert losses == [1.0, 2.0, 3.0, 1.5, None], "by name"
    assert [group.label[-1] for group in read_sweep(sweep).groups] == ["1", "2"]
    for number, card in enumerate(sorted(sweep.glob(f"*/{STAGE}/data_card.json"))):
        facts = {"held out": 0.1, "data": str(min(number, 1))}
        card.write_text(json.dumps(json.loads(card.read_text()) | {"facts": facts}))
    assert "2 different held-out sets" in told()[0]


def test_evaluations_of_jobs_are_measures_with_intervals(sweep: Path) -> None:
    from test_report_run import evaluation

    for seed, accuracy in ((1, 0.2), (2, 0.3), (3, 0.4)):
        job = sweep / f"optimizer.lr=0.1,seed={seed}"
        evaluation(job / "paper", f"lr 0.1, seed {seed}", accuracy)
    found = read_sweep(sweep)
    (group,) = [g for g in found.groups if g.label == "optimizer.lr=0.1"]
    own = group.estimates()["eval bbh (orca)"]
    assert (own.n, own.mean) == (3, pytest.approx(0.3))
    assert "30.0 % [5.2 %, 54.8 %]" in sweep_text(found)
    assert "same questions or protocol" not in sweep_text(found)
    assert "seeds)" not in sweep_text(found), "as many as the column of seeds says"
    for file in (sweep / "optimizer.lr=0.1,seed=3").rglob("report.json"):
        file.unlink()
    assert "] (2 seeds)" in sweep_text(read_sweep(sweep))


@pytest.mark.parametrize("differing", ["protocol", "items"])
def test_evaluations_that_asked_otherwise_are_told_apart(sweep: Path, differing: str) -> None:
    """The name of the protocol is the same with another limit of tokens, or another slice."""
    from test_report_run import evaluation

    for seed, limit in ((1, 96), (2, 192)):
        file = sweep / f"optimizer.lr=0.1,seed={seed}" / "paper" / "report.json"
        evaluation(file.parent, f"seed {seed}", 0.2)
        report = json.loads(file.read_text())
        tokens = limit if differing == "protocol" else 96
        report["facts"] = {"protocol": {"max_new_tokens": tokens}, "model": {"weights": seed}}
        report["about"] = {
            "asked": f"{limit} items" if differing == "items" else "all",
            "date": limit,
        }
        file.write_text(json.dumps(report))
    text = sweep_text(read_sweep(sweep))
    assert "warning: eval bbh (orca) is not of the same questions or protocol" in text


def test_runs_of_other_names_compare_by_their_configurations(tmp_path: Path) -> None:
    for name, seed, decay in (("one", 1, 0.1), ("two", 2, 0.1), ("three", 1, 0.2)):
        options = [f"seed={seed}", f"optimizer.weight_decay={decay}"]
        write_stage(tmp_path / name / STAGE, losses([2.0, 1.0]), (2.0, 1.0), options)
    runs = [read_run(tmp_path / name) for name in ("one", "two", "three")]
    found = compare(runs, tmp_path, "a comparison")
    assert {group.label for group in found.groups} == {"one, two", "three"}
    file = write_comparison([run.path for run in runs], tmp_path / "out" / "comparison.html")
    page = file.read_text()
    assert "optimizer.weight_decay" in page and "Runs beside each other" in page


def test_a_directory_with_a_run_and_a_sweep_has_a_page_of_each(sweep: Path) -> None:
    write_stage(sweep / STAGE, losses([2.0, 1.0]), (2.0, 1.0))
    assert write_run_report(sweep).name == "run.html"
    files = write(directories=[sweep], evaluations=[], out=None)
    assert {file.name for file in files if file.parent == sweep} == {"run.html", "report.html"}
    page = (sweep / "report.html").read_text()
    assert 'href="optimizer.lr%3D0.1%2Cseed%3D1/report.html"' in page


def test_many_jobs_make_a_page_of_moderate_size(tmp_path: Path) -> None:
    for seed in range(30):
        metrics = losses([1 + (i * seed) % 89 / 89 for i in range(3_000)])
        job = tmp_path / f"seed={seed}"
        write_stage(job / STAGE, metrics, (2.0, 1.0))
    found = read_sweep(tmp_path)
    assert 100_000 < len(sweep_html(found, tmp_path / "report.html")) < 1_500_000


def test_sub_collections_have_a_chart_each_apart_from_the_others(tmp_path: Path) -> None:
    for seed in (1, 2):
        metrics = losses([2.0, 1.0]) | {f"val/loss/{x}": [(0, 2.0), (2, 1.0)] for x in "ab"}
        write_stage(tmp_path / f"seed={seed}" / STAGE, metrics, (2.0, 1.0))
    runs = [job.run for job in read_sweep(tmp_path).jobs]
    charts, details = compared_charts(runs, [0, 0])
    assert [chart.title for chart in details] == ["Held-out loss on a", "Held-out loss on b"]
    assert charts[0].title.startswith("Held-out loss") and charts[0].is_wide
    assert [part.x.tolist() for part in charts[0].series[0].segments] == [[0, 20]], "target tokens"


@pytest.mark.parametrize(
    ("seconds", "text"), [(44.6, "45 s"), (600, "10 min"), (7_260, "2 h 01 min")]
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text
