"""Which queries go into the next batch: as many as limits and budget allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from orca.teacher.batch_client import write_row
from orca.teacher.batch_ledger import Batch, BatchLedger
from orca.teacher.request import Request
from orca.teacher.settings import Teacher

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of a batch
SMALL_ROOM, SMALL_CHANGE = 0.1, 0.05  # shares of queue and budget for which no batch is made


class Queue:
    """The queries of a pass, cut into batches.

    Args:
        tokens: most estimated prompt tokens in an endpoint's queue; None: not known.

    Attributes:
        freed: queries may have become free that this pass has gone by.
        out_of_money: what is left of the budget is too little for a batch.
    """

    def __init__(
        self, teacher: Teacher, batches: BatchLedger, budget: float | None, tokens: int | None
    ) -> None:
        self.teacher, self.batches, self.budget = teacher, batches, budget
        self.freed = self.out_of_money = False
        self._most: dict[str, float] = dict.fromkeys(teacher.endpoints, tokens or math.inf)
        self._requests: Iterator[Request] = iter(())
        self._held: Request | None = None  # read, and in no batch yet
        self._attempts: dict[str, int] = {}  # next one, of queries that failed in this program

    def begin(self, requests: Iterator[Request]) -> None:
        """Begin a pass over the queries without outcome that wait in no batch."""
        self.freed, self._requests = False, requests

    def again(self, request: Request, attempt: int) -> None:
        """The query is free for its next attempt."""
        self._attempts[request.id] = attempt
        self.freed = True

    def lower(self, batch: Batch) -> int:
        """Take note that the server's queue had no room for this batch beside the others; how many
        tokens are queued at that endpoint from now on."""
        others = _tokens(batch.endpoint, self.batches.open())
        self._most[batch.endpoint] = most = max(others, batch.prompt_tokens // 2)
        return most

    def cut(self, taken: set[int], spent: float) -> Batch | None:
        """Record the next batch in the ledger; None: there is none for now.

        Args:
            taken: batches that the server has found valid.
            spent: dollars of all answers so far.
        """
        waiting = self.batches.open()
        names = [one for one in self.teacher.endpoints if self._may_send(one, waiting, taken)]
        request = self._take()
        if request is None or not names:
            self._held = request
            return None
        name = min(names, key=lambda one: _tokens(one, waiting))
        queued, price, money = _tokens(name, waiting), self._price(), math.inf
        if self.budget is not None:
            money = self.budget - spent - sum(batch.dollars for batch in waiting)
            if money < max(self.budget * SMALL_CHANGE, price(request)):
                self.out_of_money = not waiting
                self._held = request
                return None
        chosen: list[tuple[Request, int]] = []
        size, tokens, dollars = 0, 0, 0.0
        while request is not None:
            size += len(write_row(0, request, name, self.teacher)) + 20  # for number and end
            more = tokens + request.prompt_tokens(), dollars + price(request)
            too_large = len(chosen) == MOST_REQUESTS or size > MOST_BYTES
            too_much = queued + more[0] > self._most[name] or more[1] > money
            if (too_large or too_much) and (chosen or queued):
                self._held = request
                break
            tokens, dollars = more
            chosen.append((request, self._attempts.get(request.id, 1)))
            request = self._take()
        if not chosen:
            return None
        self.batches.add(name, chosen, tokens, dollars, self.teacher)
        return self.batches.open()[-1]

    def _take(self) -> Request | None:
        request, self._held = self._held, None
        return request or next(self._requests, None)

    def _may_send(self, name: str, waiting: list[Batch], taken: set[int]) -> bool:
        """Whether a next batch may follow those that wait: no small ones into what little room is
        left, and without a known limit only when the server has taken the last."""
        most = self._most[name]
        mine = [batch for batch in waiting if batch.endpoint == name]
        if any(batch.remote is None for batch in mine):
            return False
        if math.isinf(most):
            return all(batch.number in taken for batch in mine)
        return not mine or most - _tokens(name, mine) >= most * SMALL_ROOM

    def _price(self) -> Callable[[Request], float]:
        """Dollars that a request is expected to cost: answers as long as the teacher's settings say
        or, if that is more, as those so far."""
        sql = "SELECT avg(completion_tokens) FROM replies WHERE outcome IN ('finished', 'length')"
        ((mean,),) = self.batches.ledger.select(sql)
        length = max(self.teacher.expected_completion_tokens, mean or 0.0)
        prices = self.teacher.prices
        return lambda request: (
            prices.dollars(request.prompt_tokens(), length) * (1 - prices.batch_discount)
        )


def _tokens(endpoint: str, batches: Iterable[Batch]) -> int:
    return sum(batch.prompt_tokens for batch in batches if batch.endpoint == endpoint)
