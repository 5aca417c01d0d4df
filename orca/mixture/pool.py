"""Candidate queries as Parquet that DuckDB reads: one form for all that people have FLAN in.

A source (Parquet or JSONL submixes, CoT tables, Super-NaturalInstructions tasks, P3 rows, templates
over raw rows) opens as a list of :class:`PoolFile`. Parquet stays where it is and is seen through
SQL expressions; everything else is rendered once into the cache, as :data:`SCHEMA`.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from orca.errors import UserError
from orca.paths import cache_dir, made_once

SCHEMA = pa.schema(
    {
        "task": pa.string(),
        "template": pa.string(),
        "template_type": pa.string(),
        "query": pa.string(),
        "targets": pa.list_(pa.string()),
        "row": pa.int64(),
        "problem": pa.string(),
    }
)
"""Columns of the pool; :class:`Candidate` says what they hold."""

NOT_SUITED = "not_suited"
"""Reason of a row that a template leaves out on purpose: counted, and never an error."""
WRITTEN_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """One query that may be sampled, or a row that cannot be (``problem`` says why).

    Args:
        task: the task that Algorithm 1 and the stratified sampler count it under.
        query: what the student or teacher is asked.
        targets: every gold answer; the first is the one to train on.
        row: 1-based row (line, instance) of the source file.
        template: which layout or template rendered it; with file, row and task it is unique.
        template_type: FLAN's: ``zs_opt``, ``zs_noopt`` (zero-shot, answer options shown or not),
            ``fs_opt``, ``fs_noopt`` (few-shot).
        problem: ``reason: sentence`` for a row that is no query; the other texts may be None.
    """

    task: str | None
    query: str | None
    targets: tuple[str, ...]
    row: int
    template: str = ""
    template_type: str | None = "zs_noopt"
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class PoolFile:
    """One Parquet file of candidates.

    Args:
        name: the source file as the user knows it, relative to ``mixture.path``; orders the pool.
        path: where the Parquet lies.
        columns: SQL expression of every column of :data:`SCHEMA`; ``file_row_number`` (0-based)
            may be used in them.
    """

    name: str
    path: str
    columns: Mapping[str, str]


class Source(Protocol):
    """Where a collection's candidates come from."""

    def open(self, root: str | None) -> list[PoolFile]:
        """The files, sorted by name; relative patterns start at ``root``.

        Raises:
            UserError: nothing matches, or a file is broken.
        """
        ...


RENDERED = {name: name for name in SCHEMA.names}
"""Columns of a file in the pool's own form."""


def matching_files(patterns: str | Iterable[str], root: str | None) -> list[tuple[str, Path]]:
    """(name, path) of every local file that the patterns name, sorted by name.

    ``**`` goes into directories. The name is relative to ``root``, so that it does not depend on
    where the data lies.

    Raises:
        UserError: a pattern matches no file.
    """
    found: dict[str, Path] = {}
    places: dict[str, str] = {}
    base = os.path.expanduser(root) if root else ""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        pattern = os.path.expandvars(os.path.expanduser(pattern))
        whole = os.path.join(glob.escape(base), pattern)
        names = [name for name in glob.glob(whole, recursive=True) if os.path.isfile(name)]
        if not names:
            raise UserError(
                f"no file matches {os.path.join(base, pattern)!r}{_around(base, pattern)}"
            )
        for name in sorted(names, key=lambda name: (name.count(os.sep), name)):
            # A link to a directory above would give each file many names.
            place = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
            if places.setdefault(place, name) != name:
                continue
            known = os.path.relpath(name, base) if base and name.startswith(base) else name
            found[known.replace(os.sep, "/")] = Path(name)
    return sorted(found.items())


def _around(base: str, pattern: str) -> str:
    """What lies where the pattern looks, for a message."""
    directory = Path(base, pattern)
    while not directory.is_dir() and directory != directory.parent:
        directory = directory.parent
    names = sorted(f"{p.name}{'/' * p.is_dir()}" for p in islice(directory.iterdir(), 1000))
    return f"; {directory} holds {', '.join(names[:6]) or 'nothing'}{', …' * (len(names) > 6)}"


def rendered(
    name: str, files: Iterable[Path], settings: str, render: Callable[[], Iterable[Candidate]]
) -> PoolFile:
    """The candidates of ``render`` as a pool file, written to the cache once.

    Args:
        name: the source file's name for messages and provenance.
        files: the files that ``render`` reads; another size or time of one renders again.
        settings: what else the result depends on (options and version of the renderer).
    """

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
            for rows in _chunks(render()):
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))

    return cached_pool(name, files, settings, write)


def cached_pool(
    name: str, files: Iterable[Path], settings: str, write: Callable[[Path], None]
) -> PoolFile:
    """What ``write`` makes of ``files``, a Parquet of :data:`SCHEMA`, in the cache; made once.

    Arguments are those of :func:`rendered`; ``write`` gets the path to write to.
    """
    states = []
    for file in files:
        state = file.stat()
        # Not resolved: links to one file in two directories are two tasks.
        states.append((str(file.absolute()), state.st_size, state.st_mtime_ns))
    key = hashlib.sha256(repr((name, states, settings)).encode()).hexdigest()[:16]
    path = made_once(cache_dir("pool", key) / "pool.parquet", write)
    return PoolFile(name, str(path), RENDERED)


def _chunks(candidates: Iterable[Candidate]) -> Iterator[list[dict[str, object]]]:
    iterator = iter(candidates)
    while rows := [asdict(one) for one in islice(iterator, WRITTEN_AT_ONCE)]:
        yield rows
