"""Exact answers: what a response states as its answer, and whether that is the gold answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from orca.traces import Template, begins_with_bos, plain_text

_STATED = re.compile(r"answers?\s*(?:is|are)\s*:?\s*([^\n]+)", re.IGNORECASE)
_OPTION = re.compile(r"\(([A-Z])\)")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


def stated_answer(response: str) -> str | None:
    """What follows the last "answer is" on its line, without a final full stop."""
    found = _STATED.findall(response)
    return found[-1].strip() if found else None


def is_exact_answer(response: str, gold: str) -> bool:
    """Whether ``response`` gives ``gold`` as its answer.

    The stated answer counts where there is one. Otherwise the last option letter or the last
    number of the response counts, so that a model that answers without the phrase (as an
    untrained one does) is not scored on its wording.
    """
    wanted = _normal(gold)
    stated = stated_answer(response)
    if stated is not None:
        options = _OPTION.findall(stated)
        if _OPTION.fullmatch(gold.strip()) and options:
            return f"({options[0]})".lower() == gold.strip().lower()
        said = _normal(stated)
        # "The answer is 12. I am sure" and "**12**" state 12; "The answer is 12.5" does not.
        return said == wanted or said.startswith((wanted + ". ", wanted + ", ", wanted + " ("))
    if _OPTION.fullmatch(gold.strip()):
        letters = _OPTION.findall(response)
        return bool(letters) and f"({letters[-1]})".lower() == gold.strip().lower()
    if _NUMBER.fullmatch(gold.strip()):
        numbers = _NUMBER.findall(response)
        return bool(numbers) and _normal(numbers[-1]) == wanted
    return _normal(response) == wanted


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


def _normal(text: str) -> str:
    text = re.sub(r"[*`\"'$]|(?<=\d),(?=\d{3})", "", text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".").strip().lower()
