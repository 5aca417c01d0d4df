"""The 16 messages are recognised in all the forms in which public data spells them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orca.traces import SYSTEM_MESSAGES, match_system_message


def test_each_message_matches_itself_and_no_other() -> None:
    assert {n: match_system_message(m) for n, m in SYSTEM_MESSAGES.items()} == {
        n: n for n in range(1, 17)
    }


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (2, lambda m: m.replace("’", "'")),
        (6, lambda m: m.replace("’", "'").removesuffix(".")),
        (11, lambda m: m.replace("step-by-step", "step-bystep")),
        (11, lambda m: m.replace("step-by-step", "step-by- step")),
        (15, lambda m: m.replace("Part #:", "Part  # :").replace("\n", "\n    ")),
        (1, lambda m: " \n"),
    ],
)
def test_public_variants_match(number: int, change) -> None:
    assert match_system_message(change(SYSTEM_MESSAGES[number])) == number


def test_other_texts_do_not_match() -> None:
    assert match_system_message("You are a pirate.") is None
    assert match_system_message(SYSTEM_MESSAGES[16] + " Be brief.") is None


def test_real_rows_built_from_openorca_match(shared_data: Path) -> None:
    file = shared_data / "orca_style" / "orca_system_message_pairs.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    matched = [match_system_message(row["system"]) for row in rows]
    assert len(rows) == 80 and None not in matched and len(set(matched)) == 14
