"""Queries that occur twice: word for word, or nearly.

FLAN renders one question with several templates and asks many questions over one passage. Both
make near-duplicates in the sense of shared word sequences, and only some of them are waste.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from rensa import RMinHash, RMinHashDeduplicator

from orca.errors import UserError
from orca.mixture.hygiene import Finding

_SEED = 42
_BANDS = 16
_ROWS_AT_ONCE = 1_000  # their n-grams are held as strings
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ExactDuplicates:
    """Queries whose text an earlier query has, but for white space and case; the first stays.

    Texts are compared by a 64-bit hash: a false finding among 5 million different queries has
    probability 7e-7. 12 microseconds and 100 bytes a query: a minute and 0.5 GB for 5 million.
    """

    remove: bool = True
    name: str = "exact_duplicates"

    def find(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Finding]:
        ids: list[pa.Array] = [pa.array([], pa.string())]
        hashes: list[np.ndarray] = [np.array([], np.uint64)]
        for batch in batches:
            # A copy: a column of a batch from DuckDB keeps the whole batch in memory.
            ids.append(pa.array(batch.column("id").to_pylist(), pa.string()))
            texts = batch.column("query").to_pylist()
            hashes.append(np.frombuffer(b"".join(map(_normal_hash, texts)), np.uint64))
        _, first, group = np.unique(np.concatenate(hashes), return_index=True, return_inverse=True)
        like = first[group]
        all_ids = pa.chunked_array(ids)
        again = np.flatnonzero(like != np.arange(len(like)))
        found, kept = all_ids.take(again), all_ids.take(like[again])
        for one, other in zip(found.to_pylist(), kept.to_pylist(), strict=True):
            yield Finding(one, f"same text as {other}")


def _normal_hash(text: str) -> bytes:
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).digest()


@dataclass(frozen=True)
class NearDuplicates:
    """Queries whose word n-grams are nearly those of an earlier query that was not found.

    MinHash with locality-sensitive hashing (rensa): a query is found when its signature agrees
    with an earlier one's in at least ``threshold`` of ``num_perm`` places, an estimate of the
    Jaccard similarity of the two sets of n-grams. A query shorter than ``ngram`` words is one
    n-gram. The detail names one of the queries it is like. The same set gives the same findings.

    Removal is off by default because these are not always duplicates: questions over one passage
    share nearly all their n-grams, and so do instances of a NIV2 task under one long definition.
    Of 4,480 T0 prompts (16 rows a template, templates of one data set over the same rows) exact
    Jaccard finds 1,921 and this finds 1,915: 1,864 of them, and 51 whose similarity is 0.75-0.8.

    About 60 microseconds and 2.2 KB for a query of 1,000 characters that is not found, on one
    core: 5 minutes and 11 GB for 5 million.

    Args:
        ngram: words of a shingle.
        num_perm: places of a signature, a multiple of 16.

    Raises:
        UserError: the threshold is not between 0 and 1, or ``num_perm`` is no multiple of 16.
    """

    threshold: float = 0.8
    ngram: int = 5
    num_perm: int = 128
    remove: bool = False
    name: str = "near_duplicates"

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(f"check {self.name!r}: threshold {self.threshold} is not in (0, 1]")
        if self.ngram < 1:
            raise UserError(f"check {self.name!r}: ngram {self.ngram} is below 1")
        if self.num_perm < 1 or self.num_perm % _BANDS:
            raise UserError(
                f"check {self.name!r}: num_perm {self.num_perm} is no multiple of {_BANDS}"
            )

    def find(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Finding]:
        # rensa's own choice for 128 places and 0.8 is 8 bands, which misses 14 % on T0.
        kept = RMinHashDeduplicator(self.threshold, self.num_perm, True, _BANDS, _SEED)
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                rows = batch.slice(start, _ROWS_AT_ONCE)
                grams = [self._grams(text) for text in rows.column("query").to_pylist()]
                sketches = RMinHash.from_token_sets(grams, self.num_perm, _SEED)
                for one, sketch in zip(rows.column("id").to_pylist(), sketches, strict=True):
                    if not kept.add(one, sketch):
                        yield Finding(one, f"like {min(kept.get_duplicates(sketch))}")

    def _grams(self, text: str) -> list[str]:
        words = _WORD.findall(text.lower()) or [text.strip()]  # signs alone are compared whole
        starts = range(max(1, len(words) - self.ngram + 1))
        return [" ".join(words[start : start + self.ngram]) for start in starts]
