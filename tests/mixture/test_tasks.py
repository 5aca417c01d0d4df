"""Which tasks are sampled, against the paper's and FLAN's own lists."""

from __future__ import annotations

import csv
from pathlib import Path

from orca.mixture.tasks import training_tasks


def test_niv2_leaves_out_the_tasks_made_of_mmlu() -> None:
    rule = training_tasks("niv2")
    numbers = [n for n in range(1, 1762) if rule(f"task{n:03d}_mmlu_x") == "excluded"]
    assert numbers == [*range(664, 668), *range(685, 738)]


def test_every_pattern_leaves_its_tasks_out() -> None:
    rule = training_tasks("cot", ["a_*", "b_?"])
    assert [task for task in ("a_1", "b_1", "b_12", "c") if rule(task)] == ["a_1", "b_1"]


def test_flan_s_193_t0_tasks_are_training_tasks(shared_data: Path) -> None:
    with (shared_data / "flan_cot" / "flan_collection_info.csv").open() as file:
        tasks = [row["Dataset"] for row in csv.DictReader(file) if row["Source"] == "T0"]
    cut = {"social_i": "social_i_qa", "kilt_tasks": "kilt_tasks_hotpotqa"}  # by the list itself
    rule = training_tasks("t0")
    assert len(tasks) == 193
    assert not [task for task in tasks if rule(cut.get(task, task))]
