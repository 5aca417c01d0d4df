"""Trace files follow from the ledger, whole ones are kept, and gates can be changed afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orca.teacher import Endpoint, Ledger, Prices, Shards, Teacher, collection_report, shards
from orca.teacher.report import save_report, summary
from orca.teacher.request import Outcome, Reply, Request

TEACHER = Teacher("t", {"e": Endpoint("http://x", "m")}, Prices(1.0, 2.0, "2026-11-22"))


def rejects_odd(request: Request, text: str) -> tuple[str, str] | None:
    return ("odd", f"{text} is odd") if int(text) % 2 else None


def fill(
    ledger: Ledger, numbers: range, outcome: Outcome = "finished", judged: bool = True
) -> None:
    async def main() -> None:
        for n in numbers:
            request = Request(
                f"cot.{n}", "Teach." if n % 3 else "", f"query {n}", "cot", "x", ("g",)
            )
            sent = await ledger.send(request, "hash", "e", 1, 0.0)
            reply = Reply(
                outcome, "e", str(n), "m-1", "stop", 10, n, error="e" * (outcome == "failed")
            )
            found = rejects_odd(request, str(n)) if judged and outcome == "finished" else None
            await ledger.finish(sent, request, reply, 0.5, 1, found)

    asyncio.run(main())


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr(shards, "ROWS_PER_FILE", 4)
    return Ledger(tmp_path / "ledger.sqlite", {"teacher": "t"})


def responses(directory: Path) -> list[str]:
    files = sorted(directory.glob("*.parquet"))
    assert [f.name for f in files] == [f"part-{n:05d}.parquet" for n in range(len(files))]
    return [text for file in files for text in pq.read_table(file)["response"].to_pylist()]


def test_files_are_the_accepted_replies_in_order_and_whole_ones_are_not_written_again(
    ledger: Ledger, tmp_path: Path
) -> None:
    fill(ledger, range(0, 22))
    write = Shards(ledger, tmp_path, "t", {"finished"}, None).write
    assert write(whole=True) == (8, 8), "two full files of each"
    first = tmp_path / "traces" / "part-00000.parquet"
    made = first.stat().st_mtime_ns
    assert write() == (11, 11)
    fill(ledger, range(22, 30))
    assert write() == (15, 15)
    assert first.stat().st_mtime_ns == made
    assert responses(tmp_path / "traces") == [str(n) for n in range(0, 30, 2)]
    assert responses(tmp_path / "rejected") == [str(n) for n in range(1, 30, 2)]


def test_other_gates_judge_every_response_again_and_nothing_is_asked(
    ledger: Ledger, tmp_path: Path
) -> None:
    fill(ledger, range(20), judged=False)
    assert ledger.judge({"none": 1}, lambda request, text: None) == 0
    Shards(ledger, tmp_path, "t", {"finished"}, None).write()
    assert len(responses(tmp_path / "traces")) == 20
    assert ledger.judge({"odd": 1}, rejects_odd) == 10
    assert ledger.judge({"odd": 1}, lambda request, text: ("never", "called")) == 0
    assert Shards(ledger, tmp_path, "t", {"finished"}, None).write() == (10, 10)
    assert responses(tmp_path / "traces") == [str(n) for n in range(0, 20, 2)]
    rows = pq.read_table(tmp_path / "rejected").to_pylist()
    assert {(row["gate"], row["reason"]) for row in rows} == {
        ("odd", f"{n} is odd") for n in range(1, 20, 2)
    }


def test_the_student_sees_another_system_message_and_both_are_kept(
    ledger: Ledger, tmp_path: Path
) -> None:
    fill(ledger, range(0, 8, 2))
    for student, seen in ((None, {"", "Teach."}), ("", {""}), ("Think.", {"Think."})):
        Shards(ledger, tmp_path, "t", {"finished"}, student).write()
        rows = pq.read_table(tmp_path / "traces").to_pylist()
        assert {row["system_message"] for row in rows} == seen
        assert {row["teacher_system_message"] for row in rows} == {"", "Teach."}


def test_what_was_cut_is_a_trace_only_where_it_is_kept(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, range(0, 6, 2))
    fill(ledger, range(10, 15), "length")
    fill(ledger, range(20, 22), "content_filter")
    fill(ledger, range(30, 33), "failed")
    assert Shards(ledger, tmp_path, "t", {"finished"}, None).write() == (3, 7)
    assert Shards(ledger, tmp_path, "t", {"finished", "length"}, None).write() == (8, 2)


def test_the_report_counts_what_the_ledger_holds(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, range(10))
    fill(ledger, range(10, 12), "failed")
    report = collection_report(ledger, TEACHER, tmp_path / "flan" / "flan1m", traces=5)
    assert report["outcomes"] == {"finished": 10, "failed": 2}
    assert report["gates"] == {"odd": 5} and report["causes"] == {"e": 2}
    assert report["dollars"] == 6.0 and report["completion_tokens"] == 66
    assert report["failed_attempts"] == {"e": 2}
    empty, teach = report["lengths"]
    assert (empty["system_message"], empty["responses"]) == ("", 4)  # 0, 3, 6, 9
    assert empty["completion_tokens"]["mean"] == 4.5 and empty["completion_tokens"]["p95"] == 9
    assert (teach["system_message"], teach["responses"]) == ("Teach.", 6)
    save_report(report, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "|  | Teach. | 6 |" in text and "| 1 | (empty) | 4 | 4.5 | 0 |" in text
    assert "12 queries have an outcome: 10 finished, 2 failed" in summary(report, tmp_path)
