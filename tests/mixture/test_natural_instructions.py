"""Super-Natural-Instructions as candidates: real counts, FLAN's layouts, exclusions, bad files."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orca.errors import UserError
from orca.mixture.natural_instructions import (
    LAYOUTS,
    NaturalInstructions,
    _render,
)

INSTANCE = {"id": "1", "input": " 2 {x} ", "output": [" 4", "four", "4 "]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "cache"))


def candidates(source: NaturalInstructions, root: Path) -> list[dict[str, Any]]:
    return [row for file in source.open(str(root)) for row in pq.read_table(file.path).to_pylist()]


def write_task(root: Path, name: str, instances: list[Any], definition: Any = "Double it.") -> None:
    task = {"Definition": definition, "Instances": instances}
    (root / f"{name}.json").write_text(json.dumps(task), encoding="utf-8")


def by_hand(layout: str, definition: str, text: str) -> str:
    """The layout with its two slots filled piece by piece, without str.format."""
    before, middle, after = re.split(r"\{Definition\}|\{input\}", layout)
    return before + definition + middle + text + after


def test_every_instance_of_the_real_tasks_keeps_all_its_outputs(shared_data: Path) -> None:
    found = candidates(NaturalInstructions("niv2/tasks/*.json"), shared_data)
    assert len(found) == 11_508
    assert len({row["task"] for row in found}) == 60
    assert not any(row["problem"] for row in found)
    assert {row["template_type"] for row in found} == {"zs_opt"}
    several, number = 0, 0
    for file in sorted((shared_data / "niv2/tasks").glob("*.json")):
        for instance in json.loads(file.read_text(encoding="utf-8"))["Instances"]:
            several += len(instance["output"]) > 1
            wanted = []
            for output in map(str.strip, instance["output"]):
                wanted += [] if output in wanted else [output]
            assert (found[number]["task"], found[number]["targets"]) == (file.stem, wanted)
            number += 1
    assert several == 1_648
    layouts = Counter(row["template"] for row in found)
    assert len(layouts) == len(LAYOUTS)
    assert min(layouts.values()) > 0.8 * len(found) / len(LAYOUTS)  # none is favoured


def test_an_instance_reads_as_written_by_hand(tmp_path: Path) -> None:
    write_task(tmp_path, "task1_double", [INSTANCE] * 60)
    found = candidates(NaturalInstructions("*.json"), tmp_path)
    texts = {row["template"]: row["query"] for row in found}
    assert texts["niv2/0"] == "Double it.\n\n2 {x}"
    assert texts["niv2/4"] == "Double it.\nQ: 2 {x}\nA: "
    assert texts["niv2/6"] == (
        "Teacher:Double it.\nTeacher: Now, understand the problem? Solve this instance: 2 {x}\n"
        "Student:"
    )
    assert len(texts) == 10
    assert all(row["targets"] == ["4", "four"] for row in found)
    assert [row["row"] for row in found] == list(range(1, 61))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(*[st.text('{}:!%\\"| dDinput[0]', min_size=1).filter(str.strip)] * 2)
def test_definition_and_input_are_never_read_as_a_layout(
    tmp_path: Path, definition: str, text: str
) -> None:
    write_task(tmp_path, "task1_x", [{"input": text, "output": ["{input}"]}], definition)
    (one,) = _render(tmp_path / "task1_x.json")
    layout = LAYOUTS[int(one.template.removeprefix("niv2/"))]
    assert one.query == by_hand(layout, definition.strip(), text.strip())
    assert one.targets == ("{input}",)


def test_rendering_twice_gives_the_same_bytes(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = NaturalInstructions("niv2/tasks/task1*.json")
    first = source.open(str(shared_data))
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "other"))
    second = source.open(str(shared_data))
    assert len(first) > 10
    for one, other in zip(first, second, strict=True):
        assert one.path != other.path
        assert Path(one.path).read_bytes() == Path(other.path).read_bytes()


@pytest.mark.parametrize(
    ("instance", "problem"),
    [
        ({"output": ["a"]}, "missing_field: "),
        ({"input": 3, "output": ["a"]}, "wrong_type: "),
        ({"input": " ", "output": ["a"]}, "empty_field: "),
        ({"input": "x"}, "missing_target: "),
        ({"input": "x", "output": []}, "missing_target: "),
        ({"input": "x", "output": [" "]}, "missing_target: "),
        ({"input": "x", "output": [1]}, "wrong_type: "),
        ({"input": "x\ud800", "output": ["a"]}, "invalid_unicode: "),
        ("x", "wrong_type: "),
    ],
)
def test_an_instance_that_is_no_query_is_a_problem_with_its_number(
    tmp_path: Path, instance: Any, problem: str
) -> None:
    write_task(tmp_path, "task1_double", [INSTANCE, instance])
    good, bad = candidates(NaturalInstructions("*.json"), tmp_path)
    assert good["problem"] is None
    assert bad["problem"].startswith(problem)
    assert (bad["task"], bad["row"], bad["query"]) == ("task1_double", 2, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"Definition": ["x"], "Instances": [{"inp', "not a JSON object"),
        ("[1]", "holds list"),
        ('{"Instances": []}', "no field 'Definition'"),
        ('{"Definition": ["x"]}', "no field 'Instances'"),
        ('{"Definition": [], "Instances": []}', "field 'Definition' holds no text"),
        ('{"Definition": ["x"], "Instances": {}}', "field 'Instances' is no list"),
    ],
)
def test_a_file_that_is_no_task_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "task1_x.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"task1_x\.json: {message}"):
        NaturalInstructions("*.json").open(str(tmp_path))
