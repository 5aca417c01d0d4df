"""What a collection tells while it runs: lines with the clock time, and durations in words."""

from __future__ import annotations

import sys
import time


def tell(text: str) -> None:
    """Print to standard error, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """In the largest unit of which there are two."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"
