"""Balancing: every pack once, no micro-batch too large, ranks near equal."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orca.stream import balance


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1, 100), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 4))
def test_every_pack_goes_to_one_micro_batch(costs: list, ranks: int, micro: int) -> None:
    shares = balance(costs, ranks, micro)
    packs = [i for rank in shares for chosen in rank for i in chosen]
    assert sorted(packs) == list(range(len(costs)))
    assert all(len(chosen) <= micro for rank in shares for chosen in rank)
    assert len({len(rank) for rank in shares}) == 1 and len(shares) == ranks


def test_ranks_of_one_round_have_similar_work() -> None:
    costs = [float(c) for c in range(1, 17)]
    shares = balance(costs, ranks=4, micro_packs=2)
    naive = [[costs[r * 4 + 2 * m] + costs[r * 4 + 2 * m + 1] for r in range(4)] for m in range(2)]
    waiting = 0.0
    for m in range(2):
        loads = [sum(costs[i] for i in shares[r][m]) for r in range(4)]
        waiting += max(loads) - min(loads)
    assert waiting < 0.2 * sum(max(loads) - min(loads) for loads in naive)
