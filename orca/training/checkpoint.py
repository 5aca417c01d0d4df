"""A resumable checkpoint on disk: written in the background, whole or absent, checked when read.

One format for every strategy and number of ranks: PyTorch's distributed checkpoint (each rank
writes its own shards), the run's small state, and a manifest with the size and CRC-32 of every
file. The manifest comes last and the directory gets its name when all is on disk, so a killed
write is never taken for a checkpoint. The directory must be one that all nodes see.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import sys
import threading
import warnings
import zlib
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.tensor import DTensor

from orca.errors import UserError
from orca.training.ranks import gather_objects, is_rank_zero, on_rank_zero, world

MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.pt"
METADATA_FILE = ".metadata"  # PyTorch's name for it
_NAME = re.compile(r"step(\d{8})")
_MARGIN = 1.05  # headers and metadata beside the tensors


class CheckpointWriter:
    """Writes one checkpoint at a time while training goes on.

    Args:
        directory: of all checkpoints of the stage; a checkpoint is ``step00000050/``.
        keep: checkpoints kept; older ones are deleted once a newer one is whole.
        asynchronous: copy the state to host memory and write it in the background; otherwise
            training waits (and needs no copy).
    """

    def __init__(self, directory: Path, keep: int, asynchronous: bool) -> None:
        self.directory = directory
        self.keep = keep
        self.asynchronous = asynchronous
        self._group: Any = None
        self._pending: Future[None] | None = None

    def prepare(self) -> None:
        """Make the directory, refuse one that cannot be written, clear what a kill left behind.

        Raises:
            UserError: on every rank, where rank 0 cannot write there.
        """
        on_rank_zero(self._prepare)
        if dist.is_initialized() and self._group is None:
            # The writing thread must not share a group with the training thread.
            self._group = dist.new_group(backend="gloo")

    def save(self, step: int, tensors: dict[str, Any], state: Mapping[str, Any]) -> None:
        """Save the state after ``step`` optimizer steps; every rank must call this.

        Args:
            tensors: model and optimizer state; each rank holds its shards.
            state: the rest, the same on all ranks.

        Raises:
            UserError: this checkpoint does not fit on the disk, or the one before failed.
        """
        self.wait()
        needed = sum(gather_objects(local_bytes(tensors)))
        on_rank_zero(lambda: self._check_room(step, int(needed * _MARGIN)))
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)  # now: training goes on changing what it holds
        packed = buffer.getvalue()
        if not self.asynchronous:
            self._write(step, tensors, packed)
            return
        staged = BlockingAsyncStager().stage(tensors)
        pending: Future[None] = Future()
        self._pending = pending

        def work() -> None:
            try:
                self._write(step, staged, packed)
                pending.set_result(None)
            except BaseException as error:
                pending.set_exception(error)

        # A daemon: the program's end waits for the writer only where it says so.
        threading.Thread(target=work, name="checkpoint", daemon=True).start()

    @property
    def has_failed(self) -> bool:
        """Whether the checkpoint in the background is known to have failed."""
        done = self._pending is not None and self._pending.done()
        return done and self._pending.exception() is not None  # type: ignore[union-attr]

    def wait(self, seconds: float | None = None) -> None:
        """Until the checkpoint in the background is on disk.

        Raises:
            UserError: it could not be written.
            TimeoutError: ``seconds`` have passed.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result(seconds)

    def _prepare(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for left in self.directory.glob("step*.partial"):
                shutil.rmtree(left)
            probe = self.directory / "probe.partial"
            probe.write_bytes(b"0")
            probe.unlink()
        except OSError as error:
            raise UserError(f"checkpoints cannot be written: {error}. {_WAY_OUT}") from None

    def _check_room(self, step: int, needed: int) -> None:
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise UserError(
                f"no room for the checkpoint of step {step}: {self.directory} has "
                f"{free / 2**30:.2f} GiB free, {needed / 2**30:.2f} GiB are needed. {_WAY_OUT}"
            )

    def _write(self, step: int, tensors: dict[str, Any], state: bytes) -> None:
        partial = self.directory / f"step{step:08d}.partial"
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
                dcp.save(
                    tensors,
                    storage_writer=FileSystemWriter(partial, overwrite=True),
                    process_group=self._group,
                )
            mine = [(f.name, f.stat().st_size, _crc32(f)) for f in _own_files(partial)]
            files = [entry for part in gather_objects(mine, self._group) for entry in part]
            on_rank_zero(lambda: self._commit(step, partial, files, state), self._group)
        except (Exception, CheckpointException) as error:
            cause = _root_cause(error)
            raise UserError(
                f"the checkpoint of step {step} could not be written to {self.directory}: "
                f"{type(cause).__name__}: {cause}. {_WAY_OUT}"
            ) from error

    def _commit(self, step: int, partial: Path, files: list[Any], state: bytes) -> None:
        with (partial / STATE_FILE).open("wb") as file:
            file.write(state)
            file.flush()
            os.fsync(file.fileno())
        own = partial / STATE_FILE
        files.append((own.name, own.stat().st_size, _crc32(own)))
        manifest = {name: {"bytes": size, "crc32": crc} for name, size, crc in sorted(files)}
        with (partial / MANIFEST_FILE).open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        target = partial.with_suffix("")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        _sync_directory(self.directory)
        # Only older ones: a newer one is a damaged one that this run did not go on from.
        older = [path for number, path in checkpoints(self.directory) if number < step]
        for old in older[: len(older) - self.keep + 1]:
            (old / MANIFEST_FILE).unlink(missing_ok=True)  # from here on it is none
            shutil.rmtree(old)


_WAY_OUT = (
    "What was saved before is untouched: make room or mend the directory and go on with "
    "resume=auto, or write elsewhere with paths.runs=DIRECTORY"
)


def load(directory: Path, tensors: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint's tensors into ``tensors``, in place; returns the rest of its state."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        dcp.load(tensors, storage_reader=FileSystemReader(directory))
    return torch.load(directory / STATE_FILE, weights_only=True, map_location="cpu")


def checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """(steps done, directory) of all checkpoints there, oldest first; none of them is checked."""
    found = [(_NAME.fullmatch(path.name), path) for path in directory.glob("step*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def newest_checkpoint(directory: Path) -> tuple[int, Path] | None:
    """(steps done, directory) of the newest whole checkpoint, or None where there is none at all.

    Every rank must call this and reads a share of the files. A damaged checkpoint is reported and
    the one before it is taken.

    Raises:
        UserError: there are checkpoints and all are damaged.
    """
    found = on_rank_zero(lambda: checkpoints(directory))
    damaged: list[Path] = []
    for step, path in reversed(found):
        faults = [fault for part in gather_objects(damage(path)) for fault in part]
        if not faults:
            on_rank_zero(lambda: [p.rename(p.with_suffix(".damaged")) for p in damaged])
            return step, path
        damaged.append(path)
        if is_rank_zero():
            print(
                f"warning: {path} is damaged ({'; '.join(faults[:3])}). Where there is one "
                "before it, that is used and this one is set aside as .damaged",
                file=sys.stderr,
            )
    if found:
        raise UserError(
            f"all {len(found)} checkpoint(s) in {directory} are damaged. Put a copy back, or "
            "start the run again with overwrite=true"
        )
    return None


def damage(directory: Path) -> list[str]:
    """What is wrong with this rank's share of a checkpoint's files; empty when nothing is."""
    rank, ranks = world()
    try:
        text = (directory / MANIFEST_FILE).read_text(encoding="utf-8")
        wanted = {name: (f["bytes"], f["crc32"]) for name, f in json.loads(text).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return [f"{MANIFEST_FILE}: {error!r}"] if rank == 0 else []
    faults = [f"{MANIFEST_FILE} lacks {n}" for n in (STATE_FILE, METADATA_FILE) if n not in wanted]
    for name in sorted(wanted)[rank::ranks]:
        size, checksum = wanted[name]
        try:
            found = (directory / name).stat().st_size
            if found != size:
                faults.append(f"{name} has {found} of {size} bytes")
            elif _crc32(directory / name) != checksum:
                faults.append(f"{name} has another checksum")
        except OSError as error:
            faults.append(f"{name}: {error.strerror}")
    return faults


def local_bytes(tensors: Any) -> float:
    """Bytes that this rank adds to a checkpoint of ``tensors``; replicas count once over all
    ranks."""
    if isinstance(tensors, Mapping):
        return sum(map(local_bytes, tensors.values()))
    if isinstance(tensors, DTensor):
        mesh, placements = tensors.device_mesh, tensors.placements
        copies = math.prod(mesh.size(i) for i, p in enumerate(placements) if p.is_replicate())
        return _bytes(tensors.to_local()) / copies
    if isinstance(tensors, torch.Tensor):
        return _bytes(tensors) / world()[1]
    return 0


def _bytes(tensor: torch.Tensor) -> int:
    """Of what a tensor is made of: 8-bit moments are several tensors under the name of one."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])


def _own_files(directory: Path) -> list[Path]:
    """The files that this rank has just written (rank 0: the metadata too)."""
    rank, _ = world()
    return [*directory.glob(f"__{rank}_*"), *([directory / METADATA_FILE] if rank == 0 else [])]


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            value = zlib.crc32(block, value)
    return value


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _root_cause(error: BaseException) -> BaseException:
    # DCP wraps what each rank met: CheckpointException({rank: (error, traceback)}).
    failures = getattr(error, "failures", None)
    if failures:
        return _root_cause(next(iter(failures.values()))[0])
    return _root_cause(error.__cause__) if error.__cause__ is not None else error
