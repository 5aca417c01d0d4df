"""The benchmarks' published files, read so that a wrong one is named with its row."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orca.errors import UserError


def folder(path: str | None, name: str, source: str) -> Path:
    """``path/name``; ``source`` is where the files can be had.

    Raises:
        UserError: no path is given, or there is no such folder.
    """
    if not path:
        raise UserError(
            f"benchmark {name}: paths.benchmarks is not set. Name the folder that holds {name}/ "
            f"(or set ORCA_SHARED_DATA); its files are at {source}"
        )
    found = Path(path) / name
    if not found.is_dir():
        raise UserError(
            f"{found}: no such folder. Get the files from {source}, or correct paths.benchmarks"
        )
    return found


def text_of(file: Path, source: str) -> str:
    """The file's text.

    Raises:
        UserError: it is missing or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file. Get it from {source}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error}). Get it again from {source}") from None


def json_of(file: Path, source: str) -> Any:
    """The file's JSON value; raises ``UserError``."""
    try:
        return json.loads(text_of(file, source))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error}). Cut short? Get it from {source}") from None


def json_lines_of(file: Path, source: str) -> Iterator[tuple[int, Any]]:
    """(row from 0, its JSON value); raises ``UserError``."""
    # Not splitlines(): the texts hold U+2028 and its like, which end no line of JSON.
    lines = text_of(file, source).removesuffix("\n").split("\n")
    for row, line in enumerate(lines):
        try:
            yield row, json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(
                f"{file}, row {row}: not JSON ({error}). Cut short? Get it from {source}"
            ) from None


def texts(row: Any, fields: Sequence[str], where: str) -> list[str]:
    """The row's fields, each of which must be text."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__}, not an object with {', '.join(fields)}")
    for field in fields:
        if not isinstance(row.get(field), str):
            raise UserError(f"{where}: field {field!r} holds no text ({row.get(field)!r:.40})")
    return [row[field] for field in fields]


def chosen_tasks(name: str, known: Mapping[str, int], tasks: Sequence[str] | None) -> list[str]:
    """``tasks`` in the benchmark's order; all of them where none are named."""
    unknown = sorted(set(tasks or ()) - set(known))
    if unknown:
        raise UserError(f"benchmark.{name}.tasks: no {unknown[0]!r}; there are {', '.join(known)}")
    return [task for task in known if tasks is None or task in tasks]


def tell_count(task: str, found: int, expected: int) -> None:
    """Says where a task has not as many items as the paper's, for then scores do not compare."""
    if found != expected:
        print(
            f"{task}: {found:,} items, where the paper has {expected:,}: scores do not compare",
            file=sys.stderr,
            flush=True,
        )
