"""Where the project keeps what it can make again: converted models and unpacked files."""

from __future__ import annotations

import os
from pathlib import Path


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
