"""Messages that docs/troubleshooting.md quotes are those of the programs."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from docs_pages import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
FOREIGN = "## Other programs' messages"
"""Below this heading stand messages of other projects, each with its source."""
LEAST_LITERAL = 15
"""Characters of a quotation that must be the program's own, not a value put into it."""

Parts = tuple[str | None, ...]


@cache
def templates() -> list[Parts]:
    """Every text of the programs; None stands for what is put in when they run."""
    found = []
    files = [*ROOT.glob("*.py"), *(ROOT / "orca").rglob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((node.value.lstrip(),))
            elif isinstance(node, ast.JoinedStr):
                values = [v.value if isinstance(v, ast.Constant) else None for v in node.values]
                parts = tuple(v if v is None else str(v) for v in values)
                found.append((parts[0].lstrip() if parts[0] else None, *parts[1:]))
    return [parts for parts in found if sum(len(p or "") for p in parts) >= LEAST_LITERAL]


def begins(quotation: str, parts: Parts, literal: int = 0) -> bool:
    """Whether a text of these parts can begin with the quotation."""
    if not quotation:
        return literal >= LEAST_LITERAL
    if not parts:
        return False
    first, rest = parts[0], parts[1:]
    if first is None:
        return any(begins(quotation[i:], rest, literal) for i in range(len(quotation) + 1))
    if quotation.startswith(first):
        return begins(quotation[len(first) :], rest, literal + len(first))
    return first.startswith(quotation) and literal + len(quotation) >= LEAST_LITERAL


def quotations() -> list[str]:
    """First cells of the tables, as printed, up to where they are cut."""
    own = PAGE.read_text(encoding="utf-8").partition(FOREIGN)[0]
    cells = re.findall(r"^\| `([^`]+)`", own, re.M)
    return [cell.replace("\\|", "|").removeprefix("warning: ").rstrip("…") for cell in cells]


@pytest.mark.parametrize("quotation", quotations())
def test_a_quoted_message_is_one_of_the_programs(quotation: str) -> None:
    """Warnings stand in the code with the word or without it."""
    forms = (quotation, f"warning: {quotation}")
    assert any(begins(form, parts) for form in forms for parts in templates()), quotation


def test_messages_of_other_projects_have_a_source() -> None:
    foreign = PAGE.read_text(encoding="utf-8").partition(FOREIGN)[2]
    rows = [r for r in re.findall(r"^\| .*\|$", foreign, re.M) if not re.match(r"\| (---|you)", r)]
    assert len(rows) > 5
    assert [row for row in rows if "](http" not in row] == []


def test_the_comparison_can_fail() -> None:
    parts: Parts = (None, " holds ", None, " run. Go on with resume=auto, replace it")
    assert begins("runs/a holds an unfinished run. Go on with res", parts)
    assert not begins("runs/a holds an unfinished run. Stop with res", parts)
    assert not begins("anything at all, put in for a value", (None,))
    assert len(quotations()) > 12 and len(templates()) > 500
