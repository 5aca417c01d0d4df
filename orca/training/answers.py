"""A student's answers to held-out questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from orca.traces import Template, begins_with_bos, plain_text

SAMPLES_FILE = "samples.jsonl"


def generate(
    causal_lm: Any,
    tokenizer: Any,
    template: Template,
    queries: Sequence[tuple[str, str]],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Greedy responses to (system message, query) pairs, in their order."""
    bos = tokenizer.bos_token if begins_with_bos(tokenizer) else ""
    special = tokenizer.all_special_tokens
    prompts = [
        template.prompt(plain_text(system, special)[0], plain_text(query, special)[0], bos)
        for system, query in queries
    ]
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    responses = [""] * len(ids)
    device = causal_lm.get_input_embeddings().weight.device
    training, implementation = causal_lm.training, causal_lm.config._attn_implementation
    causal_lm.eval().set_attn_implementation("sdpa")  # packs' attention knows no padding
    try:
        for start in range(0, len(ids), batch_size):
            chosen = by_length[start : start + batch_size]
            batch = tokenizer.pad(
                {"input_ids": [ids[i] for i in chosen]}, padding_side="left", return_tensors="pt"
            ).to(device)
            with torch.inference_mode():
                output = causal_lm.generate(
                    **batch,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
            new = output[:, batch["input_ids"].shape[1] :]
            for i, response in zip(chosen, new, strict=True):
                responses[i] = tokenizer.decode(response, skip_special_tokens=True).strip()
    finally:
        causal_lm.set_attn_implementation(implementation)
        causal_lm.train(training)
    return responses
