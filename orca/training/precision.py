"""Which arithmetic to use on which device. Master weights are float32 in every case."""

from __future__ import annotations

import torch

from orca.errors import UserError

PRECISIONS = ("bf16-mixed", "32-true")


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """Lightning's name of the precision and the reason for it.

    bf16 *weights* are not offered: they lose small updates (measured: half the accuracy after the
    same steps, see `docs/architecture.md`).
    """
    if wanted != "auto":
        if wanted not in PRECISIONS:
            known = ", ".join(("auto", *PRECISIONS))
            raise UserError(f"precision={wanted!r} is unknown. Known: {known}")
        return wanted, "as configured"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "the GPU multiplies bf16 natively"
        return "32-true", "the GPU has no native bf16"
    if device.type == "cpu" and _cpu_multiplies_bf16():
        return "bf16-mixed", "the CPU has bf16 instructions"
    return "32-true", f"this {device.type} has no fast bf16"


def _cpu_multiplies_bf16() -> bool:
    if torch.backends.cpu.get_cpu_capability() not in ("AVX512", "AMX"):
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)
