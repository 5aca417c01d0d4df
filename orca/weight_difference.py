"""Publish a student under a licence that forbids to pass on its base model's weights.

    python -m orca.weight_difference base=DIR tuned=DIR out=DIR        # makes the difference
    python -m orca.weight_difference base=DIR difference=DIR out=DIR   # applies it

The paper announced Orca's weights in this form, under LLaMA's licence. Bit patterns are
subtracted as integers that wrap around, so that applying gives back exactly the tuned weights. A
base of another dtype is cast to the tuned one first. Rows that the base lacks (embeddings grown for
added tokens) are stored as they are. Files are worked through tensor by tensor; memory is needed
for one weight file. Tokenizer, configuration, chat template and model card travel along.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from orca.config import check_config, run_program
from orca.errors import UserError
from orca.training import HANDOFF_FILE, Pretrained, weights_hash
from orca.training.weights import (
    MAX_SHARD_BYTES,
    open_weights,
    partial_directory,
    publish,
    read_json,
    read_tensor,
    weight_files,
    write_shards,
)

MANIFEST = "weight_difference.json"
OPTIONS = ("base", "revision", "tuned", "difference", "out", "max_shard_bytes")
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
TRAVELLING = ("*.json", "*.jinja", "*.model", "*.txt", "*.md", "LICENSE*", "NOTICE*")
"""What is copied beside the weights; a list, so that no weights in another format come along."""


def make_difference(
    base: Path, tuned: Path, out: Path, max_shard_bytes: int = MAX_SHARD_BYTES
) -> dict[str, Any]:
    """Write the difference of the weights in ``tuned`` from those in ``base``.

    Returns:
        The manifest (also in ``out/weight_difference.json``): for every tensor its shape, both
        dtypes and the sha256 of both contents, and for both models the :func:`content_hash`.

    Raises:
        UserError: the models have different tensors, or ``out`` exists.
    """
    base_files, tuned_files = weight_files(base), weight_files(tuned)
    shapes = _shapes(tuned_files)
    _check_names(base, base_files, tuned, shapes)
    facts: dict[str, dict[str, Any]] = {}

    def subtract(name: str) -> torch.Tensor:
        ours = read_tensor(tuned_files[name], name)
        theirs = read_tensor(base_files[name], name)
        facts[name] = {
            "shape": list(ours.shape),
            "dtype": _name(ours.dtype),
            "base_shape": list(theirs.shape),
            "base_dtype": _name(theirs.dtype),
            "sha256": _sha256(ours),
            "base_sha256": _sha256(theirs),
        }
        place = f"{base_files[name]} and {tuned_files[name]}: tensor {name!r}"
        fitted = fit(theirs, shapes[name].shape, ours.dtype, place)
        return _from_bits(_bits(ours) - _bits(fitted), INTEGERS[ours.dtype])

    def finish(beside: Path) -> dict[str, Any]:
        manifest = {
            "tuned": content_hash(
                (n, f["dtype"], f["shape"], f["sha256"]) for n, f in facts.items()
            ),
            "base": content_hash(
                (n, f["base_dtype"], f["base_shape"], f["base_sha256"]) for n, f in facts.items()
            ),
            "tensors": dict(sorted(facts.items())),
        }
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        return manifest

    integers = {n: t.to(INTEGERS[t.dtype]) for n, t in shapes.items()}
    return _write(tuned, out, integers, subtract, finish, max_shard_bytes, "difference")


def apply_difference(
    base: Path, difference: Path, out: Path, max_shard_bytes: int = MAX_SHARD_BYTES
) -> dict[str, Any]:
    """Write the tuned model, each tensor checked against the manifest of the difference.

    Returns:
        The manifest.

    Raises:
        UserError: another base than the one that the difference was made from, a file that is
            missing, cut off or changed, or ``out`` exists.
    """
    if not (difference / MANIFEST).is_file():
        raise UserError(f"{difference} is no weight difference: it has no {MANIFEST}")
    manifest = read_json(difference / MANIFEST, "tensors")
    facts = manifest["tensors"]
    base_files, files = weight_files(base), weight_files(difference, "difference")
    if sorted(files) != sorted(facts):
        raise UserError(f"{difference}: its weight files hold other tensors than its {MANIFEST}")
    shapes = {
        name: torch.empty(fact["shape"], dtype=getattr(torch, fact["dtype"]), device="meta")
        for name, fact in facts.items()
    }
    shapes = {name: shapes[name] for name in files}  # in the order of the files
    _check_names(base, base_files, difference, shapes)

    def add(name: str) -> torch.Tensor:
        theirs = read_tensor(base_files[name], name)
        if _sha256(theirs) != facts[name]["base_sha256"]:
            raise UserError(
                f"{base_files[name]}: tensor {name!r} is not that of the base model from which "
                f"{difference} was made (sha256 of its base: {manifest['base']}). "
                "Give the same model in the same revision and dtype as base=…"
            )
        dtype = shapes[name].dtype
        fitted = fit(theirs, shapes[name].shape, dtype, f"{base_files[name]}: tensor {name!r}")
        change = read_tensor(files[name], name)
        if change.shape != fitted.shape or change.dtype != INTEGERS[dtype]:
            raise UserError(f"{files[name]}: tensor {name!r} is not as {MANIFEST} describes it")
        tuned = _from_bits(_bits(fitted) + _bits(change), dtype)
        if _sha256(tuned) != facts[name]["sha256"]:
            raise UserError(
                f"{files[name]}: tensor {name!r} does not give the tuned weights; the file is "
                "damaged. Copy or download it again"
            )
        return tuned

    def finish(beside: Path) -> dict[str, Any]:
        handoff = beside / HANDOFF_FILE
        if handoff.is_file():  # which speaks of the tuned model's own weight files
            told = {**json.loads(handoff.read_text("utf-8")), "weights": weights_hash(beside)}
            handoff.write_text(json.dumps(told, indent=1), encoding="utf-8")
        return manifest

    return _write(difference, out, shapes, add, finish, max_shard_bytes, "model")


def content_hash(tensors: Iterable[tuple[str, str, list[int], str]]) -> str:
    """sha256 over (name, dtype, shape, sha256 of the bytes) in the order of names: the same for
    every way to share tensors out to files."""
    lines = [json.dumps([name, dtype, shape, digest]) for name, dtype, shape, digest in tensors]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def fit(base: torch.Tensor, shape: torch.Size, dtype: torch.dtype, place: str) -> torch.Tensor:
    """A tensor of the base in the dtype of the tuned one, with rows of zeros for those it lacks.

    Raises:
        UserError: the shapes differ by more than that.
    """
    base = base.to(dtype)
    if base.shape == shape:
        return base
    if base.ndim == 0 or base.shape[1:] != shape[1:] or base.shape[0] > shape[0]:
        raise UserError(f"{place} has shape {list(base.shape)}, tuned {list(shape)}")
    grown = torch.zeros(shape, dtype=dtype)
    grown[: base.shape[0]] = base
    return grown


def _shapes(files: dict[str, Path]) -> dict[str, torch.Tensor]:
    """Every tensor on the meta device, in the order of the files."""
    shapes = {}
    for file in dict.fromkeys(files.values()):
        with open_weights(file) as opened:
            for name in opened.keys():  # noqa: SIM118
                part = opened.get_slice(name)
                if part.get_dtype() not in DTYPES:
                    raise UserError(
                        f"{file}: tensor {name!r} is {part.get_dtype()}; a difference is made of "
                        f"{', '.join(DTYPES)} weights"
                    )
                dtype = DTYPES[part.get_dtype()]
                shapes[name] = torch.empty(part.get_shape(), dtype=dtype, device="meta")
    return shapes


def _check_names(
    base: Path, base_files: dict[str, Path], other: Path, shapes: dict[str, torch.Tensor]
) -> None:
    lacking = sorted(set(shapes) - set(base_files))
    # Older LLaMA files hold rotary frequencies, which are computed from the configuration.
    extra = sorted(
        name for name in set(base_files) - set(shapes) if not name.endswith("rotary_emb.inv_freq")
    )
    for names, those in ((lacking, f"{other} has"), (extra, f"{base} has")):
        if names:
            raise UserError(
                f"{base} is not the base of {other}: {those} {len(names)} tensor(s) that the "
                f"other lacks, such as {names[0]!r}. (Output embeddings that are tied in one of "
                "them and not in the other make another model too)"
            )


def _write(
    source: Path,
    out: Path,
    shapes: dict[str, torch.Tensor],
    tensor: Callable[[str], torch.Tensor],
    finish: Callable[[Path], dict[str, Any]],
    max_shard_bytes: int,
    stem: str,
) -> dict[str, Any]:
    if out.exists():
        raise UserError(f"out={out} exists already; name another directory")
    beside = partial_directory(out)
    try:
        with tqdm(total=len(shapes), unit="tensor", disable=None) as bar:

            def count(name: str) -> torch.Tensor:
                bar.update()
                return tensor(name)

            write_shards(beside, shapes, count, max_shard_bytes=max_shard_bytes, stem=stem)
        _copy_the_rest(source, beside)
        manifest = finish(beside)
    except BaseException:
        shutil.rmtree(beside)
        raise
    publish(beside, out)
    return manifest


def _copy_the_rest(source: Path, target: Path) -> None:
    weights = ("*.safetensors", "*.safetensors.index.json", MANIFEST)
    other = {p for p in source.iterdir() if not any(p.match(pattern) for pattern in weights)}
    travelling = {p for p in other if any(p.match(t) for t in TRAVELLING) and p.is_file()}
    for path in sorted(travelling):
        shutil.copyfile(path, target / path.name)
    if other - travelling:
        names = ", ".join(sorted(path.name for path in other - travelling))
        print(f"not copied, as it may hold weights: {names}", flush=True)


def _bits(tensor: torch.Tensor) -> np.ndarray:
    """Bit patterns as unsigned integers, whose arithmetic wraps around by definition."""
    size = tensor.element_size()
    signed = tensor.contiguous().view({2: torch.int16, 4: torch.int32}[size])
    return signed.numpy().view({2: np.uint16, 4: np.uint32}[size])


def _from_bits(bits: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    signed = np.asarray(bits).view({2: np.int16, 4: np.int32}[bits.itemsize])
    return torch.from_numpy(signed).view(dtype)


def _sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(
        tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    ).hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _directory(option: str, path: str, revision: str | None = None) -> Path:
    try:
        return Pretrained(option, path, lr=0.0, revision=revision).directory()
    except UserError as error:
        raise UserError(str(error).replace("model.path=", f"{option}=")) from None


def main(config: DictConfig) -> None:
    """Make or apply a difference, whichever the options name."""
    check_config(config, OPTIONS)
    if (config.tuned is None) == (config.difference is None):
        raise UserError(
            "give either tuned=DIR, to make its difference from base=…, or difference=DIR, to "
            "apply it to base=…"
        )
    base = _directory("base", config.base, config.revision)
    out = Path(os.path.expanduser(config.out))
    if config.tuned is not None:
        tuned = _directory("tuned", config.tuned)
        manifest = make_difference(base, tuned, out, config.max_shard_bytes)
        print(f"{out}: difference from base {manifest['base']}")
    else:
        difference = _directory("difference", config.difference)
        manifest = apply_difference(base, difference, out, config.max_shard_bytes)
        print(f"{out}: the tuned model, every tensor checked")
    print(f"sha256 of the tuned weights: {manifest['tuned']}")


if __name__ == "__main__":
    run_program(main, "weight_difference")
