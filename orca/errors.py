"""The one error that a user can mend: programs print it as a sentence, without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input or configuration; the message names what is wrong and the way out."""
