"""Errors that programs print as a sentence, without a traceback."""

from __future__ import annotations

UNFINISHED_STATUS = 75
"""Exit status (EX_TEMPFAIL) of a run that stopped early and can be queued again."""


class UserError(ValueError):
    """Bad input or configuration; the message names what is wrong and the way out."""


class Unfinished(Exception):
    """A run stopped before its end (a signal, a time limit) and can go on later."""


class Stopped(Unfinished):
    """A signal told the program to stop: whatever else it had to do waits too."""
