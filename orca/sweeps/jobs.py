"""A job of a sweep as a process of its own, and how it is told to stop.

One that is killed takes nothing else with it, nothing of one job (memory of a GPU, a W&B run, a
seed) is left for the next, and the signals of training have the main thread that they need.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from orca.errors import UNFINISHED_STATUS
from orca.processes import end_with_parent

FAILED = float("inf")
"""What a failed job of a sweep returns: the worst loss there is."""

ERROR_FILE = "error.txt"
"""Why a job of a sweep failed, in its directory: other processes tell of it too."""

JOB_VARIABLE = "ORCA_JOB"
LOG_FILE = "output.log"
VALUE_FILE = ".value.json"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Job:
    """One job before it runs.

    Args:
        name: of its directory.
        arguments: of the program, ``hydra.run.dir`` with them.
        gpus: that it takes; 0 on a CPU.
        ranks: processes that compute.
    """

    number: int
    name: str
    directory: Path
    arguments: list[str]
    gpus: int
    ranks: int

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [sys.executable, os.path.abspath(sys.argv[0]), *self.arguments]


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        status: exit status, negative for a signal; None: it has not run, or was told to stop.
        value: what the program returned.
        why: in words, where it did not end well.
    """

    status: int | None
    value: float | None = None
    why: str = ""


NOT_RUN = Outcome(None, why="not run")


@dataclass
class StopRequest:
    """SIGTERM or Ctrl-C to the sweep: its jobs save and end. A second Ctrl-C ends them at once."""

    received: list[str] = field(default_factory=list)

    @property
    def urgency(self) -> int:
        """0: go on; 1: save and end; 2: end at once."""
        return min(len(self.received), 1) + (self.received.count("SIGINT") > 1)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Answers the signals, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._answer) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number).name)
        if len(self.received) == 1:
            print("stopping: jobs save and end; Ctrl-C again ends them at once", file=sys.stderr)


def run_process(
    command: list[str],
    directory: Path,
    environment: Mapping[str, str],
    urgency: Callable[[], int],
    cwd: str,
) -> Outcome:
    """Run a job and wait; what it says goes to ``output.log`` in its directory.

    Args:
        urgency: asked five times a second; see :class:`StopRequest`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    value, log = directory / VALUE_FILE, directory / LOG_FILE
    value.unlink(missing_ok=True)
    told = json.dumps({"parent": os.getpid(), "value": str(value)})
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, JOB_VARIABLE: told},
            cwd=cwd,
            start_new_session=True,  # a terminal's Ctrl-C comes once, through the sweep
        )
        sent = _wait(process, urgency)
    status = process.returncode
    if sent:
        return Outcome(None, why="told to stop")
    if status:
        return Outcome(status, why=_reason(status, log, begin))
    text = value.read_text(encoding="utf-8") if value.exists() else "null"
    value.unlink(missing_ok=True)
    return Outcome(0, json.loads(text))


def _wait(process: subprocess.Popen[bytes], urgency: Callable[[], int]) -> int:
    """Wait for the end; returns the urgency with which it was asked for."""
    sent = 0
    try:
        while True:
            try:
                process.wait(0.2)
                return sent if process.returncode else 0
            except subprocess.TimeoutExpired:
                wanted = urgency()
            if wanted > sent:
                process.send_signal(signal.SIGTERM if wanted == 1 else signal.SIGKILL)
                sent = wanted
    except BaseException:
        process.kill()
        process.wait()
        raise


def _reason(status: int, log: Path, begin: int) -> str:
    """Why a job failed: its signal, or what it said in this run: its first error (a later one may
    be the launcher of its ranks, that they failed), or its last line."""
    if status < 0:
        name = signal.Signals(-status).name
        memory = " (often the machine out of memory)" if name == "SIGKILL" else ""
        return f"killed by {name}{memory}"
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - 20_000))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = errors[0] if errors else lines[-1] if lines else "it said nothing"
    kind = "unfinished" if status == UNFINISHED_STATUS else f"status {status}"
    return f"{kind}: {said}"


class ThisJob:
    """The job's side: its process ends with the launcher's, and gives back what it computed."""

    def __init__(self) -> None:
        # Taken away, for ranks and workers that this process starts are no jobs.
        told = json.loads(os.environ.pop(JOB_VARIABLE, "{}"))
        self._file: str | None = told.get("value")
        if told:
            end_with_parent()
            if os.getppid() != told["parent"]:  # it ended while this process was starting
                sys.exit("the sweep of this job has ended")

    def give_back(self, value: Any) -> None:
        """What the program returned, to the launcher."""
        if self._file is not None:
            Path(self._file).write_text(json.dumps(value), encoding="utf-8")
