"""What the ledger holds survives the program, and nothing is asked twice after its outcome."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orca.errors import UserError
from orca.teacher import Endpoint, Ledger, Prices, Teacher
from orca.teacher.ledger import INTERRUPTED
from orca.teacher.request import Reply, Request

TEACHER = Teacher("t", {"e": Endpoint("http://x", "m")}, Prices(1.0, 2.0, "2026-11-22"))


def a_request(number: int) -> Request:
    return Request(f"cot.{number}", "", f"query {number}", "cot", "task", ("gold",))


async def answer(ledger: Ledger, number: int, outcome: str = "finished") -> None:
    request = a_request(number)
    sent = await ledger.send(request, request.hash(TEACHER), "e", 1, 0.0)
    reply = Reply(outcome, "e", f"answer {number}", "m-1", "stop", 10, 5)  # type: ignore[arg-type]
    await ledger.finish(sent, request, reply, 0.25, 1, None)


def test_only_queries_without_outcome_are_asked(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", {"teacher": "t"})

    async def some() -> None:
        await asyncio.gather(*(answer(ledger, n) for n in range(0, 10, 2)))

    asyncio.run(some())
    left = ledger.unanswered([a_request(n) for n in range(10)])
    assert [one.id for one in left] == [f"cot.{n}" for n in (1, 3, 5, 7, 9)]
    assert ledger.total("dollars") == 1.25
    assert [row["response"] for row in ledger.rows()] == [f"answer {n}" for n in (0, 2, 4, 6, 8)]


def test_a_query_has_one_outcome(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", {})

    async def twice() -> None:
        await answer(ledger, 1)
        await answer(ledger, 1)

    with pytest.raises(UserError, match=r"l\.sqlite cannot be written"):
        asyncio.run(twice())


def test_other_settings_and_a_second_program_are_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", {"temperature": 0.7})
    with pytest.raises(UserError, match="does another program collect"):
        Ledger(tmp_path / "l.sqlite", {"temperature": 0.7})
    ledger.close()
    ledger = Ledger(tmp_path / "l.sqlite", {"temperature": 0.8})  # nothing was answered yet
    asyncio.run(answer(ledger, 1, "rejected"))
    ledger.close()
    ledger = Ledger(tmp_path / "l.sqlite", {"temperature": 0.7})
    asyncio.run(answer(ledger, 2))
    ledger.close()
    with pytest.raises(UserError, match=r"temperature = 0\.7, and now it is 1\.0"):
        Ledger(tmp_path / "l.sqlite", {"temperature": 1.0})


def test_what_one_record_spoils_takes_no_other_with_it(tmp_path: Path) -> None:
    """Answers that are committed together with it are paid for."""
    ledger = Ledger(tmp_path / "l.sqlite", {})

    async def some() -> list[BaseException | None]:
        return await asyncio.gather(
            *(answer(ledger, n) for n in (1, 2, 2, 3)), return_exceptions=True
        )

    failures = asyncio.run(some())
    assert any(isinstance(one, UserError) for one in failures)
    assert sorted(row["query"] for row in ledger.rows()) == ["cot.1", "cot.2", "cot.3"]
    asyncio.run(answer(ledger, 4))
    assert len(list(ledger.rows())) == 4, "the ledger cannot be written any more"


def test_the_end_and_the_outcome_of_a_query_are_kept_together_or_not_at_all(
    tmp_path: Path,
) -> None:
    """Also where another record fails with which they were to be committed."""
    ledger = Ledger(tmp_path / "l.sqlite", {})

    async def some() -> None:
        await answer(ledger, 1)
        await asyncio.gather(*(answer(ledger, n) for n in (1, 2)), return_exceptions=True)

    asyncio.run(some())
    assert sorted(row["query"] for row in ledger.rows()) == ["cot.1", "cot.2"]
    numbers = {row["sent"] for row in ledger.rows()}
    assert {number for (number,) in ledger.select("SELECT number FROM ended")} == numbers
    assert ledger.total("dollars") == 0.5, "an end without its outcome"


def test_what_may_have_been_charged_without_an_answer_is_counted_apart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", {})

    async def some() -> None:
        for kind in ("timeout", "connection", "500", "429"):
            number = await ledger.send(a_request(1), "h", "e", 1, 0.5)
            await ledger.end(number, kind)
        await ledger.send(a_request(2), "h", "e", 1, 0.25)  # in flight when the program dies

    asyncio.run(some())
    assert (ledger.total("dollars"), ledger.perhaps()) == (0, 1.0)
    ledger.close()
    assert Ledger(tmp_path / "l.sqlite", {}).perhaps() == 1.25


def test_a_file_that_is_no_ledger_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(UserError, match="cannot be used"):
        Ledger(tmp_path / "l.sqlite", {})


PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_ledger import TEACHER, a_request, answer
from orca.teacher import Ledger

async def main():
    ledger = Ledger(Path({path!r}), {{}})
    for number in range(20):
        await answer(ledger, number)
        print(number, flush=True)
    for number in range(20, 23):
        request = a_request(number)
        await ledger.send(request, request.hash(TEACHER), "e", 1, 0.0)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_what_was_committed_survives_a_kill_and_what_was_in_flight_is_counted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "l.sqlite"
    program = PROGRAM.format(tests=str(Path(__file__).parent), path=str(path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == [str(n) for n in range(20)]
    ledger = Ledger(path, {})
    assert ledger.counts("result", "ended") == {"finished": 20, INTERRUPTED: 3}
    left = ledger.unanswered([a_request(n) for n in range(23)])
    assert [one.id for one in left] == ["cot.20", "cot.21", "cot.22"]
    ledger.close()
    again = Ledger(path, {})
    assert again.counts("result", "ended")[INTERRUPTED] == 3, "counted once"
