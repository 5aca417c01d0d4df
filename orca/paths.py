"""Where the project keeps what it can make again: converted models and unpacked files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def cache_dir(*parts: str) -> Path:
    """The user's cache directory for this project, made when missing.

    ``ORCA_CACHE`` wins; otherwise the platform's convention (``XDG_CACHE_HOME`` or ``~/.cache``).
    """
    base = os.environ.get("ORCA_CACHE")
    if base:
        root = Path(base)
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "orca"
    directory = root.joinpath(*parts)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """``target``, a file or directory of the cache. One process makes it, the others wait.

    ``make`` writes to a path beside it, which is renamed when it is complete.
    """
    if target.exists():
        return target
    with FileLock(f"{target}.lock"):
        if target.exists():
            return target
        with replacing(target) as partial:
            make(partial)
    return target


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``file`` (or directory) when the block ends well.

    No reader finds half a file, and a kill leaves what was there before.
    """
    partial = file.with_name(f"{file.name}.partial")
    _remove(partial)  # what a killed process left
    try:
        yield partial
        os.replace(partial, file)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
