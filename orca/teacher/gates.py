"""Quality gates: what a finished response must not be, to become a trace.

A gate looks at one response at a time. What a server cut (``length``) or filtered is an outcome of
the request (:data:`orca.teacher.request.Outcome`) and comes before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orca.errors import UserError
from orca.languages import NO_LANGUAGE, check_languages, language_of
from orca.teacher.agreement import agreement
from orca.teacher.request import Request


class Gate(Protocol):
    """One reason to keep a response aside."""

    @property
    def name(self) -> str: ...

    def reject(self, request: Request, text: str) -> str | None:
        """The evidence in a few words; None: the response passes."""
        ...


def run_gates(gates: Iterable[Gate], request: Request, text: str) -> tuple[str, str] | None:
    """Name and evidence of the first gate that rejects the response; None: all let it pass."""
    for gate in gates:
        if detail := gate.reject(request, text):
            return gate.name, detail
    return None


@dataclass(frozen=True)
class Empty:
    """Responses of white space alone."""

    name: str = "empty"

    def reject(self, request: Request, text: str) -> str | None:
        return None if text.strip() else "no text"


_APOLOGY = (
    r"(?:(?:i['’]?m|i am|we['’]?re|we are) (?:\w+ )?(?:sorry|afraid)|sorry|(?:my|i) apolog\w+)"
)
_SELF = (
    r"(?:as|i['’]?m|i am) (?:just |only )?(?:an? |your )?"
    r"(?:responsible |helpful |text-based |large )*"
    r"(?:ai|artificial intelligence|language model|assistant)\b[^.,;:!?\n]{0,60}"
)
_CANNOT = (
    r"(?:(?:i|it) )?(?:must (?:inform you that i )?)?(?:\w+ly )?"
    r"(?:can ?not|can['’]?t|won['’]?t|will not|decline|refuse|do(?: not|n['’]?t) have"
    r"|(?:am|['’]m) (?:unable|not (?:able|capable|programmed|allowed|permitted|comfortable)))"
)
_LEAD = r"[\"'*#\s]{0,8}(?:unfortunately,? |(?:hi|hello)[,.!] )?"
_JOIN = r"[,.;:!]?\s(?:but |and |that |so |however,? |unfortunately,? )?"
_REFUSES = re.compile(
    rf"{_LEAD}(?:(?:{_APOLOGY}{_JOIN})?{_SELF}{_JOIN}|{_APOLOGY}{_JOIN}){_CANNOT}\b"
    rf"|{_LEAD}i (?:can ?not|can['’]?t|won['’]?t|am unable to|['’]m unable to) "
    r"(?:help (?:you|with)|assist|fulfil|comply|engage|answer|respond|provide|generate|write"
    r"|create|complete)",
    re.IGNORECASE,
)
_TURNS = re.compile(
    r"\bhowever\b|\b(?:but|instead|nevertheless|nonetheless|that said|still),? "
    r"(?:based|according|here|in general|generally|from|given|if|a |an |one|the |it|some|let|for"
    r"|i(?:['’]d| can| could| will| would| might|['’]ll|['’]m able))"
    r"|\bi can (?:still |certainly )?(?:provide|offer|describe|give|suggest|tell|explain)"
    r"|\bthe (?:\w+ )?answer is\b|\bhere(?: is|['’]s| are)\b|\n[ \t]*(?:\d+[.)]|[-*•|]) ",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Refusal:
    """Responses that refuse and give no answer after that.

    A refusal is the beginning of the response ("As an AI language model, I cannot", "I'm sorry,
    but I can't"). An answer that begins so and goes on to answer ("However, I can", "here is", a
    list), or that has more than ``max_characters``, passes. A question for missing input and an
    answer such as "it cannot be determined" are no refusals. Of 4,606 real answers 19 are found:
    14 refuse, 3 answer a question about the model itself, 2 say what is missing.
    """

    max_characters: int = 600
    name: str = "refusal"

    def reject(self, request: Request, text: str) -> str | None:
        text = text.strip()
        if len(text) > self.max_characters:
            return None
        begins = _REFUSES.match(text)
        if not begins or _TURNS.search(text, begins.end()):
            return None
        return " ".join(begins[0].split())


@dataclass(frozen=True)
class Repetition:
    """Responses that run in circles.

    Measured is the share of windows of ``window`` characters that stood in the response before;
    white space counts as one space. A text written twice has about 0.5, a loop to the end nearly 1.
    Linear in the length, 0.1 s per million characters. Of 4,606 real answers four are above a half,
    all of them loops; a song with a refrain reaches 0.49.

    Args:
        max_share: a response above it is rejected, if it has ``min_characters``.

    Raises:
        UserError: ``max_share`` is no share, or ``window`` no length.
    """

    max_share: float = 0.5
    window: int = 50
    min_characters: int = 200
    name: str = "repetition"

    def __post_init__(self) -> None:
        if not 0 < self.max_share < 1:
            raise UserError(f"gate {self.name!r}: max_share={self.max_share} is not within 0 and 1")
        if self.window < 1:
            raise UserError(f"gate {self.name!r}: window={self.window} is below 1")

    def reject(self, request: Request, text: str) -> str | None:
        text = " ".join(text.split())
        windows = len(text) - self.window + 1
        if len(text) < self.min_characters or windows < 1:
            return None
        different = len({text[i : i + self.window] for i in range(windows)})
        share = 1 - different / windows
        return f"{share:.0%} stood there before" if share > self.max_share else None


@dataclass(frozen=True)
class Language:
    """Responses in a language that is neither allowed, nor the query's, nor a gold target's.

    Targets make a translation pass. A language less probable than ``min_probability`` is not
    believed, which lets short responses pass (see :class:`orca.mixture.Language`).

    Args:
        languages: ISO 639-1 codes that pass whatever the query is in.

    Raises:
        UserError: a code that py3langid does not know.
    """

    languages: Sequence[str] = ("en",)
    min_probability: float = 0.8
    name: str = "language"

    def __post_init__(self) -> None:
        check_languages(self.languages, f"gate {self.name!r}")

    def reject(self, request: Request, text: str) -> str | None:
        language, probability = language_of(text)
        if language in (*self.languages, NO_LANGUAGE) or probability < self.min_probability:
            return None
        if any(language == language_of(one)[0] for one in (request.query, *request.targets)):
            return None
        return f"{language} with probability {probability:.2f}"


@dataclass(frozen=True)
class WrongAnswer:
    """Responses whose final answer contradicts every gold target.

    :func:`orca.teacher.agreement.agreement` decides; where it cannot tell, the response passes.
    """

    name: str = "wrong_answer"

    def reject(self, request: Request, text: str) -> str | None:
        if agreement(text, request.targets, request.query) != "disagrees":
            return None
        return f"the gold answer is {request.targets[0][:80]}"
