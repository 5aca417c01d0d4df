"""Liger's Triton kernels for rotary embedding, RMS norm and SwiGLU (CUDA, the extra ``gpu``).

Its fused linear cross-entropy is not used: compiled, it has counted ignored labels (issue 1338 of
linkedin/Liger-Kernel), and the project's own loss computes no logits for them in the first place.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any

import torch

from orca.errors import UserError

KERNELS = ("rope", "rms_norm", "swiglu")


def use_liger(causal_lm: Any, device: torch.device) -> None:
    """Put the kernels into ``causal_lm``.

    The rotary embedding is a function of the architecture's module in `transformers`, so this one
    changes for the whole process.

    Raises:
        UserError: no CUDA device, no package, or an architecture that it does not know.
    """
    if device.type != "cuda":
        raise UserError(f"liger=true needs a CUDA device, this is {device.type}. Take liger=false")
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError(
            "liger=true: the package liger-kernel is not installed. Install it (pip install "
            "liger-kernel), or take liger=false"
        )
    known = importlib.import_module("liger_kernel.transformers.monkey_patch")
    apply = known.MODEL_TYPE_TO_APPLY_LIGER_FN.get(causal_lm.config.model_type)
    offered = inspect.signature(apply).parameters if apply else {}
    missing = [name for name in KERNELS if name not in offered]
    if apply is None or missing:
        raise UserError(
            f"liger=true: liger-kernel has no {', '.join(missing)} for "
            f"model_type={causal_lm.config.model_type}. Take liger=false"
        )
    # Every switch by name: what is left out is on by default, the fused cross-entropy included.
    switches = {name: False for name, p in offered.items() if isinstance(p.default, bool)}
    apply(**{**switches, **dict.fromkeys(KERNELS, True)}, model=causal_lm)
