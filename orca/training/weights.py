"""The safetensors files of a Hugging Face directory: found, read, hashed, and written one shard at
a time, so that nobody needs memory for the whole model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from orca.errors import UserError
from orca.training.ranks import is_rank_zero, on_rank_zero

MAX_SHARD_BYTES = 5_000_000_000
"""Bytes of a weight file: what other tools expect, and what rank 0 needs memory for."""


def weight_files(directory: Path, stem: str = "model") -> dict[str, Path]:
    """The file of every tensor in ``directory``: ``<stem>.safetensors``, or those of its index.

    Raises:
        UserError: no weights, or the index names a file that is not there.
    """
    index = directory / f"{stem}.safetensors.index.json"
    if index.is_file():
        placed = read_json(index, "weight_map")["weight_map"]
        missing = sorted({file for file in placed.values() if not (directory / file).is_file()})
        if missing:
            raise UserError(
                f"{index} names weight files that are missing: {', '.join(missing)}. "
                "Copy or download the directory again"
            )
        return {name: directory / file for name, file in placed.items()}
    file = directory / f"{stem}.safetensors"
    if not file.is_file():
        raise UserError(f"{directory} has neither {file.name} nor {index.name}")
    with open_weights(file) as opened:
        return dict.fromkeys(opened.keys(), file)


def open_weights(file: Path) -> Any:
    """``file`` for reading, mapped into memory; its content is read as it is asked for.

    Raises:
        UserError: the file is no whole safetensors file.
    """
    try:
        return safe_open(str(file), framework="pt")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file} cannot be read as safetensors ({error}); it may be cut off. "
            "Copy or download it again"
        ) from None


def read_tensor(file: Path, name: str) -> torch.Tensor:
    """The tensor ``name`` of ``file``.

    Raises:
        UserError: it is not there, or the file is no whole safetensors file.
    """
    with open_weights(file) as opened:
        try:
            return opened.get_tensor(name)
        except SafetensorError as error:
            raise UserError(f"{file} has no tensor {name!r} ({error})") from None


def write_shards(
    directory: Path,
    shapes: Mapping[str, torch.Tensor],
    tensor: Callable[[str], torch.Tensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    stem: str = "model",
    convert: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
) -> None:
    """Write tensors as ``<stem>.safetensors`` or, where they are more than ``max_shard_bytes``, as
    ``<stem>-0000i-of-0000n.safetensors`` with an index. Every rank must call this; rank 0 holds
    the tensors of one file, the others one tensor (and what ``tensor`` needs to gather it).

    Args:
        shapes: tensors on the meta device, in the order in which they are written.
        tensor: gives the whole tensor of a name; called on every rank in the same order.
        convert: names and shapes of a file's tensors as they are written, from those in ``shapes``.

    Raises:
        UserError: a file cannot be written, or ``convert`` needs tensors of several files.
    """
    plan = split_torch_state_dict_into_shards(
        dict(shapes),
        filename_pattern=f"{stem}{{suffix}}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    files = plan.filename_to_tensors
    placed: dict[str, str] = {}
    for file, names in files.items():
        placed |= dict.fromkeys(convert({name: shapes[name] for name in names}), file)
    if set(placed) != set(convert(dict(shapes))):
        raise UserError(
            f"max_shard_bytes={max_shard_bytes} parts tensors that the model's format joins; "
            "a larger number keeps them together"
        )
    for file, names in files.items():
        shard = {}
        for name in names:
            whole = tensor(name)
            if is_rank_zero():
                shard[name] = whole.cpu()
            del whole  # before the next one is gathered
        on_rank_zero(partial(_write, directory / file, shard, convert))
    if plan.is_sharded and is_rank_zero():
        index = {"metadata": plan.metadata, "weight_map": dict(sorted(placed.items()))}
        text = json.dumps(index, indent=2) + "\n"
        (directory / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")


def partial_directory(target: Path) -> Path:
    """An empty directory beside ``target``, to be filled and given to :func:`publish`."""
    beside = target.with_name(f"{target.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    return beside


def publish(beside: Path, target: Path) -> None:
    """Rename ``beside`` to ``target``, once all of it is on the disk; an older ``target`` goes."""
    mask = os.umask(0)
    os.umask(mask)
    for path in filter(Path.is_file, beside.rglob("*")):
        path.chmod(0o666 & ~mask)  # safetensors makes files that only their owner can read
        with path.open("rb") as file:
            os.fsync(file.fileno())
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(beside, target)
    shutil.rmtree(old, ignore_errors=True)


def read_json(file: Path, key: str) -> dict[str, Any]:
    """A JSON file that has the entry ``key``.

    Raises:
        UserError: the file is cut off or lacks it.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found[key]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error!r}). Copy or download the directory again"
        ) from None
    return found


def recover(target: Path) -> None:
    """Bring back what a kill between the two renames of :func:`publish` left under other names."""
    old = target.with_name(f"{target.name}.old")
    if old.exists() and not target.exists():
        os.replace(old, target)
    shutil.rmtree(old, ignore_errors=True)


def weights_hash(directory: Path) -> str:
    """sha256 over the names and contents of the directory's safetensors files."""
    digest = hashlib.sha256()
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UserError(f"{directory} has no safetensors weights")
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _write(
    file: Path,
    shard: dict[str, torch.Tensor],
    convert: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in convert(shard).items()}
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be written ({error})") from None
