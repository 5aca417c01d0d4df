"""Reports of runs in every state, from directories written by hand."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock
from made_runs import HOSTILE, losses, sample, write_stage

from orca.errors import UserError
from orca.evaluation.paper import BBH
from orca.report import read_run, run_html, try_report, write_run_report
from orca.report.__main__ import main
from orca.report.evaluations import find_evaluations, read_evaluation
from orca.report.options import differences, program_defaults
from orca.report.run_charts import run_charts, stage_starts
from orca.report.samples import chosen, counts, questions
from orca.training.directory import flat_options

STAGES = ("flan5m_chatgpt", "flan1m_gpt4")


@pytest.fixture
def progressive(tmp_path: Path) -> Path:
    """Two finished stages; the directory of the second sorts before that of the first."""
    first = [
        sample(0, "a", False),
        sample(0, "b", True),
        sample(4, "a", True),
        sample(4, "b", True),
    ]
    second = [
        sample(0, "a", True),
        sample(0, "b", True),
        sample(3, "a", True),
        sample(3, "b", False),
    ]
    run = tmp_path / "run"
    write_stage(run / STAGES[0], losses([5.0, 4, 3, 2]), (5.0, 2.0), samples=first)
    write_stage(run / STAGES[1], losses([3.0, 2, 1]), (2.0, 1.0), samples=second)
    return run


def test_stages_stand_in_the_order_of_training_on_one_axis(progressive: Path) -> None:
    run = read_run(progressive)
    assert [stage.name for stage in run.stages] == list(STAGES)
    assert stage_starts(run) == {STAGES[0]: 0, STAGES[1]: 4}
    assert stage_starts(run, by_tokens=True) == {STAGES[0]: 0, STAGES[1]: 50}
    loss = run_charts(run)[0]
    train, held_out = loss.series
    assert [part.x.tolist() for part in train.segments] == [[0, 1, 2, 3], [4, 5, 6]]
    assert [part.x.tolist() for part in held_out.segments] == [[0, 4], [4, 7]]
    assert [mark.x for mark in loss.marks] == [0, 4]


def test_before_and_after_are_of_one_model(progressive: Path) -> None:
    """Stages that began from the same pretrained model are no steps of one path."""
    page = run_html(read_run(progressive))
    assert "5.000 → 2.000 → 1.000" in page and "before, after each stage<" in page
    write_stage(progressive / "alone", losses([9.0, 8.0]), (9.0, 8.0))
    assert len(read_run(progressive).stages) == 3
    page = run_html(read_run(progressive))
    assert "5.000 → 2.000 → 1.000" in page and f"each stage ({' → '.join(STAGES)})" in page


def test_every_metric_has_a_chart_and_unknown_ones_too(tmp_path: Path) -> None:
    names = ["train/lr", "val/loss/cot", "val/loss/niv2", "eval/bbh/accuracy", "throughput/mfu"]
    names += ["data/response_tokens", "samples/response_tokens", "throughput/peak_memory_gib"]
    names += ["guards/skipped_steps", "made/up"]
    metrics = losses([2.0, 1.0]) | {name: [(0, 0.1), (1, 0.2)] for name in names}
    write_stage(tmp_path / STAGES[0], metrics)
    charts = run_charts(read_run(tmp_path))
    assert "made/up" in [chart.title for chart in charts]
    curves = [one.name for chart in charts for one in chart.series]
    assert {"cot", "niv2", "bbh", "MFU", "peak memory", "learning rate"} <= set(curves)
    assert len(curves) == 2 + len(names), "a metric is drawn once"


def test_values_that_are_no_number_are_left_out_and_counted(tmp_path: Path) -> None:
    metrics = losses([2.0, math.nan, math.inf, 1.0])
    metrics["val/loss"] = [(0, 2.0)]
    write_stage(tmp_path / STAGES[0], metrics)
    chart = run_charts(read_run(tmp_path))[0]
    assert chart.series[0].segments[0].x.tolist() == [0, 3]
    assert "2 value(s)" in chart.notes[0]


def test_what_became_of_questions(progressive: Path) -> None:
    asked = questions(read_run(progressive))
    assert {one.id: one.kind for one in asked} == {"a": "learned", "b": "lost"}
    assert counts(asked) == {"learned": 1, "lost": 1}
    for one in asked:  # the second stage's first answers are the first's last
        assert [answer.when.split()[0] for answer in one.answers] == ["before", "after", "after"]


def test_a_page_shows_questions_of_every_kind() -> None:
    from orca.report.samples import Question

    kinds = ["learned"] * 80 + ["lost"] * 2 + ["wrong"] * 50
    asked = [Question(str(i), f"task {i % 7}", "", 1, "q", None, (), kind)
             for i, kind in enumerate(kinds)]  # fmt: skip
    shown = chosen(asked, 30)
    assert counts(shown) == {"learned": 14, "lost": 2, "wrong": 14}
    assert len({one.task for one in shown}) == 7


def test_a_running_stage_is_told_from_a_stopped_one(tmp_path: Path) -> None:
    """As long as a process holds the lock, and whatever the directory holds."""
    metrics = losses([2.0, 1.5]) | {"data/progress": [(1, 0.25)]}
    stage = write_stage(tmp_path / STAGES[0], metrics)
    with (stage / "metrics.csv").open("a") as file:
        file.write("2,train/lo")  # a line that is being written
    lock = FileLock(tmp_path / f".{STAGES[0]}.lock")
    with lock:
        assert read_run(tmp_path).state == "running"
        assert "running at 25%, step 2" in write_run_report(tmp_path).read_text()
    assert read_run(tmp_path).state == "unfinished"
    page = write_run_report(tmp_path).read_text()
    assert "stopped at 25%" in page
    assert "The data card is written when a stage ends" in page
    assert "has answered none" in page


def test_a_run_that_has_not_taken_a_step_has_a_page(tmp_path: Path) -> None:
    write_stage(tmp_path / STAGES[0], {})
    (tmp_path / STAGES[0] / "metrics.csv").unlink()
    assert "No step has been logged yet" in write_run_report(tmp_path).read_text()


def test_a_system_message_is_shown_beside_its_number_orca_2s_too(progressive: Path) -> None:
    page = run_html(read_run(progressive))
    assert "You are a cautious assistant" in page and "think step-by-step" in page


def test_text_of_others_is_no_markup(tmp_path: Path) -> None:
    rows = [sample(0, HOSTILE, False, HOSTILE), sample(4, HOSTILE, True, HOSTILE)]
    rows = [row | {"task": HOSTILE, "query": HOSTILE, "system_message": HOSTILE,
                   "gold_answer": HOSTILE} for row in rows]  # fmt: skip
    incidents = [{"kind": HOSTILE, "step": 1, "loss": math.nan, "examples": [HOSTILE]}]
    metrics = losses([2.0, 1.0]) | {f"val/loss/{HOSTILE}".replace(",", ""): [(0, 1.0), (2, 2.0)]}
    metrics = {name.replace('"', ""): rows for name, rows in metrics.items()}
    write_stage(tmp_path / STAGES[0], metrics, (2.0, 1.0), samples=rows, incidents=incidents)
    (tmp_path / "error.txt").write_text(HOSTILE)
    page = run_html(read_run(tmp_path, HOSTILE))
    assert page.count("<script") == page.count("</script>") == 2 + page.count("<figure")
    assert "<img" not in page and "onerror=alert(1)&gt;" in page
    assert "{{ 7*7 }}" in page, "nor is it a template"


def test_a_hundred_thousand_steps_make_a_page_of_moderate_size(tmp_path: Path) -> None:
    names = ("train/loss", "train/gradient_norm", "throughput/tokens_per_second")
    metrics = {name: [(i, 1 + i % 97 / 97) for i in range(100_000)] for name in names}
    metrics["train/loss"][70_000] = (70_000, 50.0)
    write_stage(tmp_path / STAGES[0], metrics)
    file = write_run_report(tmp_path)
    assert 30_000 < file.stat().st_size < 600_000
    chart = run_charts(read_run(tmp_path))[0]
    assert chart.series[0].segments[0].high.max() == 50.0


def test_a_run_differs_from_the_defaults_where_it_was_told_so(tmp_path: Path) -> None:
    write_stage(
        tmp_path / STAGES[0], losses([1.0]), options=["optimizer.weight_decay=0.3", "seed=5"]
    )
    found = dict(differences([program_defaults(), flat_options(read_run(tmp_path).config)]))
    assert found["optimizer.weight_decay"] == ["0.1", "0.3"]
    assert found["seed"] == ["17", "5"] and found["model.name"] == ["smollm2_135m", "tiny"]
    assert "optimizer.eps" not in found and "paths.run_dir" not in found


def test_a_part_that_one_configuration_lacks_is_one_row() -> None:
    found = differences([{"a.b": 1, "a.c": "x", "d": 1}, {"d": 1}])
    assert found == [("a", ["b=1, c=x", "–"])]


def evaluation(directory: Path, name: str, accuracy: float) -> None:
    interval = {"value": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1}
    tasks = [*BBH.tasks, "average"]
    scores = [
        {"benchmark": "bbh", "task": task, "items": 5, "draws": 1, "accuracy": interval,
         "spread": None, "stated": interval, "format_failures": 0.0, "stated_failures": 0.0,
         "chance": 0.25, "failed": 0}
        for task in tasks
    ]  # fmt: skip
    directory.mkdir(parents=True)
    report = {
        "name": name,
        "about": {"asked": "a part"},
        "scores": {"bbh": {f"{name} (orca)": scores}},
    }
    (directory / "report.json").write_text(json.dumps(report))


def test_evaluations_stand_beside_the_papers_columns(progressive: Path, tmp_path: Path) -> None:
    evaluation(progressive / "paper", "after", 0.5)
    evaluation(tmp_path / "elsewhere" / "paper", "after", 0.25)
    (found,) = find_evaluations(progressive)
    assert found.averages()["bbh (orca)"].value == 0.5
    page = write_run_report(progressive, [tmp_path / "elsewhere" / "paper"]).read_text()
    assert "50.0</b> <small>[40.0, 60.0]" in page and "25.0</b> <small>[15.0, 35.0]" in page
    assert f"<td>{BBH.average('Orca-13B', list(BBH.tasks))}</td>" in page
    with pytest.raises(UserError, match=r"has no report\.json"):
        read_evaluation(progressive)


def test_a_fault_in_a_report_loses_nothing_and_is_told(
    progressive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (progressive / STAGES[0] / "samples.jsonl").write_text("no JSON\n")
    try_report(partial(write_run_report, progressive), progressive)
    told = capsys.readouterr().err
    assert "no report" in told and "samples.jsonl" in told and "python -m orca.report" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nowhere"], "is no directory"), (["empty"], "holds no run"),
     (["run", "run", "--evaluation", "x"], "goes with one run"),
     (["run", "--out", "page.html"], "goes with several directories"),
     (["."], "is no sweep; beside each other are its runs")],
)  # fmt: skip
def test_mistakes_on_the_command_line_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_stage(tmp_path / "run" / STAGES[0], losses([1.0]))
    given = [str(tmp_path / one) if not one.startswith("-") else one for one in arguments]
    assert main(given) == 2
    assert words in capsys.readouterr().err
