"""A directory that is complete or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from orca.errors import UserError
from orca.mixture.query_set import MANIFEST

OWN_FILES = ("findings.parquet", "query_card.md", "query_card.json", "query_card.html")


@contextmanager
def complete_directory(out: Path, overwrite: bool) -> Iterator[Path]:
    """A directory to write to, which becomes ``out`` when the block ends without an exception.

    Until then it is ``.<name>.partial`` beside it.

    Raises:
        UserError: ``out`` exists and is not to be replaced or holds what this program does not
            write, cannot be written, or another program builds it.
    """
    out = out.absolute()
    out = out.resolve() if out.exists() else out
    _check(out, overwrite)
    partial = out.with_name(f".{out.name}.partial")
    new = [path for path in (out.parent, *out.parent.parents) if not path.exists()]
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{partial}.lock", timeout=0):
            try:
                shutil.rmtree(partial, ignore_errors=True)  # what a killed program left
                partial.mkdir()
                yield partial
                _replace(out, partial)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                Path(f"{partial}.lock").unlink(missing_ok=True)
    except Timeout:
        raise UserError(
            f"another program builds {out}: wait for it, or give another out="
        ) from None
    except OSError as error:
        raise UserError(f"out={out} cannot be written: {error}") from None
    finally:
        for directory in new:
            if directory.exists() and not any(directory.iterdir()):
                directory.rmdir()


def _check(out: Path, overwrite: bool) -> None:
    if not out.name:
        raise UserError(f"out={out} has no name of its own: give a directory to make")
    if not out.exists():
        return
    if not overwrite:
        raise UserError(f"{out} exists: give another out=, or overwrite=true to replace it")
    if not out.is_dir():
        raise UserError(f"out={out} is a file: give a directory")
    for path in sorted(out.iterdir()):
        if path.name not in OWN_FILES and not (path / MANIFEST).is_file():
            raise UserError(
                f"overwrite=true replaces query sets alone, and {path} belongs to none: give "
                "another out="
            )


def _replace(out: Path, partial: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)
