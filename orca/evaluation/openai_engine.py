"""Baselines and local servers: a model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orca.errors import UserError
from orca.evaluation.engine import Output, Prompt
from orca.teacher import Asking, Ledger, Teacher, unanswered
from orca.teacher.request import Request

FINISH = {
    "finished": "stop", "length": "length", "content_filter": "content_filter", "other": "other",
}  # fmt: skip


class OpenAIEngine:
    """Asks the endpoints of a :class:`Teacher`, within their limits, with a ledger.

    Temperature and the most new tokens are the protocol's; of ``teacher.settings`` the others are
    sent. Seeds are not sent: servers do not keep them.

    Args:
        directory: of the ledger, which keeps what was paid for.
        max_tokens_field: what the server calls the most tokens of an answer.
        budget_usd: dollars of all answers in the ledger together; None: no limit.
    """

    def __init__(
        self,
        teacher: Teacher,
        directory: str,
        max_tokens_field: str = "max_completion_tokens",
        budget_usd: float | None = None,
    ) -> None:
        self.teacher = teacher
        self.directory = Path(directory)
        self.max_tokens_field = max_tokens_field
        self.budget_usd = budget_usd

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "openai",
            "teacher": self.teacher.name,
            "settings": self.teacher.body,
            "models": sorted({one.model for one in self.teacher.endpoints.values()}),
            "servers": sorted({one.base_url for one in self.teacher.endpoints.values()}),
        }

    def generate(
        self, prompts: Sequence[Prompt], temperature: float, max_new_tokens: int
    ) -> Iterator[Output]:
        settings = {
            **self.teacher.settings,
            "temperature": temperature,
            self.max_tokens_field: max_new_tokens,
        }
        teacher = replace(self.teacher, settings=settings)
        self.directory.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(self.directory / "ledger.sqlite", {"settings": teacher.body})
        try:
            requests = [Request(one.key, one.system_message, one.user) for one in prompts]
            ledger.withdraw(["failed", "rejected"])
            batches = (requests[i : i + 1_000] for i in range(0, len(requests), 1_000))
            waiting = unanswered(batches, ledger)
            asking = Asking(teacher, ledger, waiting, _no_gate, self.budget_usd)
            asyncio.run(asking.run())
            wanted = {one.key for one in prompts}
            for row in ledger.rows():
                if row["query"] in wanted:
                    yield _output(row)
            if asking.out_of_money:
                raise UserError(
                    f"the budget of {self.budget_usd} US dollars is used up; answers that came are "
                    "kept, and the same command with a larger budget_usd goes on"
                )
        finally:
            ledger.close()

    def loglikelihoods(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> Iterator[tuple[str, list[float]]]:
        raise UserError(
            "protocol=loglikelihood needs log-probabilities of given texts, which chat servers do "
            "not tell: engine=hf or engine=vllm"
        )


def _no_gate(request: Request, text: str) -> None:
    return None


def _output(row: dict[str, Any]) -> Output:
    return Output(
        key=row["query"],
        text=row["response"],
        finish_reason=FINISH.get(row["outcome"], "failed"),
        prompt_tokens=row["prompt_tokens"],
        new_tokens=row["completion_tokens"],
        latency=row["latency"],
        error=f"{row['error']} {row['reason']}".strip(),
    )
