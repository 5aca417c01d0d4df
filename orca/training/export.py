"""The ``hf/`` directory that a stage leaves, and the hand-off to the next stage."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.tensor import DTensor

from orca.errors import UserError
from orca.training.ranks import on_rank_zero
from orca.training.weights import (
    MAX_SHARD_BYTES,
    partial_directory,
    publish,
    weights_hash,
    write_shards,
)

HANDOFF_FILE = "orca.json"


def export(
    causal_lm: Any,
    tokenizer: Any,
    directory: Path,
    *,
    dtype: str,
    stage: str,
    fingerprint: Mapping[str, str],
    card: str,
    facts: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> dict[str, Any]:
    """Write model, tokenizer with chat template, generation config, model card and hand-off.

    Every rank must call this; the model may be whole or sharded. Tensors are gathered one at a
    time, and no rank holds more than rank 0, which holds one file's. All is written beside
    ``directory`` and renamed: a killed export leaves no directory, or the older one.

    Args:
        dtype: of the floating-point weights in the files.
        card: the model card, of which rank 0's is written.
        facts: further entries of the hand-off.
        max_shard_bytes: of a weight file; a tensor that is larger gets a file of its own.

    Returns:
        The hand-off, on every rank: stage, tokenizer and template fingerprints, sha256 of the
        weights.

    Raises:
        UserError: a weight file cannot be written.
    """
    beside = on_rank_zero(lambda: partial_directory(directory))
    _write_weights(causal_lm, beside, getattr(torch, dtype), max_shard_bytes)

    def finish() -> dict[str, Any]:
        _write_configs(causal_lm, tokenizer, beside, dtype)
        (beside / "README.md").write_text(card, encoding="utf-8")
        handoff = {"stage": stage, **(facts or {}), **fingerprint, "weights": weights_hash(beside)}
        (beside / HANDOFF_FILE).write_text(json.dumps(handoff, indent=1), encoding="utf-8")
        publish(beside, directory)
        return handoff

    return on_rank_zero(finish)


def check_handoff(directory: Path, fingerprint: Mapping[str, str]) -> dict[str, Any]:
    """The hand-off of an earlier stage, after a check that this stage can go on from it.

    Raises:
        UserError: no finished stage there, other tokenizer or template, or changed weights.
    """
    file = directory / HANDOFF_FILE
    if not file.exists():
        raise UserError(
            f"no finished stage in {directory}. Train the earlier stage first (python train.py "
            f"stage={directory.parent.name}, with the same model, data and run), or name another "
            "directory with stages.<stage>.start_from=DIRECTORY, or start_from=base for the bare "
            "model"
        )
    handoff = json.loads(file.read_text(encoding="utf-8"))
    for name, value in fingerprint.items():
        if handoff.get(name) != value:
            raise UserError(
                f"{directory} was trained with another {name} ({handoff.get(name)}, here {value}); "
                "a stage goes on with the tokenizer and template of the stage before"
            )
    if weights_hash(directory) != handoff["weights"]:
        raise UserError(f"the weights in {directory} are not those that its {HANDOFF_FILE} names")
    return handoff


def _write_weights(
    causal_lm: Any, directory: Path, dtype: torch.dtype, max_shard_bytes: int
) -> None:
    from transformers.core_model_loading import revert_weight_conversion

    # Its hooks shard again what a forward pass has left whole, and in the computation's dtype.
    state: dict[str, Any] = dict(get_model_state_dict(causal_lm))
    for name in (*causal_lm.all_tied_weights_keys, *(causal_lm._keys_to_ignore_on_save or ())):
        state.pop(name, None)

    def written_dtype(tensor: torch.Tensor) -> torch.dtype:
        return dtype if tensor.is_floating_point() else tensor.dtype

    def whole(name: str) -> torch.Tensor:
        tensor = state[name].detach()
        tensor = tensor.to(written_dtype(tensor))  # first, so that fewer bytes travel
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    write_shards(
        directory,
        {
            name: torch.empty(tensor.shape, dtype=written_dtype(tensor), device="meta")
            for name, tensor in state.items()
        },
        whole,
        max_shard_bytes=max_shard_bytes,
        # Some architectures (mixtures of experts) hold other tensors than their files do.
        convert=partial(revert_weight_conversion, causal_lm),
    )


def _write_configs(causal_lm: Any, tokenizer: Any, directory: Path, dtype: str) -> None:
    from transformers import GenerationConfig

    config = copy.deepcopy(causal_lm.config)
    config.dtype = dtype
    config.architectures = [type(causal_lm).__name__]
    config.save_pretrained(directory)
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
