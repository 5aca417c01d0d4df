"""Names of files → rows: globs, endings, the hub, compressed and remote files.

Compressed and remote files are copied once into the user's cache, plain; Parquet is converted there
once. Arrow files and hub sets are opened by `datasets`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import zstandard

from orca.errors import UserError
from orca.paths import cache_dir, made_once
from orca.traces.parquet import ParquetRows, convert_parquet
from orca.traces.rows import (
    ArrowRows,
    LineRows,
    ListRows,
    Rows,
    file_fingerprint,
    parse_json,
    parse_tsv,
)

TEXT_ENDINGS = (".jsonl", ".json", ".tsv")
COMPRESSION = (".gz", ".zst")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w\[\]%]+)?")


def open_rows(pattern: str, root: str | None = None) -> list[Rows]:
    """The files that ``pattern`` names, sorted by name, each as :class:`Rows`.

    Args:
        pattern: a path, glob or URL ending in ``.jsonl``, ``.json``, ``.tsv``, ``.parquet`` or
            ``.arrow`` (text also ``.gz`` or ``.zst``); or a hub id ``owner/name[:split]``.
        root: directory for relative paths.

    Raises:
        UserError: nothing matches, the ending is unknown, or a file cannot be opened.
    """
    pattern = os.path.expandvars(os.path.expanduser(pattern))
    is_url = "://" in pattern
    path = pattern if is_url or not root else os.path.join(os.path.expanduser(root), pattern)
    if (
        not is_url
        and HUB_ID.fullmatch(pattern)
        and not _ending(pattern)
        and not Path(path).exists()
    ):
        return [_open_hub(pattern)]
    filesystem, inner = fsspec.core.url_to_fs(path)
    if any(mark in inner for mark in "*?["):
        names = sorted(filesystem.glob(inner))
    else:
        names = [inner] if filesystem.exists(inner) else []
    if not names:
        raise UserError(f"no file matches {path!r}. {_way_out(root)}")
    return [_open_file(filesystem, name) for name in names]


def _way_out(root: str | None) -> str:
    if not root:
        return "Give a path, a glob or a URL; data.path is the directory for relative names."
    directory = Path(os.path.expanduser(root))
    if directory.is_file():
        return f"data.path={root} is a file: give its directory, and the file in data.parts.…"
    if not directory.is_dir():
        said = f"There is no directory data.path={root}."
        if directory.parts[0] == "None":  # what ${paths.benchmarks} is without a value
            said += " paths.benchmarks is not set: give it, or the variable ORCA_SHARED_DATA."
        return said
    names = sorted(file.name for file in directory.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{root} holds {', '.join(names[:8]) or 'nothing'}{more}; name files in data.parts.…"


def _open_file(filesystem: Any, name: str) -> Rows:
    ending = _ending(name)
    if ending is None:
        raise UserError(
            f"{name}: unknown ending. Known: .jsonl, .json, .tsv (also .gz, .zst), .parquet, .arrow"
        )
    local = _local_copy(filesystem, name)
    if ending in (".jsonl", ".tsv"):
        return LineRows(name, local, parse_json if ending == ".jsonl" else parse_tsv)
    if ending == ".json":
        return _open_json(name, local)
    if ending == ".parquet":
        return _open_parquet(name, local, filesystem)
    return _open_arrow(name, local)


def _open_json(name: str, local: Path) -> Rows:
    with local.open("rb") as file:
        first = file.read(1024).lstrip()[:1]
    if first != b"[":  # JSON lines under another name
        return LineRows(name, local, parse_json)
    try:
        rows = json.loads(local.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{name}: not a JSON array ({error}). Is the file truncated?") from None
    return ListRows(name, rows, file_fingerprint(local))


def _open_parquet(name: str, local: Path, filesystem: Any) -> Rows:
    def convert(directory: Path) -> None:
        print(f"{name}: converting to Arrow in {directory.parent}, once", file=sys.stderr)
        try:
            convert_parquet(local, directory)
        except UserError:
            raise
        except Exception as error:  # a broken file shows in many ways
            raise _unreadable(name, "Parquet", error) from None

    directory = made_once(_cached(filesystem, name) / f"{local.stem}.rows", convert)
    try:
        return ParquetRows(name, directory, file_fingerprint(local))
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: damaged ({error}). Delete it; it is made again") from None


def _open_arrow(name: str, local: Path) -> Rows:
    import datasets

    try:
        source = pa.memory_map(str(local))
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            table = pa.ipc.open_stream(source).read_all()
    except Exception as error:  # a broken file shows in many ways
        raise _unreadable(name, "Arrow", error) from None
    dataset = datasets.Dataset(datasets.table.InMemoryTable(table))
    return ArrowRows(name, dataset, file_fingerprint(local))


def _unreadable(name: str, kind: str, error: Exception) -> UserError:
    return UserError(f"{name}: cannot be read as {kind} ({error}). Is it complete?")


def _open_hub(identity: str) -> Rows:
    import datasets

    name, _, split = identity.partition(":")
    try:
        dataset = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # offline, gated, no such set: the hub's own words say which
        raise UserError(
            f"{identity!r} is no local file and cannot be loaded from the hub ({error}). "
            "For a local directory name the files, for example 'dir/*.jsonl'."
        ) from None
    return ArrowRows(identity, dataset, f"hub:{identity}:{dataset._fingerprint}")


def _ending(name: str) -> str | None:
    stem = name
    for suffix in COMPRESSION:
        stem = stem.removesuffix(suffix)
    known = TEXT_ENDINGS if stem != name else (*TEXT_ENDINGS, ".parquet", ".arrow")
    return next((ending for ending in known if stem.endswith(ending)), None)


def _local_copy(filesystem: Any, name: str) -> Path:
    """``name`` as a plain local file: itself, or an unpacked copy in the cache."""
    packed = name.endswith(COMPRESSION)
    if not packed and "file" in _protocols(filesystem):
        return Path(name)
    plain_name = Path(name).name
    for suffix in COMPRESSION:
        plain_name = plain_name.removesuffix(suffix)

    def copy_plain(target: Path) -> None:
        try:
            with filesystem.open(name, "rb") as source, target.open("wb") as copy:
                if packed:
                    unpack(Path(name).suffix, source, copy)
                else:
                    shutil.copyfileobj(source, copy, 1 << 20)
        except Exception as error:  # every compression library raises its own kind
            raise UserError(
                f"{name}: cannot be copied or unpacked ({error}). Is it complete?"
            ) from None

    return made_once(_cached(filesystem, name) / plain_name, copy_plain)


def _cached(filesystem: Any, name: str) -> Path:
    """The cache's directory for what is made of this version of a file."""
    # ukey changes with the version (mtime, size or etag): no stale copy is ever used.
    key = hashlib.sha256(f"{name}|{filesystem.ukey(name)}".encode()).hexdigest()[:16]
    return cache_dir("files", key)


def unpack(suffix: str, source: Any, copy: Any) -> None:
    """Write the plain text of a file that ends in ``.gz`` or ``.zst``.

    Raises:
        EOFError: the file is cut off.
    """
    if suffix == ".gz":
        with gzip.open(source) as unpacked:
            shutil.copyfileobj(unpacked, copy, 1 << 20)
        return
    # zstandard's own readers end a cut-off file without a word; its frame objects tell.
    frame = zstandard.ZstdDecompressor().decompressobj()
    while data := source.read(1 << 20):
        while data:
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            copy.write(frame.decompress(data))
            data = frame.unused_data
    if not frame.eof:
        raise EOFError("the last frame is not complete")


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
