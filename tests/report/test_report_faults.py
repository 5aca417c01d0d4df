"""What must not make a number of a sweep wrong: other launches, repeats, faults."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_runs import losses, write_stage
from test_report_run import evaluation
from test_report_sweep import STAGE, write_job

from orca.errors import UserError
from orca.report import read_run, read_sweep, sweep_text, write_sweep_report
from orca.report.again import command
from orca.report.directory import read_lines
from orca.report.run_charts import compared_charts, stage_starts

LOSS = "held_out_loss"


def tell(job: Path, *options: str, **more: object) -> None:
    """What a later launch wrote into a job's directory."""
    record = json.loads((job / "job.json").read_text()) | {"options": list(options), **more}
    (job / "job.json").write_text(json.dumps(record))


def test_a_job_that_was_refused_stays_what_it_was_trained_as(tmp_path: Path) -> None:
    """Seeds 1 and 2 were trained at 0.1; a launch at 0.2 found them finished and trained 3."""
    for seed, lr in ((1, "0.1"), (2, "0.1"), (3, "0.2")):
        write_job(tmp_path, ["model=tiny", f"optimizer.lr={lr}", f"seed={seed}"], float(seed))
    for job in tmp_path.iterdir():
        tell(job, "model=tiny", "optimizer.lr=0.2", f"seed={job.name[-1]}")
    found = read_sweep(tmp_path)
    assert [(g.label, len(g.jobs)) for g in found.groups] == [
        ("optimizer.lr=0.1", 2),
        ("optimizer.lr=0.2", 1),
    ]


def test_what_was_told_and_what_was_the_default_is_one_group(tmp_path: Path) -> None:
    for seed, told in ((1, ["optimizer.lr=5e-4"]), (2, ["optimizer.lr=0.0005"]), (3, [])):
        job = write_job(tmp_path, ["model=tiny", "optimizer.lr=5e-4", f"seed={seed}"], 1.0)
        tell(job, "model=tiny", f"seed={seed}", *told)
    failed = tmp_path / "seed=4"  # it left no configuration
    failed.mkdir()
    (failed / "job.json").write_text('{"options": ["model=tiny", "seed=4", "optimizer.lr=5e-4"]}')
    assert [len(group.jobs) for group in read_sweep(tmp_path).groups] == [4]


def test_the_choice_of_a_group_by_default_is_that_by_name(tmp_path: Path) -> None:
    for seed, told in ((1, ["scheduler=cosine"]), (2, []), (3, ["scheduler=linear"])):
        job = write_job(tmp_path, ["model=tiny", f"seed={seed}"], 1.0)
        tell(job, *told, f"seed={seed}", choices={"scheduler": "cosine"})
    labels = {group.label: len(group.jobs) for group in read_sweep(tmp_path).groups}
    assert labels == {"scheduler=cosine": 2, "scheduler=linear": 1}


def test_a_default_that_was_changed_between_launches_is_no_seed(tmp_path: Path) -> None:
    for seed, decay in ((1, 0.1), (2, 0.1), (3, 0.2)):
        options = ["model=tiny", f"optimizer.weight_decay={decay}", f"seed={seed}"]
        tell(write_job(tmp_path, options, 1.0), "model=tiny", f"seed={seed}")
    found = read_sweep(tmp_path)
    assert found.keys == ("seed", "optimizer.weight_decay")
    assert sorted(len(group.jobs) for group in found.groups) == [1, 2]


def test_a_job_of_which_is_not_known_what_it_was_told_has_its_configuration(
    tmp_path: Path,
) -> None:
    """One was started without -m, and left no job.json: its directory names what is varied."""
    for seed in (1, 2, 3):
        job = write_job(tmp_path, ["model=tiny", f"seed={seed}"], 1.0)
        tell(job, "experiment=small", "model=tiny", f"seed={seed}")
    (job / "job.json").unlink()
    found = read_sweep(tmp_path)
    assert found.keys == ("seed",) and [len(group.jobs) for group in found.groups] == [3]


@pytest.mark.parametrize(("content", "sizes"), [("same", [2]), ("other", [1, 1])])
def test_data_that_was_moved_between_launches_is_the_same_by_its_content(
    tmp_path: Path, content: str, sizes: list[int]
) -> None:
    for seed, place, data in ((1, "old", "same"), (2, "new", content)):
        job = write_job(tmp_path, [f"seed={seed}", f"data.path={place}"], 1.0)
        tell(job, f"seed={seed}")
        card = json.loads((job / STAGE / "data_card.json").read_text())
        card["facts"]["data"] = data
        (job / STAGE / "data_card.json").write_text(json.dumps(card))
    assert [len(group.jobs) for group in read_sweep(tmp_path).groups] == sizes


