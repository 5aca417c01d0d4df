"""What is asked of a teacher, and what came of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, get_args

from orca.mixture.query import CHARACTERS_PER_TOKEN
from orca.teacher.settings import Teacher

OVERHEAD = 8  # tokens of roles and separators

Outcome = Literal["finished", "length", "content_filter", "other", "rejected", "failed"]
"""How a query ends, exactly once: an answer; one that was cut; one that a filter stopped; one with
another finish reason; a request that the server will never answer (too long, invalid); every
attempt failed."""

OUTCOMES: tuple[str, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class Request:
    """One query for a teacher. An empty system message is not sent."""

    id: str
    system_message: str
    query: str
    collection: str = ""
    task: str = ""
    targets: tuple[str, ...] = ()

    def messages(self) -> list[dict[str, str]]:
        user = {"role": "user", "content": self.query}
        if not self.system_message:
            return [user]
        return [{"role": "system", "content": self.system_message}, user]

    def prompt_tokens(self) -> int:
        """An estimate, before the server says how many it counted."""
        characters = len(self.system_message) + len(self.query)
        return characters // CHARACTERS_PER_TOKEN + OVERHEAD

    def hash(self, teacher: Teacher) -> str:
        """Changes when another request would be sent."""
        text = json.dumps((self.messages(), teacher.body), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Reply:
    """What one attempt, and with the last of them its query, came to.

    Attributes:
        latency: seconds from sending to the answer.
        error: kind of the failure, as ``timeout`` or ``400 context_length_exceeded``.
        reason: the server's words for it, without the key.
    """

    outcome: Outcome
    endpoint: str
    text: str = ""
    model: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency: float = 0.0
    error: str = ""
    reason: str = ""
