"""Orca: progressive learning from explanation traces (arXiv 2306.02707)."""

__version__ = "0.1.0"
