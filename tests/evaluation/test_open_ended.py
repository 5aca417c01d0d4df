"""The three sets of open-ended prompts have the paper's sizes, and a broken file is named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from orca.errors import UserError
from orca.evaluation.open_ended import Awesome, Vicuna, WizardLM


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_sets_have_the_papers_sizes(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {}
    for benchmark in (Vicuna, Awesome, WizardLM):
        items = benchmark(str(shared_data)).items()
        sizes[benchmark.name] = len(items), len({item.group for item in items})
        assert len({item.id for item in items}) == len(items)
        assert {item.benchmark for item in items} == {benchmark.name}
    assert sizes == {"vicuna": (80, 9), "awesome": (164, 163), "wizardlm": (218, 29)}
    assert capsys.readouterr().err == ""  # no count differs


def test_prompts_stand_as_published(shared_data: Path) -> None:
    vicuna = {item.id: item for item in Vicuna(str(shared_data)).items()}
    assert vicuna["vicuna/1"].prompt == "How can I improve my time management skills?"
    assert Counter(item.group for item in vicuna.values())["coding"] == 7
    assert Awesome(str(shared_data)).items()[0].group == "Linux Terminal"
    wizardlm = WizardLM(str(shared_data)).items()[0]
    assert (wizardlm.id, wizardlm.group) == ("wizardlm/1", "Math")
    assert wizardlm.prompt.startswith("If a car travels 120 miles")


def test_a_set_of_another_size_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "awesome_prompts" / "prompts.csv", 'act,prompt\nPoet,"Be a poet,\nplease"\n')
    (item,) = Awesome(str(tmp_path)).items()
    assert (item.prompt, item.group) == ("Be a poet,\nplease", "Poet")
    assert "1 items, where the paper has 164" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"question_id": 1, "text": "a"}', "row 1: field 'category' holds no text"),
        ('{"question_id": "1", "text": "a", "category": "b"}', "row 1: field 'question_id'"),
        ('{"question_id": 7, "text": "a", "category": "b"}', "vicuna/7 is there twice"),
        ('{"question_id": 8, "text": " ", "category": "b"}', "vicuna/8 has an empty prompt"),
        ('{"question_id": 8', "row 1: not JSON"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, line: str, says: str) -> None:
    good = '{"question_id": 7, "text": "a", "category": "b"}'
    write(tmp_path / "vicuna" / "2023_eval" / "question.jsonl", f"{good}\n{line}\n")
    with pytest.raises(UserError, match=says):
        Vicuna(str(tmp_path)).items()


@pytest.mark.parametrize("benchmark", [Vicuna, Awesome, WizardLM])
def test_missing_files_are_named(tmp_path: Path, benchmark: type[Vicuna]) -> None:
    with pytest.raises(UserError, match=r"paths\.benchmarks is not set"):
        benchmark(None).items()
    with pytest.raises(UserError, match="no such folder"):
        benchmark(str(tmp_path)).items()
