"""The global stream of packs: deterministic, rank-free, resumable at any pack.

Every rank walks the same stream. Its state is a few numbers that say nothing of ranks or workers:
the epoch, the window, the packs taken from it and the examples that were carried into it. Seeking
re-reads one window and the carried examples; it does not replay the epoch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from orca.errors import UserError
from orca.stream.curriculum import Curriculum
from orca.stream.encode import Encoder
from orca.stream.packing import Pack, pack_window
from orca.stream.windows import HeldOut, Window, WindowDataset, read_windows
from orca.traces import TraceSource


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where the stream stands: ``taken`` packs of window ``window`` of ``epoch`` are done.

    ``carried`` holds (place, rank) of the examples in the pack that window ``window - 1`` left
    open; ``num_kept`` counts the examples kept in all windows before this one.
    """

    epoch: int = 0
    window: int = 0
    taken: int = 0
    carried: tuple[tuple[int, int], ...] = ()
    num_kept: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "carried": [list(pair) for pair in self.carried]}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> StreamState:
        carried = tuple((int(place), int(rank)) for place, rank in state["carried"])
        return cls(**{**state, "carried": carried})


@dataclass(slots=True)
class StreamPack:
    """A pack as it leaves the stream.

    ``examples_read`` counts rows of the data up to here over all epochs (for progress);
    ``windows`` are the windows first reported with this pack (for the data card); ``rank`` is
    the number of examples emitted before it in the run's epoch (for displacement).
    """

    pack: Pack
    state: StreamState
    examples_read: float
    first_rank: int
    windows: list[Window] = field(default_factory=list)


class PackStream:
    """Iterate over :class:`StreamPack` from ``state`` to the end of the last epoch.

    Args:
        epochs: passes over the source; of the last one perhaps a part (2.5), which is the beginning
            of its order.
        capacity: tokens of a pack.
        window: examples of a window (W); no example moves further than W-1 places.
        packing: False gives every example a pack of its own.
        held_out: queries kept out of training.
        on_bad_row: ``fail`` or ``skip``.
    """

    def __init__(
        self,
        source: TraceSource,
        encoder: Encoder,
        curriculum: Curriculum,
        *,
        epochs: float,
        seed: int,
        capacity: int,
        window: int,
        packing: bool = True,
        held_out: HeldOut | None = None,
        on_bad_row: str = "fail",
        num_workers: int = 0,
        state: StreamState | None = None,
    ) -> None:
        self.source = source
        self.encoder = encoder
        self.curriculum = curriculum
        self.epochs = epochs
        self.seed = seed
        self.capacity = capacity
        self.window = window
        self.packing = packing
        self.held_out = held_out or HeldOut()
        self.on_bad_row = on_bad_row
        self.num_workers = num_workers
        self.state = state or StreamState()

    @property
    def num_examples(self) -> int:
        """Rows that the whole run reads: epochs × rows of the source."""
        return round(self.epochs * len(self.source))

    def __iter__(self) -> Iterator[StreamPack]:
        state, unreported = self.state, list[Window]()
        waiting: StreamPack | None = None
        for epoch in range(state.epoch, math.ceil(self.num_examples / len(self.source))):
            start = state if epoch == state.epoch else StreamState(epoch=epoch)
            for item in self._walk_epoch(start):
                if isinstance(item, Window):
                    unreported.append(item)
                    continue
                if waiting is not None:
                    yield waiting
                waiting, item.windows, unreported = item, unreported, []
        if waiting is not None:
            waiting.windows += unreported  # windows at the very end may give no pack of their own
            yield waiting
        elif self.state == StreamState():
            raise UserError(_nothing_left(unreported))

    def _walk_epoch(self, state: StreamState) -> Iterator[Window | StreamPack]:
        """Packs of one epoch from ``state``, each window before its packs (once per run)."""
        start = state.epoch * len(self.source)
        order = self.curriculum.order(self.source, self.seed, state.epoch)
        order = order[: self.num_examples - start]
        dataset = WindowDataset(
            self.source, order, self.encoder, self.window, self.held_out, self.on_bad_row
        )
        carried, num_kept, skip = self._read_carried(dataset, state), state.num_kept, state.taken
        windows = read_windows(dataset, state.window, self.num_workers)
        for number, window in enumerate(windows, start=state.window):
            if skip == 0:
                yield window
            for rank, example in enumerate(window.examples, start=num_kept):
                example.rank = rank
            came_in = () if carried is None else tuple((e.place, e.rank) for e in carried.examples)
            num_before = num_kept - len(came_in)
            last = number == len(dataset) - 1
            if self.packing:
                packs, carried = pack_window(window.examples, self.capacity, carried, last)
            else:
                packs = [Pack([example]) for example in window.examples]
            begin = start + window.start
            for taken, pack in enumerate(packs, start=1):
                if taken > skip:
                    yield StreamPack(
                        pack=pack,
                        state=StreamState(state.epoch, number, taken, came_in, num_kept),
                        examples_read=begin + window.num_read * taken / len(packs),
                        first_rank=num_before,
                    )
                num_before += len(pack.examples)
            num_kept += len(window.examples)
            skip = 0

    def _read_carried(self, dataset: WindowDataset, state: StreamState) -> Pack | None:
        if not state.carried:
            return None
        pack = Pack()
        for place, rank in state.carried:
            (example,) = dataset.read(place, dataset.order[place : place + 1]).examples
            example.rank = rank
            pack.examples.append(example)
        return pack


def _nothing_left(windows: list[Window]) -> str:
    dropped = [row for window in windows for row in window.dropped]
    reasons = Counter(row.reason for row in dropped)
    first = f"; the first is {dropped[0].where}: {dropped[0].detail}" if dropped else ""
    return (
        f"no example is left to train on: {sum(w.num_read for w in windows)} rows read, "
        f"{sum(w.num_held_out for w in windows)} held out, dropped {dict(reasons)}{first}"
    )


def displacement(item: StreamPack) -> np.ndarray:
    """How many places each example of a pack moved from its curriculum position, int64."""
    emitted = np.arange(item.first_rank, item.first_rank + len(item.pack.examples))
    return np.abs(np.array([e.rank for e in item.pack.examples]) - emitted)
