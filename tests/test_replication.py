"""The study of the paper's claims decides nothing that items and seeds do not both say."""

from __future__ import annotations

import numpy as np
import pytest
from replication_small import accuracies, claims_table, grades, holm, verdict

from orca.evaluation import Sample
from orca.evaluation.statistics import Interval


def test_holm_is_that_of_r() -> None:
    """``p.adjust(p, "holm")`` of R."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, None, 0.6]) == [pytest.approx(1.0), None, pytest.approx(1.0)]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("value", "p_value", "by_seed", "costs_nothing", "expected"),
    [
        (9, 0.001, [8, 9, 10], False, "holds"),
        (9, 0.001, [28, 9, -10], False, "cannot tell"),
        (9, 0.06, [8, 9, 10], False, "cannot tell"),
        (9, None, [8, 9, 10], False, "cannot tell"),
        (-9, 0.001, [-8, -9, -10], False, "does not hold"),
        (-9, 0.001, [-18, -9, 0], False, "cannot tell"),
        (-1, 0.5, [-2, 0, -1], True, "holds"),
        (-2, 0.3, [-2, -2, -2], True, "cannot tell"),
        (-1, 0.5, [3, 0, -6], True, "cannot tell"),
        (9, 0.001, [8, 9, 10], True, "holds"),
        (-9, 0.001, [-8, -9, -10], True, "does not hold"),
    ],
)
def test_verdicts(
    value: float, p_value: float | None, by_seed: list[float], costs_nothing: bool, expected: str
) -> None:
    points = Interval(value, value - 3.5, value + 3.5)
    assert verdict(points, p_value, np.array(by_seed), costs_nothing) == expected


def answered(right: dict[str, list[list[bool]]]) -> dict[str, list]:
    """Graded answers of an arm: for each task and seed, which of its items are right."""
    samples = []
    for task, draws in right.items():
        for draw, own in enumerate(draws):
            for i, is_right in enumerate(own):
                answer = "7" if is_right else "8"
                samples.append(
                    Sample(
                        item=f"held_out/{task}/{i}", benchmark="held_out", task=task, draw=draw,
                        seed=draw, system_message=1, prompt="What?", text=answer,
                        finish_reason="stop", gold=("7",), first_capital=answer, stated=answer,
                    )
                )  # fmt: skip
    return grades(samples)


def test_a_claim_is_decided_over_the_seeds_of_both_arms() -> None:
    many, few = [True] * 30 + [False] * 10, [True] * 10 + [False] * 30
    arms = {
        "progressive": answered({"sums": [many, many], "gcd": [many, few]}),
        "mixed": answered({"sums": [few, few], "gcd": [few, few]}),
    }
    assert accuracies(arms["progressive"]["held_out"]).tolist() == [75.0, 50.0]
    (row,) = claims_table(arms, "held_out").rows
    assert row[1] == "progressive − mixed" and row[3] == "+50.0, +25.0" and row[-1] == "holds"
    assert row[2].value == pytest.approx(37.5)
