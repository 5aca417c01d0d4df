"""`python -m orca.chat` as a process: on a terminal, and in a pipe."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_students import write_student
from conftest import ORCA_TEMPLATE

from orca.chat import Conversation, LocalModel, Turn
from orca.config import CONF_DIR

COMMAND = [sys.executable, "-m", "orca.chat"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CONF_DIR.parent), "TERM": "dumb"}
PATIENCE = 120.0  # seconds


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its answers have no end, so that they can be stopped."""
    directory = tmp_path_factory.mktemp("student")
    return write_student(directory, ORCA_TEMPLATE, context=60_000, ends=False)


class Session:
    """A chat on a terminal of its own."""

    def __init__(self, *options: str, cwd: Path) -> None:
        self.master, slave = pty.openpty()
        environment = {**ENVIRONMENT, "ORCA_CACHE": str(cwd / "cache")}
        self.process = subprocess.Popen(
            [*COMMAND, *options], stdin=slave, stdout=slave, stderr=slave, cwd=cwd,
            env=environment, start_new_session=True, preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(slave)
        self.shown = b""

    def wait_for(self, text: str) -> str:
        """What is shown up to ``text``; later calls begin after it."""
        end = time.monotonic() + PATIENCE
        while text.encode() not in self.shown and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.master, 65_536)
                except OSError:  # the terminal's other side is closed
                    break
        before, found, self.shown = self.shown.partition(text.encode())
        assert found, f"{text!r} did not come after {before[-2000:].decode(errors='replace')}"
        return before.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C at the prompt; again where it came just before Python's readline waits for a key
        and is not seen until the next one."""
        end = time.monotonic() + PATIENCE
        while not self.shown and time.monotonic() < end:
            self.type("\x03")
            if select.select([self.master], [], [], 1.0)[0]:
                self.shown += os.read(self.master, 65_536)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that its Ctrl-C is this process's
    # Tests that a shell runs in the background ignore Ctrl-C, and what they start does too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def session(student: Path, tmp_path: Path) -> Iterator[Session]:
    session = Session(f"model={student}", "max_new_tokens=50000", "temperature=1", cwd=tmp_path)
    yield session
    session.process.kill()
    session.process.wait()
    os.close(session.master)


def test_an_answer_streams_ctrl_c_stops_it_and_ctrl_d_ends_the_chat(session: Session) -> None:
    greeting = session.wait_for("> ")
    assert "device: cpu" in greeting and "template: orca" in greeting
    session.type("What is 2+3?\n")
    session.wait_for("2+3?\r\n")
    while len(session.shown) < 200:  # of an answer that would take minutes
        session.shown += os.read(session.master, 4_096)
    assert b"> " not in session.shown[-2:] and session.process.poll() is None
    session.type("\x03")
    session.wait_for("[stopped; the conversation goes on from here]")
    session.wait_for("> ")
    session.type("/raw\n")
    assert "tokens; the answer begins at" in session.wait_for("▌")
    session.wait_for("Assistant:\r\n▌\r\n> ")
    session.type("half a line")
    session.wait_for("half a line")
    session.interrupt()  # thrown away, and the chat goes on
    session.wait_for("> ")
    session.type("\x1b[200~one\ntwo\x1b[201~\n")  # a pasted text of two lines is one question
    session.wait_for("two")
    while len(session.shown) < 200:  # before its answer has begun, Ctrl-C drops the question
        session.shown += os.read(session.master, 4_096)
    session.type("\x03")
    session.wait_for("[stopped")
    session.wait_for("> ")
    session.type("/raw\n")
    session.wait_for("### Human:\r\none\r\ntwo\r\n")
    session.wait_for("> ")
    session.type("\x04")
    assert session.process.wait(PATIENCE) == 0


def run(*options: str, question: bytes, cwd: Path, **more: Any) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *options], input=question, capture_output=True, cwd=cwd, env=ENVIRONMENT,
        timeout=PATIENCE, **more,
    )  # fmt: skip


def test_a_pipe_gets_the_answer_alone(student: Path, tmp_path: Path) -> None:
    options = (f"model={student}", "system=Be kind, always: it's 'good'", "temperature=0")
    done = run(
        *options, "max_new_tokens=30", "dtype=float32", question=b"Two\nlines?\n", cwd=tmp_path
    )
    here = LocalModel(str(student), "float32", "cpu")
    conversation = Conversation("Be kind, always: it's 'good'", [Turn("Two\nlines?")])
    expected = "".join(here.answer(conversation, 0.0, 30, 0))
    assert done.stdout.decode() == expected + "\n" and len(expected) > 5
    assert done.stderr.decode() == "warning: the answer was cut (length)\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("options", "question", "told"),
    [
        (["max_token=3"], b"Hello?", "Did you mean max_new_tokens?"),
        ([], b"Hello?", "error: no stage has finished in runs/"),
        (["model=m", "base_url=http://localhost:1/v1", "dtype=float32"], b"Hi", "error: dtype= is"),
        (["model=m", "base_url=http://localhost:1/v1", "template=orca"], b"Hi", "template= is"),
        (["model=m", "key_variable=KEY"], b"Hi", "key_variable= is for a server"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    tmp_path: Path, options: list[str], question: bytes, told: str
) -> None:
    done = run(*options, question=question, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in done.stderr.decode() and "Traceback" not in done.stderr.decode()