def test_how_a_job_is_watched_makes_no_group_unless_it_is_swept(tmp_path: Path) -> None:
    for seed, told in ((1, []), (2, ["data.num_workers=0"])):
        tell(write_job(tmp_path, [f"seed={seed}"], 1.0), f"seed={seed}", *told)
    assert [len(group.jobs) for group in read_sweep(tmp_path).groups] == [2]
    (tmp_path / "swept.json").write_text('["data.num_workers", "seed"]')
    tell(tmp_path / "seed=1", "seed=1", "data.num_workers=4")
    write = (tmp_path / "seed=1" / STAGE / "config.yaml").read_text()
    changed = write.replace("num_workers: 0", "num_workers: 4")
    assert (changed != write) or "num_workers: 4" in write
    (tmp_path / "seed=1" / STAGE / "config.yaml").write_text(changed)
    second = tmp_path / "seed=2" / STAGE / "config.yaml"
    second.write_text(second.read_text().replace("num_workers: 4", "num_workers: 0"))
    assert [len(group.jobs) for group in read_sweep(tmp_path).groups] == [1, 1]


def test_a_seed_counts_once(tmp_path: Path) -> None:
    for name, seed, loss in (("a", 1, 1.0), ("b", 1, 3.0), ("c", 2, 4.0)):
        job = write_job(tmp_path / name, ["model=tiny", f"seed={seed}"], loss)
        job.rename(tmp_path / f"{name},seed={seed}")
        (tmp_path / name).rmdir()
    found = read_sweep(tmp_path)
    (group,) = found.groups
    own = group.estimates()[LOSS]
    assert (own.n, own.mean) == (2, 3.0), "2 and 4: seeds 1 and 2"
    assert "a,seed=1 and b,seed=1 have the same options and seed" in sweep_text(found)


def test_a_loss_that_is_no_number_comes_last_and_spoils_no_order(tmp_path: Path) -> None:
    for lr, loss in (("0.1", 2.0), ("0.2", math.nan), ("0.3", 1.0), ("0.4", math.inf)):
        write_job(tmp_path, ["model=tiny", f"optimizer.lr={lr}", "seed=1"], loss)
    write_job(tmp_path, ["model=tiny", "optimizer.lr=0.3", "seed=2"], 1.2)
    write_job(tmp_path, ["model=tiny", "optimizer.lr=0.2", "seed=2"], 0.5)
    found = read_sweep(tmp_path)
    assert [group.label[-1] for group in found.groups[:2]] == ["3", "1"]
    assert found.groups[0].estimates()[LOSS].mean == pytest.approx(1.1)
    assert "no number (2 seeds)" in sweep_text(found)
    page = write_sweep_report(found).read_text()
    assert "1.1000" in page and 'data-value="nan"' not in page


def test_an_evaluation_is_of_the_model_that_it_names(tmp_path: Path) -> None:
    """By its path alone, that of the base model would come last and stand for the job."""
    job = write_job(tmp_path, ["model=tiny", "seed=1"], 1.0, stages=2)
    for name, model, accuracy in (
        ("a_after", "x/flan1m_gpt4/hf", 0.5),
        ("b_stage1", f"x/{STAGE}/hf", 0.4),
        ("c_before", "tiny", 0.1),
        ("d_best", "x/flan1m_gpt4/best", 0.6),
    ):
        evaluation(job / name, name, accuracy)
        file = job / name / "report.json"
        report = json.loads(file.read_text()) | {"facts": {"model": {"model": model}}}
        file.write_text(json.dumps(report))
    (group,) = read_sweep(tmp_path).groups
    assert group.estimates(STAGE)["eval bbh (orca)"].mean == 0.4
    last = {k: v.mean for k, v in group.estimates().items() if k.startswith("eval")}
    assert last == {"eval bbh (orca)": 0.5, "eval bbh (orca), best": 0.6}


def test_an_evaluation_of_weights_from_before_is_left_out_with_a_warning(tmp_path: Path) -> None:
    """The stage was trained again after it; wandb/ in the path of a sweep hides nothing."""
    sweep = tmp_path / "wandb" / "sweep"
    for seed, weights in ((1, "new1"), (2, "old0")):
        job = write_job(sweep, ["model=tiny", f"seed={seed}"], 1.0)
        file = job / STAGE / "results.json"
        known = json.loads(file.read_text()) | {"handoff": {"weights": "new1f00d"}}
        file.write_text(json.dumps(known))
        evaluation(job / "paper", f"seed {seed}", 0.5)
        file = job / "paper" / "report.json"
        facts = {"model": {"model": f"x/{STAGE}/hf", "weights": weights}}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"facts": facts}))
    found = read_sweep(sweep)
    assert [job.last.measures.get("eval bbh (orca)") for job in found.jobs if job.last] == [
        0.5,
        None,
    ]
    warning = f"warning: {sweep / 'seed=2' / 'paper'} evaluated other weights than seed=2 has now"
    assert warning in sweep_text(found)


