"""Finished responses as Parquet files of traces, which `data=local data.format=trace` reads.

The files follow from the ledger alone: the replies in the order in which they came, so many to a
file. A file that is whole is not written again while the same replies are selected: its metadata
says how they were, and with which reply the next file goes on.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orca.paths import replacing
from orca.teacher.ledger import Ledger

ROWS_PER_FILE = 10_000
LAST, SELECTION = b"orca.last_reply", b"orca.selection"
TRACES = pa.schema(
    {
        "id": pa.string(),
        "system_message": pa.string(),  # the student's
        "teacher_system_message": pa.string(),
        "query": pa.string(),
        "response": pa.string(),
        "teacher": pa.string(),
        "sub_collection": pa.string(),
        "task": pa.string(),
        "gold_answer": pa.string(),
        "model": pa.string(),
        "finish_reason": pa.string(),
    }
)
REJECTED = TRACES.append(pa.field("gate", pa.string())).append(pa.field("reason", pa.string()))


class Shards:
    """The Parquet files of one collection.

    Args:
        teacher: name that goes into the traces.
        keep: outcomes whose responses become traces, besides what a gate rejects.
        student_system_message: what the student sees in place of the teacher's; None: the same.
    """

    def __init__(
        self,
        ledger: Ledger,
        out: Path,
        teacher: str,
        keep: set[str],
        student_system_message: str | None,
    ) -> None:
        self.ledger = ledger
        self.out = out
        self.teacher = teacher
        self.student_system_message = student_system_message
        outcomes = ", ".join(f"'{outcome}'" for outcome in sorted(keep))
        self._selection = json.dumps(
            [sorted(keep), student_system_message, ledger.facts().get("gates")]
        )
        self._accepted = f"outcome IN ({outcomes}) AND gate = ''"
        aside = ", ".join(
            f"'{one}'" for one in ("length", "content_filter", "other") if one not in keep
        )
        self._rejected = f"gate <> '' OR outcome IN ({aside})"
        self._written_at = 0  # replies that there were

    def write_whole(self, replies: int) -> None:
        """Write the files that are full by now, when so many replies more make another likely."""
        if replies - self._written_at >= ROWS_PER_FILE:
            self._written_at = replies
            self.write(whole=True)

    def write(self, whole: bool = False) -> tuple[int, int]:
        """Write ``traces/part-00000.parquet``, … and ``rejected/…``: responses that a gate
        rejected, were cut or filtered, and why.

        Args:
            whole: write only files that are full.

        Returns:
            How many traces there are, and how many rejected responses.
        """
        return (
            self._write(self._accepted, self.out / "traces", TRACES, whole),
            self._write(self._rejected, self.out / "rejected", REJECTED, whole),
        )

    def _write(self, where: str, directory: Path, schema: pa.Schema, whole: bool) -> int:
        directory.mkdir(exist_ok=True)
        number = last = total = 0
        while (found := self._last_reply(_path(directory, number))) is not None:
            number, last, total = number + 1, found, total + ROWS_PER_FILE
        rows = self.ledger.rows(where, after=last)
        while part := list(islice(rows, ROWS_PER_FILE)):
            if whole and len(part) < ROWS_PER_FILE:
                break
            table = pa.Table.from_pylist([self._trace(row) for row in part], schema)
            self._save(table, part[-1]["number"], _path(directory, number))
            number, total = number + 1, total + len(part)
        if not whole:
            stale = [path for path in _files(directory) if path >= _path(directory, number)]
            for path in reversed(stale):  # of another selection, which had more
                path.unlink()
        return total

    def _trace(self, row: dict[str, Any]) -> dict[str, Any]:
        targets, student = json.loads(row["targets"]), self.student_system_message
        return {
            "id": row["query"],
            "system_message": row["system_message"] if student is None else student,
            "teacher_system_message": row["system_message"],
            "query": row["text"],
            "response": row["response"],
            "teacher": self.teacher,
            "sub_collection": row["collection"],
            "task": row["task"],
            "gold_answer": targets[0] if targets else None,
            "model": row["model"],
            "finish_reason": row["finish_reason"],
            "gate": row["gate"] or row["outcome"],
            "reason": row["reason"],
        }

    def _last_reply(self, path: Path) -> int | None:
        """Number of the last reply of a whole file of this selection; None: there is none."""
        try:
            file = pq.read_metadata(path)
        except (OSError, pa.ArrowInvalid):
            return None  # damaged; it follows from the ledger
        facts = file.metadata or {}
        same = facts.get(SELECTION) == self._selection.encode()
        return int(facts[LAST]) if same and file.num_rows == ROWS_PER_FILE else None

    def _save(self, table: pa.Table, last: int, path: Path) -> None:
        facts = {LAST: str(last), SELECTION: self._selection}
        with replacing(path) as partial:
            pq.write_table(table.replace_schema_metadata(facts), partial, compression="zstd")


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("part-*.parquet"))


def _path(directory: Path, number: int) -> Path:
    return directory / f"part-{number:05d}.parquet"
