"""What is asked of a teacher, and what came of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from orca.teacher.settings import Teacher

CHARACTERS_PER_TOKEN = 4
OVERHEAD = 8  # tokens of roles and separators

Outcome = Literal["finished", "length", "content_filter", "rejected", "failed"]
"""How a query ends, exactly once: an answer; one that was cut; one that a filter stopped; a request
that the server will never answer (too long, invalid); every attempt failed."""


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
        asked = (teacher.name, teacher.temperature, teacher.top_p, teacher.max_tokens)
        text = json.dumps((self.messages(), asked), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Reply:
    """What one query came to, after all its attempts.

    Attributes:
        error: kind of the last failure, without any text of the server that may hold secrets.
        latency: seconds of the attempt that was answered.
    """

    outcome: Outcome
    endpoint: str
    text: str = ""
    model: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency: float = 0.0
    attempts: int = 1
    error: str = ""
    usage: dict[str, Any] | None = None
