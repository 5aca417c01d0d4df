"""What answers prompts: a model in this process, one that vLLM runs, or a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked. An empty system message is not sent, as in the collection of traces.

    Attributes:
        key: of the caller; comes back with the output.
        seed: of the sampling of this answer, whatever else is in its batch.
    """

    key: str
    system_message: str
    user: str
    seed: int = 0

    def messages(self) -> list[dict[str, str]]:
        user = {"role": "user", "content": self.user}
        if not self.system_message:
            return [user]
        return [{"role": "system", "content": self.system_message}, user]


@dataclass(frozen=True, slots=True)
class Output:
    """An answer.

    Attributes:
        finish_reason: ``stop``, ``length``, ``content_filter``, ``other`` (an answer that ended as
            a server says in words of its own) or ``failed``: no answer.
        latency: seconds; of a batch, those of the whole batch.
        error: what went wrong where it failed.
    """

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int = 0
    new_tokens: int = 0
    latency: float = 0.0
    error: str = ""


class Engine(Protocol):
    """Answers prompts. Outputs come in any order, each as soon as it is there."""

    def describe(self) -> dict[str, Any]:
        """What is asked: model, its fingerprint, device, precision; goes into the records."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], temperature: float, max_new_tokens: int
    ) -> Iterator[Output]:
        """Answers with sampling at ``temperature``, or greedy ones (0)."""
        ...

    def loglikelihoods(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> Iterator[tuple[str, list[float]]]:
        """(key, log-probability of each continuation after the rendered prompt, in nats).

        Raises:
            UserError: the engine has no log-probabilities.
        """
        ...
