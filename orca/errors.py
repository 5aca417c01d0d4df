"""Errors that programs print as a sentence, without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input or configuration; the message names what is wrong and the way out."""


class Unfinished(Exception):
    """A run stopped before its end (a signal, a time limit) and can go on later."""
