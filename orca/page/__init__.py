"""What the project's HTML pages share: one look, and templates that escape every value.

A page is one file that loads nothing. Its template says ``{% include "page.css.j2" %}`` for
colours, type and tables (light and dark), and imports what it needs of ``table.html.j2``.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

SHOWN = 1_500
"""Characters of a prompt or an answer on a page."""


def environment(directory: Path) -> Environment:
    """Templates of ``directory``, and the shared ones of this one."""
    made = Environment(
        loader=FileSystemLoader([directory, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["short"] = short
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return made


def short(text: str) -> str:
    """The beginning of a long text, and how long it is."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} … ({len(text):,} characters)"
