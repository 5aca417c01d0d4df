"""A fixed part of a benchmark, for a quick look."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable

from orca.errors import UserError
from orca.evaluation.item import Item


def stratified(items: Iterable[Item], fraction: float) -> list[Item]:
    """The same share of every task (at least one item), in the items' order.

    Which items these are depends on nothing but their ids, and a smaller share is part of a
    larger one.

    Raises:
        UserError: ``fraction`` is not in (0, 1].
    """
    if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise UserError(f"fraction={fraction}: a number above 0, at most 1")
    items = list(items)
    tasks: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        tasks[item.benchmark, item.task].append(item)
    chosen: set[str] = set()
    for (benchmark, task), members in tasks.items():
        order = sorted(members, key=lambda item: item.id)
        random.Random(f"{benchmark}/{task}").shuffle(order)
        chosen.update(item.id for item in order[: max(1, round(fraction * len(order)))])
    return [item for item in items if item.id in chosen]