@pytest.mark.parametrize(
    "fact", [{"validation traces": 4}, {"held-out traces too long": 3}, {"tokenizer": "other"}]
)
def test_losses_of_other_traces_or_tokens_are_no_order(tmp_path: Path, fact: dict) -> None:
    for seed in (1, 2):
        job = write_job(tmp_path, ["model=tiny", f"seed={seed}"], 1.0)
    assert read_sweep(tmp_path).held_out_sets == 1
    file = job / STAGE / "data_card.json"
    card = json.loads(file.read_text())
    file.write_text(json.dumps(card | {"facts": card["facts"] | fact}))
    assert "different held-out sets" in sweep_text(read_sweep(tmp_path))


def test_a_text_with_a_line_separator_is_one_row(tmp_path: Path) -> None:
    """U+2028 ends a line for str.splitlines, and none of JSON."""
    text = "one\u2028two\u0085three"
    (tmp_path / "a.jsonl").write_text(json.dumps({"step": 1, "x": text}, ensure_ascii=False) + "\n")
    assert read_lines(tmp_path / "a.jsonl", ["x"]) == [{"step": 1, "x": text}]


def test_the_command_of_a_job_runs_it_in_its_place(tmp_path: Path) -> None:
    """Also where a later launch has varied an option that this one was told."""
    job = write_job(tmp_path, ["optimizer.lr=0.1", "seed=1"], None)
    for swept, place in (
        (["optimizer.lr", "seed"], False),
        (["seed", "optimizer.lr"], True),  # the name would be seed=1,optimizer.lr=0.1
        (["optimizer.lr"], True),
    ):
        (tmp_path / "swept.json").write_text(json.dumps(swept))
        said = command(read_run(job))
        assert said is not None and (f"hydra.sweep.subdir='{job.name}'" in said) == place


def test_a_stage_begins_where_the_last_one_ended_though_few_steps_are_logged(
    tmp_path: Path,
) -> None:
    metrics = {
        "train/loss": [(0, 3.0), (10, 2.0)], "val/loss": [(0, 3.0), (15, 2.0)],
        "data/target_tokens": [(0, 10.0), (10, 110.0)],
    }  # fmt: skip
    for name in (STAGE, "flan1m_gpt4"):
        file = write_stage(tmp_path / name, metrics, (3.0, 2.0)) / "results.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"target_tokens": 150}))
    run = read_run(tmp_path)
    assert stage_starts(run) == {STAGE: 0, "flan1m_gpt4": 15}
    assert stage_starts(run, by_tokens=True) == {STAGE: 0, "flan1m_gpt4": 150}
    charts, _ = compared_charts([run], [0])
    (held_out,) = (chart for chart in charts if chart.title.startswith("Held-out loss"))
    assert np.concatenate([s.x for s in held_out.series[0].segments]).tolist() == [0, 150, 150, 300]


def test_a_job_that_has_not_stepped_leaves_the_others_over_tokens(tmp_path: Path) -> None:
    write_stage(tmp_path / "one" / STAGE, losses([2.0, 1.0]))
    write_stage(tmp_path / "two" / STAGE, {"val/loss": [(0, 2.0)]})
    charts, _ = compared_charts([read_run(tmp_path / name) for name in ("one", "two")], [0, 1])
    assert {chart.across for chart in charts} == {"target tokens"}


def test_stages_in_any_order_are_a_finished_run_that_ends_with_the_last(tmp_path: Path) -> None:
    names = [STAGE, "flan1m_gpt4_only"]  # both from the base model; by name the other way round
    for name in names:
        write_stage(tmp_path / name, losses([2.0, 1.0]), (2.0, 1.0), [f"stage={name}"])
    for order in (names, names[::-1]):
        (tmp_path / "job.json").write_text(json.dumps({"stages": order}))
        run = read_run(tmp_path)
        assert run.state == "finished" and [stage.name for stage in run.stages] == order


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.csv", "results.json", "data_card.json", "samples.jsonl"]
)
@pytest.mark.parametrize("text", ["{\n", "[1]\n", '{"colour": 1}\n', "1,a\n2\n", "\xff\n"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str) -> None:
    job = write_job(tmp_path, ["model=tiny", "seed=1"], 1.0)
    (job / STAGE / name).write_bytes(text.encode("latin-1"))
    if (name, text) == ("config.yaml", '{"colour": 1}\n'):  # as good as any: versions differ
        write_sweep_report(read_sweep(tmp_path))
        return
    with pytest.raises(UserError, match=name):
        write_sweep_report(read_sweep(tmp_path))


def test_a_command_says_to_a_shell_what_it_says(tmp_path: Path) -> None:
    import shlex

    options = ["data.path='it\\'s \"$HOME\" `x`!'", "seed='a b'"]
    job = write_job(tmp_path, ["seed=1"], None)
    tell(job, *options)
    (tmp_path / "swept.json").write_text("[]")
    again = command(read_run(job))
    assert again is not None and shlex.split(again)[3:5] == options
