"""A real sweep by train.py, and its pages as a person sees them: opened in a real browser."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_runs import HOSTILE, losses, sample, write_stage

from orca.config import CONF_DIR
from orca.report import read_sweep, write_run_report
from orca.report.again import command

ROOT = CONF_DIR.parent
OPTIONS = (
    *("model=tiny", "logger=csv", "precision=32-true", "stage=progressive"),
    *("trainer.max_steps=4", "trainer.val_check_interval=2", "data.held_out_examples=4"),
    *("callbacks.answers.questions=2", "callbacks.answers.max_new_tokens=4"),
)
STAGES = ("flan5m_chatgpt", "flan1m_gpt4")


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """Two learning rates and one that is refused, with two seeds: six jobs of two stages."""
    runs = tmp_path_factory.mktemp("runs")
    options = (f"paths.runs={runs}", "run=real", "optimizer.lr=1e-3,1e-2,-1", "seed=1,2")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "-m", *OPTIONS, *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    done.runs = runs / "real"  # type: ignore[attr-defined]
    return done


@pytest.fixture(scope="module")
def real(launch: Any) -> Path:
    return launch.runs


def test_a_sweep_ends_with_its_table_and_with_status_1_when_a_job_failed(
    launch: Any, real: Path
) -> None:
    assert launch.returncode == 1, launch.stderr[-2000:]
    table = (real / "sweep.md").read_text()
    with (real / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and {row["seeds"] for row in rows} == {"2"}
    for row in rows:
        low, mean, high = (float(row[f"held_out_loss_{x}"]) for x in ("low", "mean", "high"))
        assert low <= mean <= high
    last = [row for row in rows if row["stage"] == STAGES[1] and row["optimizer.lr"] == "0.01"]
    mean = sum(float(row["held_out_loss"]) for row in last) / 2
    assert f"| 0.01 | 2 | {mean:.4f} [" in table and f"{mean:.4f} [" in launch.stdout
    assert "optimizer.lr=-1 must be a number that is not negative" in table
    assert "not finished: optimizer.lr=-1,seed=1, optimizer.lr=-1,seed=2" in launch.stdout


def test_jobs_in_processes_of_their_own_leave_their_reasons_too(tmp_path: Path) -> None:
    """With joblib the sweep's own process runs no job, and sees no exception of one."""
    pytest.importorskip("joblib")
    options = (f"paths.runs={tmp_path}", "run=own", "optimizer.lr=1e-3,-1", "stage=flan5m_chatgpt")
    command = [sys.executable, str(ROOT / "train.py"), "-m", *OPTIONS, *options]
    command += ["hydra/launcher=joblib"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr[-2000:]
    found = {job.options["optimizer.lr"]: job.run for job in read_sweep(tmp_path / "own").jobs}
    assert [found[lr].state for lr in ("0.001", "-1")] == ["finished", "failed"]
    assert "must be a number that is not negative" in (found["-1"].error or "")
    assert found["-1"].job["launcher"] == ["hydra/launcher=joblib"]
    assert (tmp_path / "own" / "report.html").exists()
    assert (found["0.001"].path / "report.html").exists()


def test_every_job_that_trained_has_a_page_and_says_what_trained_it(real: Path) -> None:
    for job in read_sweep(real).jobs:
        trained = job.run.state == "finished"
        assert trained == (job.options["optimizer.lr"] != "-1")
        assert (job.run.path / "report.html").exists() == trained
        for stage in job.run.stages:
            assert stage.machine["commit"] and "torch" in stage.machine["software"]
            assert stage.machine["device"].startswith("1 × ")


def test_the_command_of_a_job_runs_it_again_in_its_directory(real: Path, tmp_path: Path) -> None:
    copy = tmp_path / "real"
    shutil.copytree(real, copy)
    job = next(job for job in read_sweep(copy).jobs if job.run.state == "finished")
    before = (job.run.path / STAGES[1] / "results.json").read_text()
    shutil.rmtree(job.run.path / STAGES[1])
    assert job.run.name in [one.run.name for one in read_sweep(copy).unfinished]
    again = command(job.run)
    assert again is not None
    again = again.replace("python train.py", f"{sys.executable} {ROOT / 'train.py'}")
    again = again.replace(str(real.parent), str(tmp_path))
    done = subprocess.run(again, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {one.run.name: one for one in read_sweep(copy).jobs}
    assert len(found) == 6 and found[job.run.name].run.state == "finished"
    after = json.loads((job.run.path / STAGES[1] / "results.json").read_text())
    assert after["held_out_loss"] == json.loads(before)["held_out_loss"]
    assert found[job.run.name].group == job.group


# In a browser -------------------------------------------------------------------------------------


def opened(browser: Any, file: Path, width: int = 1280, **options: Any) -> Any:
    """The page, with what it asked for and complained of."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.heard, page.asked = [], []
    page.on("console", lambda message: page.heard.append(message.text))
    page.on("pageerror", lambda error: page.heard.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(file.as_uri())
    return page


def hover(page: Any, chart: int, share: float) -> str:
    """What is read at ``share`` of a chart's width."""
    plot = page.locator(".plot").nth(chart)
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    return plot.locator(".tip").inner_text()


def test_pages_load_nothing_and_have_no_errors(browser: Any, real: Path) -> None:
    job = next(job for job in read_sweep(real).jobs if job.run.state == "finished")
    for file in (real / "report.html", job.run.path / "report.html"):
        page = opened(browser, file)
        hover(page, 0, 0.5)
        page.locator("[data-smoothing]").fill("20")
        assert page.asked == [file.as_uri()] and page.heard == []
        page.close()


def test_hovering_reads_the_logged_value(browser: Any, real: Path) -> None:
    job = next(job for job in read_sweep(real).jobs if job.run.state == "finished")
    page = opened(browser, job.run.path / "report.html")
    value = job.run.stages[0].metrics["train/loss"][1][0]
    assert page.locator(".tip").first.is_hidden()
    text = hover(page, 0, 0.001)
    assert "optimizer step 0" in text and "training" in text and f"{value:.4g}" in text
    page.mouse.move(1, 1)
    assert page.locator(".tip").first.is_hidden()
    page.close()


def test_smoothing_in_the_browser_is_that_of_the_program(browser: Any, tmp_path: Path) -> None:
    """The path that the page had at first comes back, digit by digit, at the same setting."""
    values = [abs(20 - i % 41) / 7 + 1 for i in range(800)]
    write_stage(tmp_path / STAGES[0], losses(values))
    page = opened(browser, write_run_report(tmp_path))
    curve = page.locator("path.curve").first
    first, slider = curve.get_attribute("d"), page.locator("[data-smoothing]")
    slider.fill("20")
    assert curve.get_attribute("d") != first
    slider.fill("4")
    points = [
        [float(number) for number in path.replace("M", "").replace("L", " ").split()]
        for path in (first, curve.get_attribute("d"))
    ]
    assert points[1] == pytest.approx(points[0], abs=0.15)
    page.close()


def test_the_legend_hides_and_shows_curves(browser: Any, real: Path) -> None:
    page = opened(browser, real / "report.html")
    curves = page.locator("g.series")
    whole = curves.count()
    visible = "all => all.filter(one => getComputedStyle(one).display !== 'none').length"
    assert whole > 20 and curves.evaluate_all(visible) == whole
    one = page.locator(".legend [data-job]").first
    name = one.get_attribute("data-job")
    one.click()
    hidden = page.locator(f'g.series[data-job="{name}"]')
    assert hidden.count() >= 5 and hidden.evaluate_all(visible) == 0
    assert curves.evaluate_all(visible) == whole - hidden.count()
    assert name not in hover(page, 0, 0.02), "what is hidden is not read out"
    page.locator(".legend .whole").first.click()  # the group: all of its jobs
    group = page.locator(".legend .group").first.locator("[data-job]").count()
    assert group == 2 and curves.evaluate_all(visible) == whole - 2 * hidden.count()
    page.locator("[data-all=show]").click()
    assert curves.evaluate_all(visible) == whole
    page.close()


def test_heads_sort_the_table_of_jobs(browser: Any, real: Path) -> None:
    page = opened(browser, real / "report.html")
    table = page.locator("#jobs table")
    heads = [text.strip() for text in table.locator("th").all_inner_texts()]
    column = heads.index("target tokens")
    cells = f"rows => rows.map(row => row.cells[{column}].dataset.value)"
    for order in ("ascending", "descending"):
        table.locator("th").nth(column).click()
        values = table.locator("tbody tr").evaluate_all(cells)
        known = [float(value) for value in values if value]
        assert len(values) == 6 and values[4:] == ["", ""], "without a value: last"
        assert known == sorted(known, reverse=order == "descending") and len(set(known)) > 1
        assert table.locator("th").nth(column).get_attribute("aria-sort") == order
    page.close()


def test_a_jobs_name_leads_to_its_page(browser: Any, real: Path) -> None:
    page = opened(browser, real / "report.html")
    links = page.locator("#jobs a")
    assert links.count() == 4
    name = links.first.inner_text()
    links.first.click()
    assert page.locator("h1").inner_text() == name
    page.close()


def test_samples_are_chosen_by_kind(browser: Any, tmp_path: Path) -> None:
    rows = [sample(step, id, exact) for step, id, exact in
            ((0, "a", False), (0, "b", True), (2, "a", True), (2, "b", True))]  # fmt: skip
    write_stage(tmp_path / STAGES[0], losses([2.0, 1.0]), (2.0, 1.0), samples=rows)
    page = opened(browser, write_run_report(tmp_path))
    questions = page.locator(".question")
    assert [one.is_visible() for one in questions.all()] == [True, True]
    page.locator("[data-kind-chip=right]").click()
    assert [one.get_attribute("data-kind") for one in questions.all() if one.is_visible()] == [
        "right"
    ]
    page.close()


def test_hostile_text_stays_text(browser: Any, tmp_path: Path) -> None:
    rows = [sample(0, "a", False, HOSTILE), sample(2, "a", True, HOSTILE)]
    write_stage(tmp_path / STAGES[0], losses([2.0, 1.0]), (2.0, 1.0), samples=rows)
    (tmp_path / "error.txt").write_text(HOSTILE)
    page = opened(browser, write_run_report(tmp_path))
    assert page.title() == f"{tmp_path.name}: training report" and page.heard == []
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator(".answers pre").first.inner_text()
    page.close()


def test_without_scripts_curves_and_tables_are_there(browser: Any, real: Path) -> None:
    page = opened(browser, real / "report.html", java_script_enabled=False)
    assert page.locator("path.curve").count() > 20
    assert page.locator("#jobs tbody tr").count() == 6
    assert page.locator(".scripted").first.is_hidden(), "controls that do nothing are not shown"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_telephone_nothing_but_tables_scrolls_sideways(
    browser: Any, real: Path, scheme: str
) -> None:
    job = next(job for job in read_sweep(real).jobs if job.run.state == "finished")
    for file in (real / "report.html", job.run.path / "report.html"):
        page = opened(browser, file, 390, color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        seen, outside = page.evaluate(
            """(() => { const all = [...document.body.querySelectorAll("*")]
                   .filter(one => !one.closest("table, svg") && one.checkVisibility());
                 const over = all.filter(one => { const r = one.getBoundingClientRect();
                   return r.right > innerWidth + 0.5 || r.left < -0.5; });
                 return [all.length, over.map(one => one.outerHTML.slice(0, 120))]; })()"""
        )
        assert seen > 150 and outside == []
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        ink, paper = page.evaluate(
            """(() => { const style = getComputedStyle(document.body);
                        return [style.color, style.backgroundColor]; })()"""
        )
        bright = [sum(map(float, one.strip("rgba()").split(",")[:3])) for one in (ink, paper)]
        assert (bright[0] > bright[1]) == (scheme == "dark")
        page.close()
