"""How many queries each task gives, and which: section 3.1.2 and Algorithm 1 of arXiv 2306.02707.

Sampling works on counts alone: a sampler turns the size of every task into its quota, and
:func:`choose` picks that many of the task's candidates. Texts are read later, and only the chosen.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np

from orca.errors import UserError

Counts = np.ndarray
"""Candidates, or queries to take, of every task: int64 [tasks]."""


class Sampler(Protocol):
    """A rule that says how many queries each task gives."""

    queries: int | None
    """Queries asked for; None where the tasks decide."""

    def quotas(self, counts: Counts, random: np.random.Generator) -> Counts:
        """Queries to take of every task, at most ``counts``."""
        ...


def check_number(option: str, value: object) -> int:
    """``value``, a whole number from 1 on; a :class:`UserError` that names ``option`` otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{option}={value!r}: a whole number from 1 on is needed")
    return value


class TakeAll:
    """Every candidate: the paper's rule for CoT."""

    queries: int | None = None

    def quotas(self, counts: Counts, random: np.random.Generator) -> Counts:
        return counts.copy()


class Stratified:
    """``per_task`` of every task, all of a smaller one: the paper's rule for NiV2.

    Args:
        per_task: most queries of a task.
    """

    queries: int | None = None

    def __init__(self, per_task: int = 300) -> None:
        self.per_task = check_number("Stratified.per_task", per_task)

    def quotas(self, counts: Counts, random: np.random.Generator) -> Counts:
        return np.minimum(counts, self.per_task)


class UniformOverQueries:
    """``queries`` drawn uniformly from all candidates, so that a task gives as its size is.

    Args:
        queries: how many; the whole pool when it is smaller.
    """

    def __init__(self, queries: int) -> None:
        self.wanted = check_number("UniformOverQueries.queries", queries)
        self.queries: int | None = queries

    def quotas(self, counts: Counts, random: np.random.Generator) -> Counts:
        if self.wanted >= counts.sum():
            return counts.copy()
        return random.multivariate_hypergeometric(counts, self.wanted, method="marginals")


class AlgorithmOne:
    """Algorithm 1: ``queries`` times, draw one of the tasks that still have queries, each with the
    same probability, and take one of its queries; the paper's rule for FLAN 2021 and T0.

    Args:
        queries: how many; the whole pool when it is smaller.
        cap_per_task: a task counts with at most this many candidates (FLAN 2021: one million).
    """

    def __init__(self, queries: int, cap_per_task: int | None = None) -> None:
        self.wanted = check_number("AlgorithmOne.queries", queries)
        self.queries: int | None = queries
        self.cap_per_task = cap_per_task
        if cap_per_task is not None:
            check_number("AlgorithmOne.cap_per_task", cap_per_task)

    def quotas(self, counts: Counts, random: np.random.Generator) -> Counts:
        if self.cap_per_task is not None:
            counts = np.minimum(counts, self.cap_per_task)
        draws = draw_tasks(counts, self.wanted, random)
        return np.bincount(draws, minlength=len(counts)).astype(np.int64)


def draw_tasks(counts: Counts, queries: int, random: np.random.Generator) -> np.ndarray:
    """The tasks that Algorithm 1 draws, in order: int64 [min(queries, counts.sum())].

    Draws are made many at a time over the tasks that are left. A draw of a task that the same batch
    has just exhausted is thrown away: what stays is uniform over the tasks that were left at that
    moment, as if each draw had been made alone.
    """
    left = counts.astype(np.int64)
    missing = min(queries, int(left.sum()))
    drawn: list[np.ndarray] = []
    while missing:
        alive = np.flatnonzero(left)
        batch = alive[random.integers(len(alive), size=missing)]
        batch = batch[_occurrence(batch) < left[batch]]
        left -= np.bincount(batch, minlength=len(left))
        missing -= len(batch)
        drawn.append(batch)
    return np.concatenate(drawn) if drawn else np.empty(0, dtype=np.int64)


def _occurrence(values: np.ndarray) -> np.ndarray:
    """How often each value occurred before its place: [a b a a] → [0 0 1 2]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(values)])
    before = np.empty(len(values), dtype=np.int64)
    before[order] = np.arange(len(values)) - np.repeat(starts, lengths)
    return before


def choose(count: int, quota: int, seed: int, *names: str) -> np.ndarray:
    """``quota`` of 0 … count-1, uniformly without replacement, ascending: int64 [quota].

    The ``quota`` smallest of ``count`` random keys win. The keys depend on the seed and the names
    (collection and task) alone, so one task's choice does not move another's.
    """
    if quota >= count:
        return np.arange(count, dtype=np.int64)
    keys = np.random.PCG64(_seed(seed, *names)).random_raw(count)
    return np.sort(np.argpartition(keys, quota)[:quota])


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the names alone."""
    return np.random.Generator(np.random.PCG64(_seed(seed, *names)))


def _seed(seed: int, *names: str) -> int:
    text = "\x1f".join((str(seed), *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
