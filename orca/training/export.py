"""The ``hf/`` directory that a stage leaves, and the hand-off to the next stage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from orca.errors import UserError

HANDOFF_FILE = "orca.json"


def export(module: Any, tokenizer: Any, directory: Path, **options: Any) -> dict[str, Any]:
    from orca.training.ranks import on_rank_zero
    from orca.training.sharding import full_state

    causal_lm = module.student.causal_lm
    state = full_state(causal_lm)
    return on_rank_zero(lambda: _export(causal_lm, state, tokenizer, directory, **options))


def _export(
    causal_lm: Any,
    state: Mapping[str, torch.Tensor],
    tokenizer: Any,
    directory: Path,
    *,
    dtype: str,
    stage: str,
    fingerprint: Mapping[str, str],
    card: str,
) -> dict[str, Any]:
    """Write model, tokenizer with chat template, generation config, model card and hand-off.

    Args:
        state: the whole weights (``full_state``), which a sharded ``causal_lm`` does not hold.

    Returns:
        The hand-off: stage, tokenizer and template fingerprints, sha256 of the weights.
    """
    from transformers import GenerationConfig

    directory.mkdir(parents=True, exist_ok=True)
    wanted = getattr(torch, dtype)
    implementation = causal_lm.config._attn_implementation
    state = {name: tensor.to(wanted) for name, tensor in state.items()}
    causal_lm.set_attn_implementation("sdpa")  # the reader's choice, not ours
    causal_lm.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        causal_lm.save_pretrained(directory, state_dict=state)
    finally:
        causal_lm.set_attn_implementation(implementation)
    # save_pretrained names the live model's precision, not that of the weights it was given.
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "dtype": dtype}, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text(card, encoding="utf-8")
    mask = os.umask(0)
    os.umask(mask)
    for file in directory.iterdir():
        file.chmod(0o666 & ~mask)  # safetensors makes files that only their owner can read
    handoff = {"stage": stage, **fingerprint, "weights": weights_hash(directory)}
    (directory / HANDOFF_FILE).write_text(json.dumps(handoff, indent=1), encoding="utf-8")
    return handoff


def check_handoff(directory: Path, fingerprint: Mapping[str, str]) -> dict[str, Any]:
    """The hand-off of an earlier stage, after a check that this stage can go on from it.

    Raises:
        UserError: no finished stage there, other tokenizer or template, or changed weights.
    """
    file = directory / HANDOFF_FILE
    if not file.exists():
        raise UserError(
            f"no finished stage in {directory}. Train the earlier stage first (python train.py "
            "stage=flan5m_chatgpt, with the same model, data and run), or name another directory "
            "with stages.<stage>.start_from=DIRECTORY, or start_from=base for the bare model"
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
