"""Attention over packs: which kernel, and why.

All backends attend within examples only; `tests/training/test_attention.py` holds each to the
logits that every example has alone. A pack travels as one row without padding, with the examples'
boundaries in the names that `transformers` passes on to attention functions.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from orca.errors import UserError
from orca.stream import MicroBatch

DOCUMENTS = "orca_documents"
VARLEN = "orca_varlen"

BACKENDS = (
    "flash_attention_4",
    "flash_attention_3",
    "flash_attention_2",
    "varlen",
    "flex",
    "sdpa",
    "documents",
)
"""Names for ``attention=…``. ``varlen`` is PyTorch's own kernel for CUDA; ``documents`` runs
PyTorch's fused attention once per example (the fastest on CPU); ``sdpa`` and ``flex`` use a
block-diagonal mask."""

_IMPLEMENTATION = {"varlen": VARLEN, "flex": "flex_attention", "documents": DOCUMENTS}
_PACKAGE = {
    "flash_attention_4": "flash-attn-4",
    "flash_attention_3": "flash-attn-3",
    "flash_attention_2": "flash-attn",
}


_VARLEN_OPTIONS = frozenset(inspect.signature(varlen_attn).parameters)


def choose_backend(
    wanted: str, device: torch.device, compiled: bool = False, half: bool = True
) -> tuple[str, str]:
    """Name of the backend and the reason for it.

    Args:
        wanted: ``auto`` or one of :data:`BACKENDS`.
        compiled: whether decoder layers go through ``torch.compile``.
        half: whether computation is in bf16; kernels of 16 bits are for that alone.

    Raises:
        UserError: the wanted backend cannot be had here; nothing else is used in its place.
    """
    if wanted != "auto":
        if wanted not in BACKENDS:
            raise UserError(f"attention={wanted!r} is unknown. Known: auto, {', '.join(BACKENDS)}")
        if wanted == "documents" and compiled:
            raise UserError(
                "attention=documents cannot be compiled: it is a loop over the examples of a pack, "
                "another graph for every pack. Take attention=sdpa, or compile=false"
            )
        missing = _missing(wanted, device) or _too_coarse(wanted, half)
        if missing:
            raise UserError(f"attention={wanted} cannot be had: {missing}. Take attention=auto")
        return wanted, "as configured"
    if device.type != "cuda" and compiled:
        return "sdpa", "compile=true needs one graph for all packs"
    if device.type != "cuda":
        return "documents", f"fused attention per example, the fastest on {device.type}"
    for name in BACKENDS:
        if not _missing(name, device) and not _too_coarse(name, half):
            return name, f"the best available on {torch.cuda.get_device_name(device)}"
    raise AssertionError("sdpa is always available")


def _too_coarse(backend: str, half: bool) -> str | None:
    if not half and (backend == "varlen" or backend in _PACKAGE):
        return "it computes in 16 bits, and the precision is 32-true"
    return None


def implementation(backend: str) -> str:
    """The name under which `transformers` knows the backend."""
    return _IMPLEMENTATION.get(backend, backend)


def attention_arguments(batch: MicroBatch) -> dict[str, Any]:
    """What a model's forward pass needs to keep the examples of a pack apart.

    ``use_cache=False`` is no detail: with a cache, `transformers` skips the detection of packed
    examples from position ids and they attend to each other without a word.
    """
    return {
        "position_ids": batch.position_ids,
        "use_cache": False,
        "cu_seq_lens_q": batch.boundaries,
        "cu_seq_lens_k": batch.boundaries,
        "max_length_q": batch.longest,
        "max_length_k": batch.longest,
    }


def _missing(backend: str, device: torch.device) -> str | None:
    """Why ``backend`` cannot be used on ``device``, or None."""
    if backend in _PACKAGE:
        if device.type != "cuda":
            return f"it needs a CUDA device, this is {device.type}"
        try:
            importlib.metadata.version(_PACKAGE[backend])
        except importlib.metadata.PackageNotFoundError:
            return f"the package {_PACKAGE[backend]} is not installed"
    if backend == "flex" and device.type != "cuda":
        return f"flex attention has no gradient on {device.type}"
    if backend == "varlen":
        if device.type != "cuda":
            return f"it needs a CUDA device, this is {device.type}"
        if torch.cuda.get_device_capability(device) < (8, 0):
            return "it needs compute capability 8.0 or newer"
    return None


def _refuse_variants(backend: str, longest: int, variants: Mapping[str, Any]) -> None:
    """Some models ask for more than causal attention; a backend that cannot must not drop it."""
    window = variants.get("sliding_window")
    asked = [
        name for name in ("softcap", "s_aux", "position_bias") if variants.get(name) is not None
    ]
    if window is not None and longest > window:
        asked.append(f"sliding_window={window} on an example of {longest} tokens")
    if asked:
        raise UserError(
            f"attention={backend} does not do {', '.join(asked)}, which this model needs. Take "
            "attention=sdpa or a flash_attention backend"
        )


def _documents_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **variants: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention example by example; [1, heads, T, d] → [1, T, heads, d]."""
    assert cu_seq_lens_q is not None and query.shape[0] == 1
    _refuse_variants("documents", int(cu_seq_lens_q.diff().max()), variants)
    groups = query.shape[1] // key.shape[1]
    lengths = cu_seq_lens_q.diff().tolist()
    outputs = [
        scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=groups > 1
        )
        for q, k, v in zip(
            query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True
        )
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **variants: Any,
) -> tuple[torch.Tensor, None]:
    """PyTorch's variable-length flash kernel (CUDA, half precision); shapes as above."""
    assert cu_seq_lens_q is not None and max_length_q is not None and dropout == 0.0
    _refuse_variants("varlen", max_length_q, variants)
    # Up to torch 2.10 causal attention was a flag, since then it is a window.
    causal: dict[str, Any] = (
        {"window_size": (-1, 0)} if "window_size" in _VARLEN_OPTIONS else {"is_causal": True}
    )
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in _VARLEN_OPTIONS:
        causal["enable_gqa"] = True
    elif groups > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    half = torch.get_autocast_dtype("cuda") if query.dtype == torch.float32 else query.dtype
    q, k, v = (t[0].transpose(0, 1).to(half) for t in (query, key, value))
    output = varlen_attn(
        q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling, **causal
    )
    assert isinstance(output, torch.Tensor)
    return output[None].to(query.dtype), None


AttentionInterface.register(DOCUMENTS, _documents_attention)
AttentionInterface.register(VARLEN, _varlen_attention)
