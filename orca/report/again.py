"""The command that runs one job of a sweep again, alone and in its directory."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from orca.report.directory import Run
from orca.sweeps.names import name_of, quoted


def command(run: Run) -> str | None:
    """What runs this one job of a sweep again, in its directory; None where that is not known."""
    options = list(run.job.get("options", ()))
    launcher = list(run.job.get("launcher", ()))
    if not options:
        options = _older_options(run.path)
    if not options:
        return None
    # As a rule its options name its directory; not where a later launch varied another one of them,
    # nor in sweeps of before there was a swept.json.
    is_named = name_of(options, run.path.parent) == run.path.name
    place = [] if is_named else [f"hydra.sweep.subdir={quoted(run.path.name)}"]
    kept = [o for o in options if o.lstrip("+~").split("=")[0] not in ("resume", "overwrite")]
    words = [*kept, "resume=auto", *launcher, *place]
    return " ".join(["python train.py -m", *map(_quoted, words)])


def _older_options(job: Path) -> list[str]:
    """Of a sweep that wrote no job.json: the last launch's options and the name of the job."""
    own, file = split_name(job.name), job.parent / "multirun.yaml"
    if not own or not file.exists():
        return []
    saved: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    keys = {text.split("=")[0] for text in own}
    return [o for o in saved["hydra"]["overrides"]["task"] if o.split("=")[0] not in keys] + own


def _quoted(text: str) -> str:
    """For a shell, where it needs that."""
    if all(c.isalnum() or c in "=._-/:@%+" for c in text):
        return text
    # What has quotes of Hydra reads better in double ones, where a shell takes them as they are.
    if "'" in text and not any(c in text for c in '"$`\\!'):
        return f'"{text}"'
    return shlex.quote(text)


def split_name(name: str) -> list[str]:
    """``a=1,b=[1,2]`` at the commas before a key: values may have commas too."""
    parts: list[str] = []
    for text in name.split(","):
        if "=" in text:
            parts.append(text)
        elif parts:
            parts[-1] += f",{text}"
    return parts
