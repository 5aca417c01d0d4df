"""Curriculum policies: in which order an epoch walks the traces.

A policy is a pure function of (source, seed, epoch). Random order comes from sorting hashed
numbers instead of a library's shuffle, so it is the same on every machine and for every version
of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from orca.errors import UserError
from orca.traces import Trace, TraceSource

GROUPS = ("task", "sub_collection", "teacher", "system_message")
"""Fields of a trace that many traces share."""


class Curriculum(Protocol):
    """A policy; ``order`` returns a permutation of 0 … len(source)-1, int64."""

    def order(self, source: TraceSource, seed: int, epoch: int) -> np.ndarray: ...

    def describe(self) -> str: ...


class AsGiven:
    """The order of the files, the same in every epoch."""

    def order(self, source: TraceSource, seed: int, epoch: int) -> np.ndarray:
        return np.arange(len(source), dtype=np.int64)

    def describe(self) -> str:
        return "as given"


class Shuffle:
    """A new seeded shuffle every epoch: the paper's order within a stage (section 3.2)."""

    def order(self, source: TraceSource, seed: int, epoch: int) -> np.ndarray:
        return np.argsort(hashed_numbers(len(source), seed, epoch), kind="stable")

    def describe(self) -> str:
        return "shuffle"


class ByLength:
    """Short traces first (or long ones with ``descending``), measured in bytes of text.

    Ties are shuffled by (seed, epoch). Costs no tokenisation.
    """

    def __init__(self, descending: bool = False) -> None:
        self.descending = descending

    def order(self, source: TraceSource, seed: int, epoch: int) -> np.ndarray:
        return _by_key(source.sizes().astype(np.float64), seed, epoch, self.descending)

    def describe(self) -> str:
        return "by length, " + ("long first" if self.descending else "short first")


class ByDifficulty:
    """Easy traces first (or hard ones with ``descending``) by the field ``difficulty``.

    Reads every trace once at the start of each epoch.

    Args:
        within: ``task`` or another field, where difficulties compare among traces that have the
            same value of it alone: a trace's place is the share of those that are easier.

    Raises:
        UserError: a trace has no difficulty, or no field ``within``.
    """

    def __init__(self, descending: bool = False, within: str | None = None) -> None:
        if within not in (None, *GROUPS):
            raise UserError(f"curriculum.within={within!r} is none of {', '.join(GROUPS)}")
        self.descending, self.within = descending, within

    def order(self, source: TraceSource, seed: int, epoch: int) -> np.ndarray:
        # A bad row goes last; whether it stops the run is data.on_bad_row's matter.
        values, groups = zip(*source.values(self._place, bad=(np.inf, "")), strict=True)
        numbers = np.array(values)
        missing = np.flatnonzero(np.isnan(numbers))
        if len(missing):
            raise UserError(
                f"curriculum=difficulty needs a number in the field 'difficulty' of every trace; "
                f"{len(missing)} of {len(values)} have none, first {source.locate(int(missing[0]))}"
            )
        return _by_key(_shares(numbers, groups), seed, epoch, self.descending)

    def _place(self, trace: Trace) -> tuple[float, str]:
        """Difficulty, and among which."""
        group = getattr(trace, self.within) if self.within else ""
        return np.nan if trace.difficulty is None else trace.difficulty, group

    def describe(self) -> str:
        within = f" within {self.within}" if self.within else ""
        return f"by difficulty{within}, " + ("hard first" if self.descending else "easy first")


class BySubCollection:
    """Sub-collections one after the other, each shuffled by (seed, epoch), in the given order or,
    without one, by name.

    Reads every trace once at the start of each epoch.

    Raises:
        UserError: a sub-collection of the data is not in ``sub_collections``.
    """

    def __init__(self, sub_collections: Sequence[str] | None = None) -> None:
        self.sub_collections = None if sub_collections is None else list(sub_collections)

    def order(self, source: TraceSource, seed: int, epoch: int) -> np.ndarray:
        values = source.values(lambda trace: trace.sub_collection, bad=None)
        found = sorted({value for value in values if value is not None})
        wanted = found if self.sub_collections is None else self.sub_collections
        rank = {name: place for place, name in enumerate(wanted)}
        unknown = sorted(set(found) - set(rank))
        if unknown:
            raise UserError(
                f"the data has sub-collections {unknown}, which are not in "
                f"curriculum.sub_collections={self.sub_collections}"
            )
        ranks = [len(rank) if value is None else rank[value] for value in values]
        return _by_key(np.array(ranks, dtype=np.float64), seed, epoch, descending=False)

    def describe(self) -> str:
        return "by sub-collection: " + ", ".join(self.sub_collections or ["by name"])


def hashed_numbers(count: int, seed: int, epoch: int) -> np.ndarray:
    """splitmix64 of 0 … count-1 under (seed, epoch), uint64 [count]."""
    with np.errstate(over="ignore"):
        start = np.uint64(seed % 2**64) * np.uint64(0xD1342543DE82EF95) + np.uint64(epoch)
        mixed = _splitmix(np.arange(count, dtype=np.uint64) + _splitmix(start))
    return mixed


def _splitmix(value: np.ndarray | np.uint64) -> np.ndarray:
    # The finaliser of splitmix64 (Steele, Lea & Flood 2014); wrap-around is intended.
    mixed = np.asarray(value, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _shares(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """For each value the share of its group's that are less, equal ones counting half; infinite
    ones stay."""
    shares, numbers = values.copy(), np.unique(groups, return_inverse=True)[1]
    for number in np.unique(numbers):
        places = np.flatnonzero((numbers == number) & np.isfinite(values))
        own = values[places]
        ordered = np.sort(own)
        below, upto = (np.searchsorted(ordered, own, side) for side in ("left", "right"))
        shares[places] = (below + upto) / (2 * len(own))
    return shares


def _by_key(key: np.ndarray, seed: int, epoch: int, descending: bool) -> np.ndarray:
    ties = hashed_numbers(len(key), seed, epoch)
    return np.lexsort((ties, -key if descending else key))
