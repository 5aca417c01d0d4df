"""Checks of a query set: each lists what it finds, and may remove it.

A check reads the queries once, in order, and gives one :class:`Finding` for a query at most.
:func:`run_checks` runs several, so that a later one does not see what an earlier one removed.
Duplicates and overlap with benchmarks have files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from orca.errors import UserError
from orca.languages import NO_LANGUAGE, check_languages, language_of


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says about one query; ``detail`` is the evidence in a few words."""

    id: str
    detail: str


class Check(Protocol):
    """One check of a query set."""

    @property
    def name(self) -> str: ...

    @property
    def remove(self) -> bool:
        """False: what is found is counted and listed, and stays."""
        ...

    def find(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Finding]:
        """Findings of the whole set, given once and in its order; an id at most once.

        Batches have at least the columns id and query of :data:`orca.mixture.query.QUERY_SCHEMA`
        (:class:`Lengths` also reads targets).
        """
        ...


def check_names(checks: Iterable[Check]) -> None:
    """Raises :class:`UserError` where two checks have one name: findings go by it."""
    names = [check.name for check in checks]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two checks are called {name!r}: give one of them another name")


def run_checks(
    checks: Sequence[Check], queries: Callable[[], Iterable[pa.RecordBatch]]
) -> dict[str, dict[str, str]]:
    """Runs the checks in order; each sees what earlier removing checks have left.

    Args:
        queries: opens the set; called once per check, and always yields the same.

    Returns:
        For every check's name the details by query id, in the order they were found.

    Raises:
        UserError: two checks have one name.
    """
    check_names(checks)
    found: dict[str, dict[str, str]] = {}
    removed: set[str] = set()
    for check in checks:
        details = found[check.name] = {}
        for finding in check.find(without(removed, queries())):
            if finding.id in details:
                raise ValueError(f"check {check.name!r} found {finding.id!r} twice")
            details[finding.id] = finding.detail
        if check.remove:
            removed.update(details)
    return found


def without(removed: set[str], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The queries whose id is not among ``removed``."""
    for batch in batches:
        if removed:
            stays = [one not in removed for one in batch.column("id").to_pylist()]
            batch = batch.filter(pa.array(stays, pa.bool_()))
        yield batch


@dataclass(frozen=True)
class Lengths:
    """Queries, and with ``max_target_characters`` targets, of a length nobody wants to send.

    Lengths are in characters, without white space at the ends; limits are inclusive and None is
    no limit. A query with several targets is as long as its longest.

    Args:
        min_characters: a shorter query is found.

    Raises:
        UserError: the minimum is above the maximum.
    """

    max_characters: int | None
    min_characters: int = 1
    max_target_characters: int | None = None
    remove: bool = True
    name: str = "lengths"

    def __post_init__(self) -> None:
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise UserError(
                f"check {self.name!r}: max_characters {self.max_characters} is below "
                f"min_characters {self.min_characters}"
            )

    def find(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Finding]:
        for batch in batches:
            columns = [batch.column(name).to_pylist() for name in ("id", "query", "targets")]
            for one, query, targets in zip(*columns, strict=True):
                if detail := self._detail(query, targets):
                    yield Finding(one, detail)

    def _detail(self, query: str, targets: Sequence[str]) -> str | None:
        length = len(query.strip())
        if length < self.min_characters:
            return f"{length} characters, fewer than {self.min_characters}"
        if self.max_characters is not None and length > self.max_characters:
            return f"{length} characters, more than {self.max_characters}"
        if self.max_target_characters is not None:
            longest = max((len(target.strip()) for target in targets), default=0)
            if longest > self.max_target_characters:
                return f"a target of {longest} characters, more than {self.max_target_characters}"
        return None


@dataclass(frozen=True)
class Language:
    """Queries that py3langid takes for another language.

    A query is found when the most probable language is not among ``languages`` and has at least
    ``min_probability``; py3langid's label for text in no language at all (``zxx``: numbers,
    tables) is never a finding. py3langid lowers its probability for short texts, so no minimum
    length is needed. Of 49,431 English queries (4,480 of T0, 11,508 of 60 NIV2 tasks, 33,443 of
    seven CoT sets) none is found with the default; with a minimum of 0.5 it is 10, all short
    CoT questions; with 0 it is 93 (``Find 12 x 19``, ``Is Krishna similar to Holy Spirit?``).
    The first 40 to 60 characters of a sentence in German or Russian have more than 0.9, of
    Spanish or Portuguese 0.7 to 0.95. Code was not in the measurement.

    An English instruction with a sentence to translate from another language is found as that
    other language: leave such tasks to ``languages`` or to ``remove=False``. About 100 s per
    million queries of 370 characters on one core.

    Args:
        languages: ISO 639-1 codes that may stay.

    Raises:
        UserError: a code that py3langid does not know.
    """

    languages: Sequence[str] = ("en",)
    min_probability: float = 0.8
    remove: bool = True
    name: str = "language"

    def __post_init__(self) -> None:
        check_languages(self.languages, f"check {self.name!r}")

    def find(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Finding]:
        stay = {*self.languages, NO_LANGUAGE}
        for batch in batches:
            columns = [batch.column(name).to_pylist() for name in ("id", "query")]
            for one, query in zip(*columns, strict=True):
                language, probability = language_of(query)
                if language not in stay and probability >= self.min_probability:
                    yield Finding(one, f"{language} with probability {probability:.2f}")
