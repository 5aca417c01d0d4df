"""Proof that packs are what they should be; `python -m orca.audit` shows it on one's own data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from orca.stream.batches import IGNORED, collate
from orca.stream.encode import Encoder, Example
from orca.stream.packing import Pack
from orca.traces import Trace, plain_text

GREEN, DIM, RESET = "\033[32m", "\033[2m", "\033[0m"


@dataclass(frozen=True, slots=True)
class AuditFindings:
    """What :func:`audit_packs` looked at and what it found wrong."""

    packs: int
    examples: int
    targets: int
    faults: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        looked = f"{self.packs} packs, {self.examples} examples, {self.targets} target tokens"
        return {
            "looked at": looked,
            "boundaries, target mask, EOS": "no fault" if not self.faults else list(self.faults),
        }


def audit_packs(packs: list[Pack], traces: Mapping[int, Trace], encoder: Encoder) -> AuditFindings:
    """Check the tensors that the model gets against the traces they came from.

    Isolation: positions restart and boundaries lie exactly at every example. Target mask: what is
    trained reads as the trace's response and the end mark, and what is not as its prompt. EOS:
    every example ends in EOS and its prediction is trained. Capacity: no pack is over-full.

    Args:
        traces: by the examples' ``number``, read from the source again.
        encoder: supplies tokenizer, template and capacity.
    """
    eos_token_id, capacity = encoder.tokenizer.eos_token_id, encoder.max_tokens
    faults: list[str] = []
    examples = targets = 0
    for pack in packs:
        batch = collate([pack])
        if pack.num_tokens > capacity:
            faults.append(f"pack of {pack.num_tokens} tokens exceeds {capacity}")
        for number, example in enumerate(pack.examples):
            start, end = (int(b) for b in batch.boundaries[number : number + 2])
            ids, labels = batch.input_ids[0, start:end], batch.labels[0, start:end]
            positions = batch.position_ids[0, start:end]
            if not torch.equal(positions, torch.arange(len(example.tokens))):
                faults.append(f"{example.id}: positions do not restart at the example's start")
            trained = (labels != IGNORED).nonzero()[:, 0] + 1
            if not torch.equal(trained, torch.arange(example.num_prompt, len(example.tokens))):
                faults.append(f"{example.id}: the target mask is not the response")
            elif not torch.equal(labels[trained - 1], ids[trained]):
                faults.append(f"{example.id}: a label is not the next token")
            elif int(labels[-2]) != eos_token_id or int(labels[-1]) != IGNORED:
                faults.append(f"{example.id}: the EOS after the response is not trained")
            faults += _text_faults(example, traces[example.number], encoder)
            examples += 1
            targets += len(trained)
    return AuditFindings(len(packs), examples, targets, tuple(faults))


def _text_faults(example: Example, trace: Trace, encoder: Encoder) -> list[str]:
    """Does the text on both sides of the mask read as the trace says?"""
    special = encoder.special_tokens
    system, query, response = (
        plain_text(text, special)[0] for text in (trace.system_message, trace.query, trace.response)
    )
    decode = encoder.tokenizer.decode
    targets = decode(example.tokens[example.num_prompt :].tolist())
    prompt = decode(example.tokens[: example.num_prompt].tolist())
    faults = []
    if targets.lstrip(" ") != response + encoder.eos:  # SentencePiece decodes a space before
        faults.append(f"{example.id}: the targets do not read as the response")
    wanted = encoder.template.prompt(system, query, encoder.bos)
    if not example.truncated and prompt.lstrip(" ") != wanted.lstrip(" "):
        faults.append(f"{example.id}: the prompt does not read as the template says")
    elif not prompt.endswith(encoder.template.response):
        faults.append(f"{example.id}: the prompt does not end where the response begins")
    return faults


def show_pack(pack: Pack, tokenizer: Any, colour: bool = True) -> str:
    """One pack as text: targets green (or between ⟦ ⟧), the rest dim, a rule between examples."""
    before, between, after = (GREEN, DIM, RESET) if colour else ("⟦", "", "⟧")
    parts = []
    for example in pack.examples:
        prompt = tokenizer.decode(example.tokens[: example.num_prompt].tolist())
        targets = tokenizer.decode(example.tokens[example.num_prompt :].tolist())
        head = f"── {example.id}: {len(example.tokens)} tokens, {example.num_targets} targets ──"
        text = f"{between}{prompt}{RESET if colour else ''}{before}{targets}{after}"
        parts.append(f"{head}\n{text}")
    return "\n".join(parts)
