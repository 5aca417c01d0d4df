"""What an explanation trace is (section 2 of arXiv 2306.02707)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trace:
    """One triple <system message, query, response> with where it came from.

    ``response`` carries no leading or trailing white space: a response that begins with a space
    would be tokenised differently in training and after a generation prompt.
    """

    id: str
    system_message: str
    query: str
    response: str
    teacher: str = ""
    sub_collection: str = ""
    task: str = ""
    gold_answer: str | None = None
    difficulty: float | None = None


class BadRow(Exception):
    """A row that is not a trace.

    Args:
        reason: short name by which such rows are counted, for example ``missing_field``.
        detail: the sentence that a user needs to mend the row.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
