"""Lengths by system message and teacher, from reports to a picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orca.teacher import lengths
from orca.teacher.length_rows import POINTS


def a_report(teacher: str, tokens: int, factor: int = 1) -> dict[str, Any]:
    def summary(mean: float) -> dict[str, float]:
        return {"mean": mean, **{f"p{p}": mean * p / 50 for p in POINTS}}

    rows = [
        {
            "number": number,
            "system_message": f"message {number}",
            "responses": 10 * number,
            "completion_tokens": summary(tokens * number),
            "characters": summary(4.0 * factor * number),
        }
        for number in (1, 2)
    ]
    return {"teacher": teacher, "lengths": rows}


def save(report: dict[str, Any], directory: Path) -> Path:
    directory.mkdir()
    (directory / "report.json").write_text(json.dumps(report))
    return directory


def test_means_are_over_responses_and_the_picture_is_drawn(tmp_path: Path) -> None:
    one = save(a_report("chatgpt", 100), tmp_path / "chatgpt")
    two = save(a_report("gpt4", 150), tmp_path / "gpt4")
    picture = tmp_path / "lengths.png"
    command = [sys.executable, "-m", "orca.teacher.lengths", str(picture), str(one), str(two)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    # (10 x 100 + 20 x 200) / 30
    assert "chatgpt: 166.7 completion tokens on average, 1.00 times" in done.stdout
    assert "gpt4: 250.0 completion tokens on average, 1.50 times" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    missing = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert missing.returncode == 1 and "has no report of a collection" in missing.stderr


def test_collections_of_one_teacher_are_told_apart_by_their_directories() -> None:
    reports = [a_report(name, 100) for name in ("gpt4", "chatgpt", "gpt4")]
    directories = [Path("traces/a"), Path("traces/b"), Path("traces/c")]
    names = lengths.names_of(reports, directories)
    assert names == ["gpt4 (traces/a)", "chatgpt", "gpt4 (traces/c)"]


def test_characters_are_drawn_where_a_server_counts_no_tokens(tmp_path: Path) -> None:
    counted, not_counted = a_report("a", 100), a_report("b", 0)
    assert lengths.draw([counted], "a", tmp_path / "a.png") == "completion_tokens"
    assert lengths.draw([counted, not_counted], "ab", tmp_path / "b.png") == "characters"


@pytest.mark.parametrize("text", ["", "{}", '{"lengths": []}'])
def test_a_report_without_lengths_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(lengths.UserError, match=r"no report of a collection|no response has come"):
        lengths.read_report(tmp_path)
