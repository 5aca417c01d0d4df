"""How a model is asked; the protocol's name stands next to every score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orca.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """How a model is asked.

    Args:
        name: as in ``protocol=orca``.
        kind: ``generate`` answers, or compare the log-likelihoods of the options.
        temperature: 0 is greedy. The paper's is 0.7 (footnote 14).
        max_new_tokens: of an answer. The paper's is 1,024 for TruthfulQA, else not stated.
        draws: answers to each item, with a seed each.
        seed: of all draws.
    """

    name: str
    kind: Literal["generate", "loglikelihood"] = "generate"
    temperature: float = 0.7
    max_new_tokens: int = 1024
    draws: int = 1
    seed: int = 0

    def describe(self) -> str:
        """For the line that a run begins with."""
        if self.kind == "loglikelihood":
            return f"protocol {self.name} (nothing is generated)"
        return (
            f"protocol {self.name} (temperature {self.temperature:g}, {self.draws} draw(s), up to "
            f"{self.max_new_tokens:,} tokens)"
        )

    def __post_init__(self) -> None:
        if self.kind not in ("generate", "loglikelihood"):
            raise UserError(f"protocol.kind={self.kind!r}: generate or loglikelihood")
        if not (
            isinstance(self.temperature, (int, float)) and 0 <= self.temperature < float("inf")
        ):
            raise UserError(f"protocol.temperature={self.temperature}: a number, 0 or more")
        for name, least in (("max_new_tokens", 1), ("draws", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"protocol.{name}={value}: a whole number from {least} on")
        if self.draws > 1 and (self.temperature == 0 or self.kind == "loglikelihood"):
            raise UserError(f"protocol.draws={self.draws}: every draw would be the same; 1")
