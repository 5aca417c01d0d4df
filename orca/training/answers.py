"""A student's answers to held-out questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orca.decoding import Decoder, Row, check_attention, context_of, end_tokens
from orca.traces import Template, begins_with_bos, plain_text
from orca.training.ranks import is_rank_zero

SAMPLES_FILE = "samples.jsonl"

ANSWER_TOKENS = 16_384
"""Tokens whose keys and values are kept at a time while a student answers; not by free memory, for
ranks that share a model must take the same steps."""


@contextmanager
def ready_to_answer(causal_lm: Any) -> Iterator[None]:
    """Inside, a causal LM in training can be asked: without dropout, and with attention that takes
    masks, which that over packs does not."""
    training, implementation = causal_lm.training, causal_lm.config._attn_implementation
    causal_lm.eval().set_attn_implementation("sdpa")
    try:
        yield
    finally:
        causal_lm.set_attn_implementation(implementation)
        causal_lm.train(training)


def generate(
    causal_lm: Any,
    tokenizer: Any,
    template: Template,
    queries: Sequence[tuple[str, str]],
    max_new_tokens: int,
) -> list[str]:
    """Greedy responses to (system message, query) pairs, in their order. A response ends where the
    model's context does; a query that leaves no room for one has the response "".

    Raises:
        UserError: the model's attention is not full.
    """
    bos = tokenizer.bos_token if begins_with_bos(tokenizer) else ""
    special = tokenizer.all_special_tokens
    prompts = [
        template.prompt(plain_text(system, special)[0], plain_text(query, special)[0], bos)
        for system, query in queries
    ]
    context = context_of(causal_lm.config)
    rows = []
    for i, prompt in enumerate(prompts):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if len(ids) < context:
            rows.append(Row(i, ids, 0, min(max_new_tokens, context - len(ids))))
    if len(rows) < len(prompts) and is_rank_zero():
        print(
            f"{len(prompts) - len(rows)} of {len(prompts)} questions leave no room for an answer "
            f"in the model's context of {context:,} tokens",
            flush=True,
        )
    responses = [""] * len(prompts)
    with ready_to_answer(causal_lm):
        decoder = Decoder(causal_lm, end_tokens(causal_lm, tokenizer), ANSWER_TOKENS)
        check_attention(decoder, "train without answers: callbacks.answers=null")
        for row in decoder.generate(rows, 0.0):
            responses[row.index] = tokenizer.decode(row.new_ids, skip_special_tokens=True).strip()
    return responses
