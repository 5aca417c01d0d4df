"""Exact answers: what a response states as its answer, and whether that is the gold answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch

from orca.traces import Template, begins_with_bos, plain_text

SAMPLES_FILE = "samples.jsonl"

_STATED = re.compile(r"(?:the|final|correct|my) answer\s*(?:is|:)\s*:?\s*([^\n]+)", re.IGNORECASE)
_OPTION = re.compile(r"\(([A-Z])\)")
_GOLD_OPTION = re.compile(r"\(?([A-Z])\)?")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")
_END = re.compile(r"\.(?:\s|$)|,? (?:because|since|as)\b|[!;]")
_TAKEN_BACK = re.compile(r"\b(?:not|or|either|neither|wait|wrong|should be)\b", re.IGNORECASE)


def stated_answer(response: str) -> str | None:
    """What follows the last "the answer is" on its line, without a final full stop."""
    found = _STATED.findall(response)
    return _plain(found[-1]).removesuffix(".") if found else None


def is_exact_answer(response: str, gold: str) -> bool:
    """Whether ``response`` gives ``gold`` as its answer.

    The stated answer counts where there is one: an option's letter, a number (with a unit,
    perhaps), or the very words. An answer that is taken back or left open ("not", "or", "wait")
    is none. Without a stated answer the last option letter or the last number of the response
    counts, so that a model that answers without the phrase (as an untrained one does) is not
    scored on its wording.
    """
    gold = _plain(gold).removesuffix(".")
    stated = stated_answer(response)
    option = _GOLD_OPTION.fullmatch(gold)
    if stated is not None and stated.lower() == gold.lower():
        return True
    if option or _NUMBER.fullmatch(gold):
        if stated is None:
            found = (_OPTION if option else _NUMBER).findall(_plain(response))[-1:]
        elif _TAKEN_BACK.search(stated):
            return False
        else:
            said = _END.split(stated, maxsplit=1)[0]
            found = _letters(said) if option else _NUMBER.findall(said)
            found = found if len(set(found)) == 1 else []
        if option:
            return found[:1] == [option[1]]
        return bool(found) and Fraction(found[0]) == Fraction(gold)
    if stated is not None:
        return _END.split(stated, maxsplit=1)[0].strip().lower() == gold.lower()
    return _plain(response).removesuffix(".").lower() == gold.lower()


def _letters(said: str) -> list[str]:
    """The option that ``said`` names: "B", "(B)", "(B) Oisin" or "B) Oisin", not "Bob"."""
    alone = re.match(r"option ([A-Z])$|([A-Z])(?:$|[).:,])", said)
    return [alone[1] or alone[2]] if alone else _OPTION.findall(said)


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


def _plain(text: str) -> str:
    """Without Markdown and TeX marks, dollar signs, thousands commas, doubled white space."""
    text = re.sub(r"\\boxed\{([^}]*)\}", r"\1", text).replace("−", "-")
    text = re.sub(r"[*`\"$]|(?<=\d),(?=\d{3})", "", text)
    return re.sub(r"\s+", " ", text).strip()
