"""The paper's query sets out of FLAN's collections: scan, draw, extract, clean, assign, write.

Section 3.1 of arXiv 2306.02707: four sub-collections, a sampler for each, a system message for each
query; FLAN-1M is a uniform subset of FLAN-5M and keeps its queries' system messages.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orca.errors import UserError
from orca.mixture.card import query_card, save_card
from orca.mixture.engine import engine
from orca.mixture.extract import draw, stage
from orca.mixture.hygiene import run_checks, without
from orca.mixture.messages import SystemMessages
from orca.mixture.mixture import Mixture
from orca.mixture.multiple_choice import shows_options
from orca.mixture.output import complete_directory
from orca.mixture.pool import PoolFile
from orca.mixture.query import QUERY_SCHEMA
from orca.mixture.query_set import first, read_queries, write_query_set
from orca.mixture.sampling import check_number
from orca.mixture.scan import Scan, scan
from orca.mixture.tasks import training_tasks
from orca.traces import SYSTEM_MESSAGES

NO_PATH = "(mixture.path is not set; flan_mini's is the variable ORCA_SHARED_DATA)"
LIBRARIES = ("duckdb", "numpy", "pyarrow", "py3langid", "rensa")


def build_query_sets(
    mixture: Mixture,
    out: Path,
    configuration: Mapping[str, Any],
    overwrite: bool = False,
    memory_gib: float = 2.0,
) -> dict[str, Any]:
    """Build the query sets in ``out`` (one directory each) with their card, which is returned.

    Nothing is in ``out`` before everything is complete.

    Args:
        configuration: the resolved configuration, for manifest and card.
        overwrite: replace what ``out`` holds.
        memory_gib: what DuckDB may hold; everything else takes some hundred MB and two bytes
            a candidate.

    Raises:
        UserError: ``out`` exists, a source is missing or broken, a row is no query.
    """
    check_number("memory_gib (in MiB)", round(memory_gib * 1024))
    with complete_directory(out, overwrite) as partial:
        return _build(mixture, partial, configuration, memory_gib)


def _build(
    mixture: Mixture, out: Path, configuration: Mapping[str, Any], memory: float
) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    work = out / ".work"
    with _timed(seconds, "scan"):
        scans = _scan(mixture, work, memory)
    with _timed(seconds, "draw"):
        drawn, pool = {}, {}
        for name, found in scans.items():
            sampler = mixture.chosen()[name].sampler
            drawn[name], quotas = draw(found, sampler, mixture.seed, name)
            pool[name] = _pool(found, quotas.tolist())
            _tell_drawn(name, found, len(drawn[name]), sampler.queries)
    facts = {
        "mixture": mixture.name,
        "seed": mixture.seed,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "configuration": dict(configuration),
    }
    with _timed(seconds, "extract"):
        staged = stage(scans, drawn, mixture.seed, work, memory)
        write_query_set(work / "drawn", _finished(staged, mixture.system_messages), facts)
    with _timed(seconds, "hygiene"):
        removed, hygiene = _clean(mixture, work / "drawn", out)
    with _timed(seconds, "write"):
        directories = _write_sets(mixture, work / "drawn", removed, out, facts)
    shutil.rmtree(work)
    card = query_card(
        directories,
        {
            "name": mixture.name,
            "seed": mixture.seed,
            "pool": pool,
            "asked": {
                "collections": {
                    name: one.sampler.queries for name, one in mixture.chosen().items()
                },
                "sets": dict(mixture.sets),
            },
            "bad_rows": {
                name: {"reasons": dict(found.bad), "examples": found.bad_examples}
                for name, found in scans.items()
            },
            "excluded": {name: sorted(found.excluded) for name, found in scans.items()},
            "hygiene": hygiene,
            "configuration": dict(configuration),
            "versions": facts["versions"],
            "seconds": seconds,
        },
    )
    save_card(card, out)
    return card


def _scan(mixture: Mixture, work: Path, memory: float) -> dict[str, Scan]:
    sources = {name: _open(mixture, name) for name in mixture.chosen()}
    scans = {}
    for name, files in sources.items():
        collection = mixture.chosen()[name]
        rule = training_tasks(name, collection.exclude)
        with engine(work / "spill", memory, ordered=True) as connection:
            scans[name] = scan(files, rule, mixture.on_bad_row, connection)
        found = scans[name]
        if not found.tasks:
            raise UserError(
                f"collection {name}: no query to sample among {len(found.codes):,} rows of "
                f"{len(files)} file(s): {found.few_shot.total():,} are few-shot, "
                f"{found.excluded.total():,} of excluded tasks, {found.bad.total():,} bad"
                + "".join(f"; {example}" for example in found.bad_examples[:1])
            )
        _check_excluded(name, collection.exclude, found)
        print(
            f"{name}: {found.counts.sum():,} zero-shot queries in {len(found.tasks):,} tasks, "
            f"{found.few_shot.total():,} few-shot, {found.excluded.total():,} of excluded tasks, "
            f"{found.bad.total():,} bad rows",
            flush=True,
        )
    return scans


def _open(mixture: Mixture, name: str) -> list[PoolFile]:
    try:
        return mixture.chosen()[name].source.open(mixture.path)
    except UserError as error:
        option = f"mixture.collections.{name}"
        below = f"below mixture.path={mixture.path}" if mixture.path else NO_PATH
        raise UserError(
            f"collection {name}: {error}. {option}.source says what its files are {below}; "
            f"{option}=null leaves it out"
        ) from None


def _check_excluded(name: str, patterns: Sequence[str], found: Scan) -> None:
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(task, pattern) for task in found.excluded):
            raise UserError(
                f"mixture.collections.{name}.exclude: no task is called {pattern!r}; there are "
                f"{', '.join(found.tasks[:5])}, …"
            )


def _pool(found: Scan, quotas: Sequence[int]) -> dict[str, dict[str, int]]:
    counts = found.counts.tolist()
    return {
        task: {"candidates": count, "few_shot": found.few_shot[task], "sampled": quota}
        for task, count, quota in zip(found.tasks, counts, quotas, strict=True)
    }


def _tell_drawn(name: str, found: Scan, drawn: int, wanted: int | None) -> None:
    short = f" (asked for {wanted:,}: the pool is smaller)" if wanted and drawn < wanted else ""
    print(f"{name}: {drawn:,} queries drawn{short}", flush=True)


def _finished(
    staged: Iterator[pa.RecordBatch], messages: SystemMessages
) -> Iterator[pa.RecordBatch]:
    """The queries with what is decided for each alone: multiple choice and system message."""
    for batch in staged:
        columns = {name: batch[name] for name in batch.schema.names}
        queries = columns["query"].to_pylist()
        choices = [shows_options(query) for query in queries]
        pairs = zip(columns["id"].to_pylist(), columns["collection"].to_pylist(), strict=True)
        numbers = [
            messages.choose(identity, collection, choice)
            for (identity, collection), choice in zip(pairs, choices, strict=True)
        ]
        columns["multiple_choice"] = pa.array(choices)
        columns["system_message_id"] = pa.array(numbers, pa.int8())
        columns["system_message"] = pa.array([SYSTEM_MESSAGES[number] for number in numbers])
        yield pa.RecordBatch.from_arrays(
            [columns[name] for name in QUERY_SCHEMA.names], schema=QUERY_SCHEMA
        )


FINDINGS_SCHEMA = pa.schema(
    {
        "check": pa.string(),
        "removed": pa.bool_(),
        "detail": pa.string(),
        "id": pa.string(),
        "collection": pa.string(),
        "task": pa.string(),
        "query": pa.string(),
    }
)
"""What ``findings.parquet`` says of every query that a check of hygiene found."""


def _clean(mixture: Mixture, drawn: Path, out: Path) -> tuple[set[str], dict[str, Any]]:
    """Ids that the checks remove, and what the card says of each check."""
    checks = list(mixture.hygiene.values())
    if not checks:
        return set(), {}
    found = run_checks(checks, lambda: read_queries(drawn))
    removed: set[str] = set()
    report: dict[str, Any] = {}
    for check in checks:
        details = found[check.name]
        gone = len(details) if check.remove else 0
        removed.update(details if check.remove else ())
        examples = [{"id": i, "detail": text} for i, text in islice(details.items(), 20)]
        report[check.name] = {"found": len(details), "removed": gone, "examples": examples}
        print(f"{check.name}: {len(details):,} found, {gone:,} removed", flush=True)
    with pq.ParquetWriter(out / "findings.parquet", FINDINGS_SCHEMA, compression="zstd") as writer:
        for batch in read_queries(drawn):
            for check in checks:
                details = found[check.name]
                texts = pa.array(map(details.get, batch["id"].to_pylist()), pa.string())
                table = pa.Table.from_batches([batch.filter(pc.is_valid(texts))])
                columns = {
                    "check": pa.repeat(check.name, len(table)),
                    "removed": pa.repeat(check.remove, len(table)),
                    "detail": texts.drop_null(),
                    **{name: table[name] for name in ("id", "collection", "task", "query")},
                }
                writer.write_table(pa.table(columns, FINDINGS_SCHEMA))
    return removed, report


def _write_sets(
    mixture: Mixture, drawn: Path, removed: set[str], out: Path, facts: Mapping[str, Any]
) -> dict[str, Path]:
    directories = {}
    for name, wanted in mixture.sets.items():
        directories[name] = out / name
        queries = first(without(removed, read_queries(drawn)), wanted)
        manifest = write_query_set(out / name, queries, {"set": name, **facts})
        short = f" (asked for {wanted:,})" if wanted and manifest["queries"] < wanted else ""
        print(f"{name}: {manifest['queries']:,} queries{short}", flush=True)
    return directories


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 1)
