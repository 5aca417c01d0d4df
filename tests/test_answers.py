"""Exact answers: the stated answer decides, wording does not."""

from __future__ import annotations

import pytest

from orca.answers import is_exact_answer


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("2 + 2 = 4. The answer is 4.", "4", True),
        ("The answer is 4. I added 2 and 2.", "4", True),
        ("The answer is 45.", "4", False),
        ("The answer is 4.5.", "4", False),
        ("The answer is **1,234**.", "1234", True),
        ("First I thought the answer is 3.\nThe answer is: 4", "4", True),
        ("So there are 7 apples, which makes 12", "12", True),
        ("12 apples and 7 pears", "12", False),
        ("The answer is B.", "B", True),
        ("The answer is (B) because", "B", True),
        ("The answer is (B) Oisin.", "B", True),
        ("The answer is not (A).", "(A)", False),
        ("The answer is A or B.", "A", False),
        ("The answer is either (A) or (B).", "A", False),
        ("The answer is A dog.", "A", False),
        ("The answer is 12, 13 and 14.", "12", False),
        ("The answer is 3, which is wrong; it should be 4.", "3", False),
        ("The answer is 12. No wait, it is 13.", "12", False),
        ("The answer is B. (A) is wrong, since 3 or 4 would not fit.", "B", True),
        ("The answer is B. No other option is right.", "B", True),
        ("The answer is B. That is wrong; it is C.", "B", False),
        ("The answer is 12. Actually 13.", "12", False),
        ("Put the answer in weeks: 28 days = 4 weeks\n#### 4", "4", True),
        ("The answer is 9/21.", "3/7", False),
        ("The answer is 0.5.", "1/2", True),
        ("The answer is 1.5/2.", "0.75", True),
        ("The answer is 12 apples.", "12", True),
        ("The answer is 12.0", "12", True),
        ("The answer is \\boxed{12}.", "12", True),
        ("The answer is −5.", "-5", True),
        ("The answer is 5.\nI am sure this answer is correct.", "5", True),
        ("The answer is 1/2.", "1/2", True),
        ("The answer is Bob.", "B", False),
        ("The answer is A.", "B", False),
        ("I choose (A), no, (C)", "(C)", True),
        ("The answer is North, must, a, the.", "North, must, a, the", True),
        ("The answer is north, must, the, a.", "North, must, a, the", False),
        ("ruoh", "ruoh", True),
        ("", "4", False),
        ("The answer is 5/0.", "4", False),
        ("It took 3-5 days.\n**Answer:** 5", "5", True),
    ],
)
def test_a_response_is_right_or_wrong(response: str, gold: str, right: bool) -> None:
    assert is_exact_answer(response, gold) is right
