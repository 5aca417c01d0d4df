"""A small synthetic sample of explanation traces, shipped so that training needs no download.

Questions and answer checkers come from the reasoning-gym package; every explanation is computed
by the families in this folder and worded by :mod:`orca.sample.voices`. The finished files lie in
:data:`SAMPLE_DIR`; ``python -m orca.sample.build`` makes them again, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

SAMPLE_DIR = Path(__file__).parent / "data"
"""Folder of the shipped JSON Lines files and their card."""
