"""What a query set is made of, as its configuration says it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orca.errors import UserError
from orca.mixture.hygiene import Check, check_names
from orca.mixture.messages import SYSTEM_MESSAGE_IDS, SystemMessages
from orca.mixture.pool import Source
from orca.mixture.sampling import Sampler, check_number


@dataclass
class Collection:
    """One sub-collection: where its candidates come from, and how they are sampled.

    Args:
        exclude: shell patterns of tasks to leave out, beside those that the paper leaves out.
    """

    source: Source
    sampler: Sampler
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.exclude, str):
            self.exclude = [self.exclude]


@dataclass
class Mixture:
    """What a query set is made of.

    Args:
        collections: by name: cot, niv2, flan2021, t0; one may be left out.
        sets: the query sets to write, by name: how many queries, None for all. Each is the
            beginning of the same shuffled order, so smaller sets are uniform subsets of the first.
        hygiene: checks in the order in which they run, by any name.
        path: directory for relative file names.
        on_bad_row: ``fail`` at the first row that is no query, or ``skip``: count and list them.
        seed: of draws, order and system messages.
    """

    name: str
    collections: Mapping[str, Collection | None]
    sets: Mapping[str, int | None]
    system_messages: SystemMessages
    hygiene: Mapping[str, Check] = field(default_factory=dict)
    path: str | None = None
    on_bad_row: str = "fail"
    seed: int = 17

    def __post_init__(self) -> None:
        unknown = set(self.collections) - set(SYSTEM_MESSAGE_IDS)
        if unknown:
            raise UserError(
                f"mixture.collections: {', '.join(sorted(unknown))} unknown; the paper samples "
                f"{', '.join(SYSTEM_MESSAGE_IDS)}, and no dialog"
            )
        for name, collection in self.collections.items():
            if collection is not None and not isinstance(collection, Collection):
                raise UserError(f"mixture.collections.{name} is {collection!r}, not a collection")
        for name, check in self.hygiene.items():
            if not hasattr(check, "find"):
                raise UserError(f"hygiene.{name} is {check!r}, not a check (has it a _target_?)")
        check_names(self.hygiene.values())
        if self.on_bad_row not in ("fail", "skip"):
            raise UserError(f"mixture.on_bad_row={self.on_bad_row!r}: fail or skip")
        if not isinstance(self.name, str) or not isinstance(self.seed, int):
            raise UserError(
                f"mixture.name={self.name!r} is no text, or seed={self.seed!r} no number"
            )
        if not self.sets or not self.chosen():
            raise UserError("mixture.sets and mixture.collections must name at least one each")
        if not isinstance(self.system_messages, SystemMessages):
            raise UserError(f"mixture.system_messages={self.system_messages!r} is none")
        for name, queries in self.sets.items():
            if not re.fullmatch(r"\w[\w-]*", name):
                raise UserError(f"mixture.sets.{name}: a set's name is letters, digits, _ and -")
            if queries is not None:
                check_number(f"mixture.sets.{name}", queries)
        whole, *others = self.sets.items()
        for name, queries in others:
            if whole[1] is not None and (queries is None or queries > whole[1]):
                raise UserError(
                    f"mixture.sets.{name}={queries} is more than the first set, "
                    f"{whole[0]}={whole[1]}: it could not be a subset"
                )

    def chosen(self) -> dict[str, Collection]:
        """The collections that are not None, in the order of their names."""
        return {name: one for name, one in sorted(self.collections.items()) if one is not None}
