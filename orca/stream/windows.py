"""Windows of the curriculum: read, checked and tokenised, in the main process or in workers."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from orca.errors import Unfinished, UserError
from orca.processes import end_with_parent
from orca.stream.encode import Encoder, Example
from orca.traces import BadRow, Trace, TraceSource

SECONDS_AFTER_SIGTERM = 30
"""How long a tokenising worker goes on after SIGTERM, to end with its parent if that ends."""

ON_BAD_ROW_HINT = (
    "Mend the row, or set data.on_bad_row=skip to go on without such rows (they are counted and "
    "listed in the data card)"
)


@dataclass(slots=True)
class Dropped:
    """An example that was not used: why, where it stands, and what a user can do."""

    reason: str
    where: str
    detail: str


@dataclass(slots=True)
class Window:
    """Examples number ``start`` … ``start + num_read - 1`` of the epoch's order."""

    start: int
    num_read: int = 0
    examples: list[Example] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    num_held_out: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Which queries belong to validation; the query's text alone decides.

    So a query is held out in every stage, every copy of the data and every duplicate.

    Args:
        fraction: share of all queries, chosen by a hash.
        queries: hashes of further queries (:func:`query_hash`).
    """

    fraction: float = 0.0
    queries: frozenset[bytes] = frozenset()

    def has(self, query: str) -> bool:
        """Whether ``query`` must not be trained on."""
        if not self.queries and self.fraction <= 0:
            return False
        digest = query_hash(query)
        chosen = int.from_bytes(digest, "big") < self.fraction * 2**64
        return chosen or digest in self.queries


def query_hash(query: str) -> bytes:
    """8 bytes that stand for a query's text, white space at its ends aside."""
    return hashlib.blake2b(query.strip().encode(), digest_size=8).digest()


class WindowDataset(Dataset[Window]):
    """Window number → :class:`Window`. Errors travel as values: a worker's exception would lose
    its message in a traceback."""

    def __init__(
        self,
        source: TraceSource,
        order: np.ndarray,
        encoder: Encoder,
        size: int,
        held_out: HeldOut,
        on_bad_row: str = "fail",
    ) -> None:
        self.source = source
        self.order = order
        self.encoder = encoder
        self.size = size
        self.held_out = held_out
        self.on_bad_row = on_bad_row

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __getitem__(self, number: int) -> Window:
        start = number * self.size
        return self.read(start, self.order[start : start + self.size])

    def read(self, start: int, numbers: np.ndarray) -> Window:
        """The examples with these numbers in the source, as one window."""
        window = Window(start=start, num_read=len(numbers))
        traces: list[Trace] = []
        places: list[int] = []
        for offset, number in enumerate(numbers):
            try:
                trace = self.source[int(number)]
            except BadRow as error:
                where = self.source.locate(int(number))
                if self.on_bad_row == "fail":
                    window.error = f"{where}: {error.detail}. {ON_BAD_ROW_HINT}"
                    return window
                window.dropped.append(Dropped(error.reason, where, error.detail))
                continue
            if self.held_out.has(trace.query):
                window.num_held_out += 1
                continue
            traces.append(trace)
            places.append(start + offset)
        for place, example in zip(places, self.encoder.encode(traces), strict=True):
            if isinstance(example, Example):
                example.place = place
                example.number = int(self.order[place])
                window.examples.append(example)
            else:
                where = self.source.locate(int(self.order[place]))
                limit = self.encoder.max_tokens
                window.dropped.append(
                    Dropped("response_too_long", where, f"does not fit in {limit} tokens")
                )
        return window


def read_windows(dataset: WindowDataset, first: int, num_workers: int) -> Iterator[Window]:
    """Windows ``first``, ``first + 1``, … in order, whatever the number of workers.

    Raises:
        UserError: a row is bad and the policy is ``fail``.
        Unfinished: a worker was killed.
    """
    loader = DataLoader(
        dataset,
        sampler=range(first, len(dataset)),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        prefetch_factor=2 if num_workers else None,
        worker_init_fn=_start_worker,
    )
    try:
        for window in loader:
            if window.error is not None:
                raise UserError(window.error)
            yield window
    except RuntimeError as error:
        raise lost_worker(error) from None


def lost_worker(error: RuntimeError) -> Exception:
    """What to raise in place of ``error``, which is PyTorch's when a worker was killed.

    PyTorch raises it in a signal handler, and so from whatever line the program is at.
    """
    if "DataLoader worker" not in str(error):
        return error
    return Unfinished(
        f"a tokenising process was lost ({str(error).splitlines()[0]}). Where nobody killed it the "
        "machine may be out of memory: lower data.num_workers. resume=auto goes on from the last "
        "checkpoint"
    )


def _start_worker(worker: int) -> None:
    end_with_parent()  # a worker whose parent was killed can hang for ever on its full pipe
    # A scheduler's signals go to all processes; the one that trains answers them, after the step
    # at hand, for which it may need more windows.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_AFTER_SIGTERM))


def _as_it_is(window: Any) -> Any:
    return window
