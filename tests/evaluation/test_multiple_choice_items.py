"""What holds for every multiple-choice benchmark: pinned items, configuration, errors."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from orca.config import CONF_DIR
from orca.errors import UserError
from orca.evaluation.agieval import AGIEval
from orca.evaluation.bbh import BBH
from orca.evaluation.item import Item
from orca.evaluation.prompts import zero_shot_prompt
from orca.evaluation.truthfulqa import TruthfulQA

BENCHMARKS = [AGIEval, BBH, TruthfulQA]
# sha256 over id, prompt and gold of all items in order: a change breaks resuming and comparisons.
PINNED = {
    "agieval": (2546, "5fcda50cd9636845"),
    "bbh": (5511, "b9ac62a8b52e2ab4"),
    "truthfulqa": (684, "10468b4e12b63ed6"),
}


def digest(items: list[Item]) -> str:
    rows = [[item.id, item.prompt, *item.gold] for item in items]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]


@pytest.mark.parametrize("make", BENCHMARKS)
def test_items_are_those_of_the_first_day(make: Any, shared_data: Path) -> None:
    items = make(str(shared_data)).items()
    assert (len(items), digest(items)) == PINNED[make.name]
    assert len({item.id for item in items}) == len(items)


@pytest.mark.parametrize("make", BENCHMARKS)
def test_an_item_shows_its_options_and_one_of_them_is_right(make: Any, shared_data: Path) -> None:
    for item in make(str(shared_data)).items():
        assert item.benchmark == make.name and item.id.startswith(f"{make.name}/")
        assert "".join(item.labels) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(item.options)]
        assert len(item.gold) == 1 and item.gold[0] in item.labels
        assert all(option and option in item.prompt for option in item.options)
        last = item.labels[-1] if len(item.labels) > 1 else "E"
        assert item.prompt.endswith(f"\nA: Among A through {last}, the answer is")


@pytest.mark.parametrize("make", BENCHMARKS)
def test_the_configuration_makes_the_benchmark(make: Any, shared_data: Path) -> None:
    config = OmegaConf.load(CONF_DIR / "benchmark" / f"{make.name}.yaml")
    made = OmegaConf.create({**config, "paths": {"benchmarks": str(shared_data)}})  # type: ignore[dict-item]
    assert list(config) == [make.name]
    assert digest(instantiate(made[make.name]).items()) == PINNED[make.name][1]


def test_one_option_asks_for_a_through_e_as_in_the_code_of_agieval() -> None:
    assert zero_shot_prompt("Q?", ["(A)x"], "P ") == (
        "P Q: Q? Answer Choices: (A)x\nA: Among A through E, the answer is"
    )


@pytest.mark.parametrize("make", [AGIEval, BBH])
def test_tasks_can_be_chosen_and_keep_their_order_and_items(make: Any, shared_data: Path) -> None:
    every = make(str(shared_data)).items()
    tasks = list(Counter(item.task for item in every))
    some = make(str(shared_data), tasks=[tasks[4], tasks[1]]).items()
    assert some == [item for item in every if item.task in (tasks[1], tasks[4])]
    with pytest.raises(UserError, match=r"tasks: no 'gsm8k'; there are"):
        make(str(shared_data), tasks=["gsm8k"])


@pytest.mark.parametrize("make", BENCHMARKS)
def test_without_files_the_error_says_where_they_are(make: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"paths\.benchmarks is not set.*https://github\.com"):
        make(None).items()
    with pytest.raises(UserError, match=rf"{make.name}: no such folder.*https://github\.com"):
        make(str(tmp_path)).items()
    (tmp_path / make.name).mkdir()
    with pytest.raises(UserError, match=r"no such file\. Get it from https://github\.com"):
        make(str(tmp_path)).items()


@pytest.fixture
def copied(shared_data: Path, tmp_path: Path) -> Path:
    """A small copy of the files that a test may break."""
    for name in ("agieval/sat-math.jsonl", "bbh/snarks.json", "bbh/cot-prompts/snarks.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_data / name, tmp_path / name)
    shutil.copytree(shared_data / "truthfulqa" / "v0", tmp_path / "truthfulqa" / "v0")
    return tmp_path


def made(name: str, path: Path) -> Any:
    if name == "truthfulqa":
        return TruthfulQA(str(path))
    return AGIEval(str(path), ["sat-math"]) if name == "agieval" else BBH(str(path), ["snarks"])


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        (
            "agieval",
            "sat-math.jsonl",
            '"label": "B"',
            '"label": "F"',
            r"row \d+: label 'F' is none",
        ),
        ("agieval", "sat-math.jsonl", '"question"', '"ask"', r"row 0: field 'question' holds no"),
        ("agieval", "sat-math.jsonl", '"passage": ""', '"passage": 3', r"'passage' holds no text"),
        ("agieval", "sat-math.jsonl", '"options": [', '"options": [1,', r"'options' is no list"),
        ("agieval", "sat-math.jsonl", "\n", "\n[]\n", r"row 1: list, not an object"),
        ("bbh", "snarks.json", '"(A)"', '"(C)"', r"example \d+: target '\(C\)' is none of its 2"),
        ("bbh", "snarks.json", "\\n(B) ", "\\n(D) ", r"example 0: its options are not lines"),
        ("bbh", "snarks.json", "\\nOptions:\\n", "\\n", r"example 0: lists no options"),
        ("bbh", "snarks.json", '"examples"', '"rows"', r"holds no list 'examples'"),
        ("bbh", "cot-prompts/snarks.txt", "-----", "", r"third line is no description"),
        ("truthfulqa", "v0/mc_task.json", ": 1", ": 0", r"row 0: 'mc1_targets' has not exactly"),
        ("truthfulqa", "v0/mc_task.json", '"question": "What', '"question": "Who', r"row 0: its q"),
        ("truthfulqa", "v0/TruthfulQA.csv", "Category", "Group", r"no columns Question and Cat"),
    ],
)
def test_a_wrong_row_is_named(
    copied: Path, name: str, file: str, old: str, new: str, message: str
) -> None:
    path = copied / name / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 5), encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        made(name, copied).items()
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [("agieval", "sat-math.jsonl"), ("bbh", "snarks.json"), ("truthfulqa", "v0/mc_task.json")],
)
def test_a_file_that_was_cut_short_is_named(copied: Path, name: str, file: str) -> None:
    path = copied / name / file
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UserError, match=r"not JSON .* Cut short\?"):
        made(name, copied).items()
    path.write_bytes(b"\xff\xfe" + path.read_bytes())
    with pytest.raises(UserError, match="not UTF-8"):
        made(name, copied).items()


def test_a_count_that_is_not_the_papers_is_told(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "agieval" / "sat-math.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(True)[:100]))
    assert len(made("agieval", copied).items()) == 100
    told = capsys.readouterr().err
    assert "agieval/sat-math: 100 items, where the paper has 220: scores do not compare" in told
    made("bbh", copied).items()
    made("truthfulqa", copied).items()
    assert capsys.readouterr().err == ""
