"""What a causal LM of `transformers` allows: context, end tokens, memory, attention in a tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from orca.decoding.decoder import Decoder
from orca.decoding.prefix_tree import PrefixTree
from orca.errors import UserError

CPU_TOKENS = 16_384
"""Tokens of a batch on the CPU. Four times as many save 3 % of the time (SmolLM2-135M, 2 cores)."""

MEMORY_SHARE = 0.8
"""Of the GPU's free memory, for keys and values."""

PROBE_ERROR = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Relative error of logits that rounding explains."""


def context_of(config: Any) -> int:
    """Tokens that the model attends to in full: its positions, or its sliding window."""
    text = config.get_text_config()
    windows = [
        getattr(text, "max_position_embeddings", None),
        getattr(text, "sliding_window", None),
    ]
    known = [window for window in windows if window]
    if not known:
        raise UserError(f"model_type={config.model_type} does not tell how long its context is")
    return min(known)


def end_tokens(causal_lm: Any, tokenizer: Any) -> set[int]:
    """Every token that ends an answer: of the generation configuration and of the tokenizer."""
    ids = causal_lm.generation_config.eos_token_id
    listed = ids if isinstance(ids, list) else [ids]
    return {i for i in (*listed, tokenizer.eos_token_id) if i is not None}


def tokens_that_fit(causal_lm: Any) -> int:
    """Tokens whose keys and values fill the GPU's free memory; a fixed number on the CPU."""
    weight = causal_lm.get_input_embeddings().weight
    if weight.device.type != "cuda":
        return CPU_TOKENS
    config = causal_lm.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_token = 2 * config.num_hidden_layers * heads * size * weight.element_size()
    return int(MEMORY_SHARE * torch.cuda.mem_get_info(weight.device)[0] / bytes_per_token)


@torch.inference_mode()
def check_attention(decoder: Decoder, otherwise: str) -> None:
    """Refuse a model that does not see a sequence in a tree as it sees the sequence alone.

    Models with states that pass from token to token do not; a few tokens tell.

    Args:
        otherwise: what the user can do, the end of the error's sentence.
    """
    causal_lm, device = decoder.causal_lm, decoder.device
    sequences = [np.array([5, 6, 7, 8, 9, 10]), np.array([5, 6, 7, 11, 12, 13])]
    tree = PrefixTree()
    for ids in sequences:
        tree.add(ids, 0)
    together = tree.read(causal_lm, np.arange(tree.num_tokens))
    alone = causal_lm(torch.tensor(np.stack(sequences), device=device), use_cache=False).logits
    error = max(
        float((together[path] - logits).float().norm() / (logits - logits.mean()).float().norm())
        for path, logits in zip(tree.paths, alone, strict=True)
    )
    if error > PROBE_ERROR[alone.dtype]:
        raise UserError(
            f"answers are written with full attention, which model_type="
            f"{causal_lm.config.model_type} does not have (error {error:.2g}); {otherwise}"
        )
