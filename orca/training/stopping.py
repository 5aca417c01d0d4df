"""How a run stops before its end: a scheduler's signals, and ranks that keep others waiting."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from orca.errors import Stopped
from orca.training.ranks import on_rank_zero, world

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals(Callback):
    """SIGTERM, SIGUSR1 (preemption) or Ctrl-C: save after the step at hand, and end with status
    75. A second Ctrl-C ends it at once.

    Takes the place of Lightning's own handlers, which run a collective inside the signal handler
    and so can deadlock. Here a handler sets a flag; the ranks agree on it in the all-reduce that
    every step has anyway, so a signal to one rank is enough.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._module: Any = None

    def install(self) -> None:
        """From here on the signals are answered: outside training, by stopping at once."""
        for number in SIGNALS:
            signal.signal(number, self._answer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.install()  # once more: Lightning has put its own in
        self._module = pl_module

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.install()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._module = None  # Checkpoints has begun to save the last step: stop at once

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if self.received == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        if self._module is None:
            raise Stopped(f"told to stop ({self.received}); resume=auto goes on")
        self._module.stop_requested = True
        if number == signal.SIGINT:
            print("stopping after this step; Ctrl-C again stops at once", file=sys.stderr)


@dataclass
class Place:
    """Where a rank was when it was last heard of."""

    step: int = 0
    doing: str = "starting"
    since: float = field(default_factory=time.time)
    heard: float = field(default_factory=time.time)
    host: str = field(default_factory=socket.gethostname)

    def describe(self, now: float) -> str:
        silent = now - self.heard
        state = "alive" if silent < 3 * Watchdog.BEAT else f"silent for {silent:.0f} s"
        return f"{self.host}, step {self.step}, {self.doing} for {now - self.since:.0f} s, {state}"


class Watchdog(Callback):
    """Names the rank that keeps the others waiting, and ends the run.

    Each rank tells a small key-value store on rank 0 where it is. One that has not moved for
    ``minutes`` looks up the others, and the first rank that still speaks tells who is behind.
    Without it a hung rank is a time-out in some collective on every rank but its own.

    Args:
        minutes: longest wait; also for a validation pass or a set of generated answers.
    """

    BEAT = 2.0  # seconds between two reports of a rank

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.place = Place()
        self._store: dist.TCPStore | None = None
        self._done = threading.Event()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rank, ranks = world()
        if ranks == 1:
            return
        host = os.environ["MASTER_ADDR"]
        own = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False) if not rank else None
        port = on_rank_zero(lambda: own.port)  # type: ignore[union-attr]
        self._store = own or dist.TCPStore(host, port, is_master=False, wait_for_workers=False)
        self._move(0, "starting")  # loading and the first validation are not counted
        self._report(rank)
        dist.barrier()  # every rank is in the store before anyone looks
        threading.Thread(target=self._watch, args=(rank, ranks), daemon=True).start()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._move(trainer.global_step, "training")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._move(trainer.global_step, "reading data, saving or answering")

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._move(trainer.global_step, f"validating (batch {batch_idx})")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._done.set()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._done.set()

    def _move(self, step: int, doing: str) -> None:
        self.place.step, self.place.doing, self.place.since = step, doing, time.time()

    def _report(self, rank: int) -> None:
        self.place.heard = time.time()
        self._store.set(f"rank{rank}", json.dumps(asdict(self.place)))  # type: ignore[union-attr]

    def _watch(self, rank: int, ranks: int) -> None:
        while not self._done.wait(min(self.BEAT, self.seconds / 4)):
            try:
                self._report(rank)
            except RuntimeError:
                return  # rank 0 has gone, and the launcher ends the others
            if time.time() - self.place.since > self.seconds:
                self._end(rank, ranks)

    def _end(self, rank: int, ranks: int) -> None:
        places = [_parse(self._store.get(f"rank{r}")) for r in range(ranks)]  # type: ignore[union-attr]
        now = time.time()
        speaking = [r for r, place in enumerate(places) if now - place.heard < 3 * self.BEAT]
        if rank != min(speaking, default=rank):
            time.sleep(self.BEAT)  # let the first that speaks say it
            os._exit(1)
        silent = [r for r in range(ranks) if r not in speaking]
        last = min(place.step for place in places)
        behind = silent or [r for r in range(ranks) if places[r].step == last]
        named = "; ".join(f"rank {r}: {places[r].describe(now)}" for r in behind[:8])
        print(
            f"error: no rank has moved for {self.seconds / 60:g} minutes. Stuck: {named}. "
            "resume=auto goes on from the last checkpoint; strategy.strategy.timeout_minutes is "
            "how long ranks wait",
            file=sys.stderr,
            flush=True,
        )
        if rank in behind:
            faulthandler.dump_traceback(file=sys.stderr)
        os._exit(1)


def _parse(text: bytes) -> Place:
    return Place(**json.loads(text))
