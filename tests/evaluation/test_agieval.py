"""AGIEval's prompts are the published ones, byte for byte."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from orca.evaluation.agieval import TASKS, AGIEval


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def test_prompts_and_gold_equal_another_projects_rendering(
    shared_data: Path, tmp_path: Path
) -> None:
    """That rendering is of release 1.0: its rows take the place of those that 1.1 changed."""
    older = {(row.pop("dataset"), row.pop("index")): row for row in rows(
        shared_data / "agieval" / "v1_0_differing_rows.jsonl"
    )}  # fmt: skip
    compared = changed = 0
    for file in sorted((shared_data / "orca_eval_prompts" / "agieval").glob("*.jsonl")):
        task = file.name.removesuffix(".zero-shot.jsonl")
        published = rows(shared_data / "agieval" / f"{task}.jsonl")
        changed += sum((task, number) in older for number in range(len(published)))
        published = [older.get((task, number), row) for number, row in enumerate(published)]
        for row in published:
            if row["label"] not in "ABCDE"[: len(row["options"])]:  # lost with release 1.0's option
                assert row["label"] == "D" and len(row["options"]) == 3
                row["label"] = "A"
        (tmp_path / "agieval").mkdir(exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in published)
        (tmp_path / "agieval" / f"{task}.jsonl").write_text(lines, encoding="utf-8")
        items = AGIEval(str(tmp_path), [task]).items()
        rendered = rows(file)
        assert [item.prompt for item in items] == [row["question"] for row in rendered]
        now = AGIEval(str(shared_data), [task]).items()
        assert [list(item.gold) for item in now] == [row["label"] for row in rendered]
        compared += len(rendered)
    assert (compared, changed) == (910, 3)


def test_every_set_has_the_papers_size(shared_data: Path) -> None:
    items = AGIEval(str(shared_data)).items()
    assert dict(Counter(item.task for item in items)) == TASKS
    assert sum(TASKS.values()) == 2546


def test_options_have_no_ids(shared_data: Path) -> None:
    """Also where logiqa-en writes its ids without parentheses; three options have none at all."""
    items = {item.id: item for item in AGIEval(str(shared_data)).items()}
    assert items["agieval/sat-math/0"].options[0].startswith("(") is False
    assert items["agieval/logiqa-en/594"].options == ("first", "Third", "Fourth", "fifth")
    assert items["agieval/logiqa-en/15"].options[2] == "Geng is not a male doctor;"
    assert items["agieval/logiqa-en/544"].options[1] == "Storehouse B.3"
    assert items["agieval/logiqa-en/524"].options[0].startswith("When the land in City A.B")
