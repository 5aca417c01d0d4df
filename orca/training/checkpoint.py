"""Checkpoints that are whole or absent, and the newest of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

STEP_FILE = "step{step:08d}"
"""Name of a resumable checkpoint, for ``ModelCheckpoint``'s ``filename``."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, to disk, then renames: a killed write leaves no checkpoint."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)


def newest_checkpoint(directory: Path) -> Path | None:
    """The resumable checkpoint of the latest step, or None."""
    found = [
        (int(match[1]), file)
        for file in directory.glob("step*.ckpt")
        if (match := re.fullmatch(r"step(?:step=)?(\d+)", file.stem))
    ]
    return max(found)[1] if found else None
