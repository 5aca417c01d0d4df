"""What the sources that render their queries share."""

from __future__ import annotations

import hashlib

from orca.mixture.pool import Candidate


def pick(count: int, *key: object) -> int:
    """A number from 0 to ``count`` - 1 that depends on ``key`` alone: which layout a row gets."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") % count


def bad_row(task: str, row: int, reason: str, detail: str, template: str = "") -> Candidate:
    """The candidate that stands for a row that is no query."""
    sentence = f"{reason}: {detail}".encode(errors="backslashreplace").decode()
    return Candidate(task, None, (), row, template, None, sentence)


def checked(one: Candidate) -> Candidate:
    """``one``, or a bad row where a text has half a character in it, which JSON can spell."""
    try:
        for text in (one.query or "", *one.targets):
            text.encode()
    except UnicodeEncodeError:
        detail = "the query or a gold answer has half a character in it"
        return bad_row(one.task or "", one.row, "invalid_unicode", detail, one.template)
    return one
