"""What W&B has of a run, read back from the file that an offline run leaves.

    python benchmarks/wandb_offline.py runs/tiny-sample/flan5m_chatgpt/wandb/offline-run-…

prints who the run is, its metrics with their number of values and last value, and its artifacts.
"""

from __future__ import annotations

import argparse
import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32_768
OWN = ("_step", "_runtime", "_timestamp", "_wandb")
"""Columns of W&B's own."""


@dataclass
class OfflineRun:
    """One run.

    Attributes:
        config: as the program gave it; W&B's own part, ``_wandb``, is left out.
        history: rows of what was logged, nested names joined by ``/``; ``_step`` is the step.
        summary: the last values, and what `define_metric` asked for: ``val/loss.min``.
        artifacts: by name: type, metadata, paths of its entries with their references, and whether
            the run made or used it.
        ended: exit status; None: the run goes on, or its process was killed.
    """

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: int | None = None

    def metrics(self) -> dict[str, list[tuple[int, Any]]]:
        """(step, value) of every name that was logged."""
        found: dict[str, list[tuple[int, Any]]] = {}
        for row in self.history:
            for name, value in row.items():
                if name not in OWN:
                    found.setdefault(name, []).append((row["_step"], value))
        return found


def read_offline_run(directory: Path, wait: float = 60.0) -> OfflineRun:
    """The run of an ``offline-run-…`` directory.

    Args:
        wait: seconds until W&B's own process must have ended the file; 0: read what is there.
    """
    (file,) = directory.glob("*.wandb")
    deadline = time.monotonic() + wait
    while (run := _read(file)).ended is None and wait:
        if time.monotonic() > deadline:
            raise TimeoutError(f"W&B's own process did not end {file} in {wait:.0f} s")
        time.sleep(0.1)
    return run


def offline_runs(directory: Path) -> list[OfflineRun]:
    """Every offline run below ``directory``, by name."""
    found = [read_offline_run(path) for path in directory.rglob("offline-run-*") if path.is_dir()]
    return sorted(found, key=lambda run: (run.name, run.id))


def records(file: Path) -> Iterator[Any]:
    """Records of a .wandb file, which is a LevelDB log: 7 bytes before the first, blocks of 32 KB.

    Each chunk has a checksum, a length, and whether it is whole (1), or the first (2), a middle (3)
    or the last (4) of a record. What is cut off at the end is left out.
    """
    from wandb.proto import wandb_internal_pb2

    content, place, record = file.read_bytes(), 7, b""
    if len(content) < 7:
        return
    if content[:4] != b":W&B":
        raise ValueError(f"{file} is no file of W&B")
    while place + 7 <= len(content):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        checksum, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if place + 7 + length > len(content):
            return
        data = content[place + 7 : place + 7 + length]
        if checksum != zlib.crc32(data, zlib.crc32(bytes([kind]))):
            raise ValueError(f"{file} is damaged at byte {place}")
        place += 7 + length
        record = data if kind in (1, 2) else record + data
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)  # type: ignore[attr-defined]


def _read(file: Path) -> OfflineRun:
    run = OfflineRun()
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name = record.run.run_id, record.run.display_name
            run.group, run.job_type = record.run.run_group, record.run.job_type
            run.tags = list(record.run.tags)
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            row.setdefault("_step", record.history.step.num)
            run.history.append(row)
        elif kind == "summary":
            _update(run.summary, record.summary.update, ".")
        elif kind == "artifact":
            run.artifacts[record.artifact.name] = _artifact(record.artifact)
        elif kind == "exit":
            run.ended = record.exit.exit_code
    return run


def _update(values: dict[str, Any], items: Any, joint: str = "/") -> None:
    for item in items:
        name = joint.join(item.nested_key) or item.key
        if not name.startswith("_wandb"):
            values[name] = json.loads(item.value_json)


def _artifact(record: Any) -> dict[str, Any]:
    return {
        "type": record.type,
        "metadata": json.loads(record.metadata or "{}"),
        "entries": {one.path: one.ref or one.local_path for one in record.manifest.contents},
        "used": record.use_after_commit,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, nargs="+", help="wandb/offline-run-… of a run")
    for directory in parser.parse_args().directory:
        shown = read_offline_run(directory, wait=0.0)
        print(f"{shown.name} ({shown.id}): group {shown.group}, {shown.job_type}, {shown.tags}")
        for name, values in sorted(shown.metrics().items()):
            print(f"  {name}: {len(values)} value(s), last {str(values[-1][1])[:60]}")
        for name, value in shown.artifacts.items():
            print(f"  {name} ({value['type']}): {', '.join(value['entries'])}")
