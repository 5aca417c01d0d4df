"""Samples on disk: one Parquet row for each answer, written as answers come.

A run adds part files to ``samples/``; a part is whole or absent, so that a killed run goes on where
its last part ends. What was asked (model, protocol, data) is in ``facts.json`` and must be the same
for whoever adds; each row has a hash of the model's facts and of its benchmark's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from orca.errors import UserError
from orca.evaluation.item import Item, Sample
from orca.paths import replacing

WRITE_EVERY = 20.0  # seconds
SCHEMA = pa.schema(
    {
        "item": pa.string(),
        "benchmark": pa.string(),
        "task": pa.string(),
        "draw": pa.int32(),
        "seed": pa.int64(),
        "system_message": pa.int32(),
        "prompt": pa.string(),
        "text": pa.string(),
        "finish_reason": pa.string(),
        "gold": pa.list_(pa.string()),
        "first_capital": pa.string(),
        "stated": pa.string(),
        "prompt_tokens": pa.int32(),
        "new_tokens": pa.int32(),
        "latency": pa.float64(),
        "error": pa.string(),
        "correct": pa.bool_(),
        "stated_correct": pa.bool_(),
        "format_ok": pa.bool_(),
        "model": pa.string(),
        "data": pa.string(),
    }
)
DERIVED = ("correct", "stated_correct", "format_ok")
"""Columns that follow from the others."""
FROM_FACTS = ("model", "data")
"""Columns that say the same in many rows: hashes of what is in ``facts.json``."""


class Records:
    """The samples of one run.

    Args:
        directory: made where it is not there.
        facts: what was asked of whom: everything that changes answers.

    Raises:
        UserError: the directory holds samples of other facts, or another process adds to it.
    """

    def __init__(self, directory: Path, facts: dict[str, Any]) -> None:
        self.directory = directory / "samples"
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(directory / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another process adds to {directory}: wait for it, or give another out="
            ) from None
        self._parts = sorted(self.directory.glob("part-*.parquet"))
        _check_facts(directory / "facts.json", facts, bool(self._parts))
        self._facts = facts
        self._waiting: list[Sample] = []
        self._written_at = time.monotonic()

    def read(self) -> list[Sample]:
        """Every sample that is on disk, in the order in which they came."""
        return read_samples(self.directory.parent)

    def add(self, sample: Sample) -> None:
        """Keep a sample; it is on disk after ``WRITE_EVERY`` seconds of work, or :meth:`write`."""
        self._waiting.append(sample)
        if time.monotonic() - self._written_at > WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Write what waits."""
        if self._waiting:
            rows = [self._row(sample) for sample in self._waiting]
            path = self.directory / f"part-{len(self._parts):05d}.parquet"
            with replacing(path) as partial:
                pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial, compression="zstd")
            self._parts.append(path)
            self._waiting = []
        self._written_at = time.monotonic()

    def close(self) -> None:
        """Let another process add to the directory."""
        self._lock.release()

    def _row(self, sample: Sample) -> dict[str, Any]:
        return {
            **dataclasses.asdict(sample),
            **{name: getattr(sample, name) for name in DERIVED},
            "model": _hash(self._facts.get("model")),
            "data": self._facts.get(f"data {sample.benchmark}", ""),
        }


def read_samples(directory: Path) -> list[Sample]:
    """The samples of a run, in the order in which they came.

    Raises:
        UserError: there is no run, or a part of it is damaged.
    """
    if not (directory / "samples").is_dir():
        raise UserError(f"{directory} is no run of evaluate.py: it has no samples/")
    parts = sorted((directory / "samples").glob("part-*.parquet"))
    return [Sample(**{**row, "gold": tuple(row["gold"])}) for part in parts for row in _rows(part)]


def read_facts(directory: Path) -> dict[str, Any]:
    """What a run was asked.

    Raises:
        UserError: there is no run, or the file is damaged.
    """
    path = directory / "facts.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory} is no run of evaluate.py: it has no facts.json") from None
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): give another out=, or put it back from a copy"
        ) from None
    return facts


def _rows(part: Path) -> list[dict[str, Any]]:
    names = [name for name in SCHEMA.names if name not in (*DERIVED, *FROM_FACTS)]
    try:
        rows: list[dict[str, Any]] = pq.read_table(part, columns=names).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{part} is damaged, or of another version ({reason}): delete it, and the same command "
            "asks its items again"
        ) from None
    return rows


def fingerprint(items: Iterable[Item]) -> str:
    """Changes when another question would be asked or another answer be right."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(dataclasses.astuple(item), ensure_ascii=False).encode())
    return digest.hexdigest()[:16]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _changes(before: Any, now: Any) -> str:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"{before} → {now}"
    names = sorted(n for n in {*before, *now} if before.get(n) != now.get(n))
    return ", ".join(f"{n}: {before.get(n)} → {now.get(n)}" for n in names)


def _check_facts(path: Path, facts: dict[str, Any], has_samples: bool) -> None:
    facts = json.loads(json.dumps(facts))
    known = read_facts(path.parent) if path.exists() or has_samples else {}
    for name, value in facts.items():
        if known.setdefault(name, value) != value:
            changes = _changes(known[name], value)
            raise UserError(
                f"{path.parent} holds answers with another {name} ({changes}): give another out=, "
                f"as out={path.parent}-2, or the same options"
            )
    with replacing(path) as partial:
        partial.write_text(json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False))
