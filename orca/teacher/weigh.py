"""What the end of an attempt means: outcome, dollars, another attempt, and what the gates say."""

from __future__ import annotations

from orca.mixture.query import CHARACTERS_PER_TOKEN
from orca.teacher.client import Retry
from orca.teacher.ledger import Judge
from orca.teacher.request import Reply, Request
from orca.teacher.settings import Teacher


def judged(
    judge: Judge, request: Request, reply: Reply
) -> tuple[tuple[str, str] | None, Exception | None]:
    """What the gates find, and a gate's own failure: the answer is paid for and kept, aside."""
    if reply.outcome not in ("finished", "length"):
        return None, None
    try:
        return judge(request, reply.text), None
    except Exception as error:
        return ("gate_failed", f"{type(error).__name__}: {error}"), error


def weigh(
    teacher: Teacher, endpoint: str, answer: Reply | Retry, request: Request, attempt: int
) -> tuple[str, Reply, float, bool]:
    """Kind of the end of an attempt, the reply that it makes, its dollars (without any discount),
    and whether the query is asked again. Where the server does not count tokens, they are
    estimated."""
    left = attempt < teacher.attempts
    if isinstance(answer, Retry):
        return answer.kind, Reply("failed", endpoint, error=answer.kind), 0.0, left
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    if not prompt + completion and answer.text:
        prompt, completion = request.prompt_tokens(), len(answer.text) // CHARACTERS_PER_TOKEN
    cost = teacher.prices.dollars(prompt, completion)
    return answer.outcome, answer, cost, left and teacher.policy(answer.outcome) == "again"
