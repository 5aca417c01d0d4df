"""Orca: progressive learning from explanation traces (arXiv 2306.02707)."""

import os

# Threads of OpenMP that wait spin, and on a machine that others use too they spin on the cores that
# the work needs: a small model trained ten times slower. Read when PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
