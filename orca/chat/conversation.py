"""What has been said: the system message, and questions with their answers."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from orca.errors import UserError
from orca.traces import NUMBERED_MESSAGES, match_system_message

IDS = f"{min(NUMBERED_MESSAGES)} to {max(NUMBERED_MESSAGES)}"

CONTROLS = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}
"""What a model or server must not do to a terminal: escape sequences are shown, not obeyed."""


@dataclass
class Turn:
    """A question and its answer.

    Attributes:
        answer: None until the model writes.
        finish_reason: ``stop``, ``length`` (cut at the limit or by the context) or ``interrupted``.
        prompt: token ids that the model read for this answer; None where a server renders.
    """

    question: str
    answer: str | None = None
    finish_reason: str = ""
    prompt: list[int] | None = None


@dataclass
class Conversation:
    """A system message and turns; the last turn may wait for its answer.

    Attributes:
        left_out: turns at the beginning that no longer fit in the model's context.
    """

    system_message: str = ""
    turns: list[Turn] = field(default_factory=list)
    left_out: int = 0

    def messages(self, first: int = 0) -> list[dict[str, str]]:
        """The conversation as chat templates and servers take it.

        Args:
            first: the turn to begin with.
        """
        messages = []
        if self.system_message:
            messages.append({"role": "system", "content": self.system_message})
        for turn in self.turns[first:]:
            messages.append({"role": "user", "content": turn.question})
            if turn.answer is not None:
                messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def clear(self) -> None:
        """Forget what has been said; the system message stays."""
        self.turns.clear()
        self.left_out = 0

    def save(self, file: Path, model: str) -> None:
        """Append the conversation to a JSONL file; of one turn, ``data.format=chat`` reads it.

        Raises:
            UserError: nothing has been answered, or the file cannot be written.
        """
        if not self.turns:
            raise UserError("there is nothing to save: nothing has been asked yet")
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        record = {
            "id": f"chat.{now}",
            "messages": self.messages(),
            "model": model,
            "finish_reasons": [turn.finish_reason for turn in self.turns],
        }
        try:
            with file.expanduser().open("a", encoding="utf-8") as opened:
                opened.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror}") from None


def read_system_message(given: str) -> str:
    """The system message that a number, ``none`` or a text stands for.

    Raises:
        UserError: a number that :data:`orca.traces.NUMBERED_MESSAGES` does not have.
    """
    given = given.strip()
    if given.lower() in ("none", "null", ""):
        return ""
    if re.fullmatch(r"[+-]?\d+", given):
        if int(given) not in NUMBERED_MESSAGES:
            raise UserError(f"system message {given}: there are numbers {IDS}")
        return NUMBERED_MESSAGES[int(given)]
    return given


def message_number(text: str) -> str:
    """A system message as it is told: its number, or ``your own``."""
    number = match_system_message(text)
    return "your own" if number is None else str(number)
