"""Best-fit decreasing in a bounded window: nearly full packs, nearly the curriculum's order.

A whole-set packer fills 99.9 % but scatters the curriculum; next-fit keeps the order but fills
81-84 %. Here every window of W examples is packed on its own (best-fit decreasing), and its
emptiest pack is carried into the next window as a bin that is already open. The carried pack is
emitted first there, its old examples first in it, so the emitted sequence is a permutation
*within* each window: no example moves further than W-1 places from its curriculum position.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from orca.stream.encode import Example


@dataclass(slots=True)
class Pack:
    """Examples that share one row of at most ``capacity`` tokens; attention never crosses them."""

    examples: list[Example] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(len(example.tokens) for example in self.examples)

    @property
    def num_targets(self) -> int:
        # An example's first token can be no target: nothing comes before it.
        return sum(min(e.num_targets, len(e.tokens) - 1) for e in self.examples)

    @property
    def sum_of_squares(self) -> int:
        """Σ length², to which the cost of isolated attention is proportional."""
        return sum(len(example.tokens) ** 2 for example in self.examples)


def best_fit_decreasing(
    lengths: Sequence[int], capacity: int, open_bin: int | None = None
) -> list[list[int]]:
    """Indices into ``lengths`` per bin.

    Args:
        lengths: each between 1 and ``capacity``.
        open_bin: free room of a bin that is open already; it is bin 0 of the result then, and
            may stay empty.
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room, bin) ascending: the first that fits fits best
    if open_bin is not None:
        bins.append([])
        free.append((open_bin, 0))
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        at = bisect_left(free, (length, -1))
        if at == len(free):
            bins.append([])
            number, room = len(bins) - 1, capacity
        else:
            room, number = free.pop(at)
        bins[number].append(index)
        if room > length:
            insort(free, (room - length, number))
    return bins


def pack_window(
    examples: list[Example], capacity: int, carried: Pack | None, last: bool
) -> tuple[list[Pack], Pack | None]:
    """Pack one window.

    Args:
        examples: the window's examples in curriculum order.
        carried: the pack that the window before left open.
        last: the epoch ends here, so nothing is carried on.

    Returns:
        The packs to emit, in order, and the pack to carry on (or None). The carried pack of the
        window before is always the first to be emitted, so it is carried once at most.
    """
    room = None if carried is None else capacity - carried.num_tokens
    bins = best_fit_decreasing([len(e.tokens) for e in examples], capacity, room)
    packs = []
    if carried is not None:
        fresh = [examples[i] for i in sorted(bins.pop(0))]
        packs.append(Pack(carried.examples + fresh))
    new = [Pack([examples[i] for i in sorted(indices)]) for indices in bins]
    new.sort(key=lambda pack: pack.examples[0].place)
    left = None
    if new and not last:
        emptiest = int(np.argmin([pack.num_tokens for pack in new]))
        left = new.pop(emptiest)
    return packs + new, left
