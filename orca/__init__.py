"""Orca: progressive learning from explanation traces (arXiv 2306.02707)."""

import logging
import os

# Threads of OpenMP that wait spin, by default for so long that on a machine which others use too
# they take the cores that the work needs (docs/measurements.md). Read when PyTorch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

for _library in ("torchao", "torch.utils._pytree"):
    # When torchao is there, importing transformers tells of kernels that are not for this device.
    logging.getLogger(_library).setLevel(logging.ERROR)

__version__ = "0.1.0"
