"""Processes that must not outlive the one that started them."""

from __future__ import annotations

import ctypes
import signal
import sys


def end_with_parent() -> None:
    """From here on the end of the parent process is the end of this one, however it came.

    Linux alone offers this; elsewhere a killed launcher or rank can leave children behind.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
