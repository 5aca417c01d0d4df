"""Which system message a query gets.

The sets of ids per collection are those of the paper's Figure 6 as three independent transcriptions
read them. The figure's frequencies are in the graphic only, so ids are drawn uniformly, as all
public replications do. Messages 8 and 10 speak of multiple-choice questions and go to such queries
alone (section 3.1.1); where FLAN 2021 has them, replications differ, hence ``multiple_choice``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from orca.errors import UserError
from orca.traces.system_messages import MULTIPLE_CHOICE_ONLY

SYSTEM_MESSAGE_IDS: Mapping[str, tuple[int, ...]] = {
    "cot": (6, 11, 16),
    "niv2": (1, 2, 5, 7, 9, 12, 13, 14, 15),
    "t0": (1, 2, 3, 5, 7),
    "flan2021": (3, 4, 7, 8, 10),
}
"""Numbers in Table 2 that a collection's queries may get; 8 and 10 only for multiple choice."""

MultipleChoice = Literal["added", "only_8_10"]


class SystemMessages:
    """Draws system messages: uniform, and a pure function of the seed and the query's id.

    So a query keeps its message in whatever order, file, worker or subset it is met.

    Args:
        seed: another seed draws anew.
        multiple_choice: what a multiple-choice query of FLAN 2021 draws from: ``added``, from 8, 10
            and the collection's other messages; ``only_8_10``, from these two alone.

    Raises:
        UserError: ``multiple_choice`` is neither.
    """

    def __init__(self, seed: int = 0, multiple_choice: MultipleChoice = "added") -> None:
        if multiple_choice not in ("added", "only_8_10"):
            raise UserError(
                f"multiple_choice is {multiple_choice!r}; it must be 'added' or 'only_8_10'"
            )
        self.seed = seed
        self.multiple_choice = multiple_choice

    def ids(self, collection: str, multiple_choice: bool) -> tuple[int, ...]:
        """The numbers in Table 2 that such a query may get.

        Raises:
            UserError: the collection is unknown.
        """
        if collection not in SYSTEM_MESSAGE_IDS:
            known = ", ".join(SYSTEM_MESSAGE_IDS)
            raise UserError(f"no system messages for collection {collection!r}; known are {known}")
        numbers = SYSTEM_MESSAGE_IDS[collection]
        special = tuple(number for number in numbers if number in MULTIPLE_CHOICE_ONLY)
        if not multiple_choice:
            return tuple(number for number in numbers if number not in special)
        return special if special and self.multiple_choice == "only_8_10" else numbers

    def choose(self, query_id: str, collection: str, multiple_choice: bool) -> int:
        """The number in Table 2 of the query's system message.

        Raises:
            UserError: the collection is unknown.
        """
        numbers = self.ids(collection, multiple_choice)
        key = f"system message\0{self.seed}\0{query_id}".encode()
        drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        return numbers[drawn % len(numbers)]  # of 2**64 values: no bias that could be seen
