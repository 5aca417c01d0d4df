"""What a plan assumes: the device, the speed, the lengths of the examples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orca.errors import UserError
from orca.training.flops import Device, known_device
from orca.training.memory import GIB, Memory


@dataclass(frozen=True)
class Lengths:
    """The examples of a part of the data.

    Args:
        examples: of one epoch.
        tokens_per_example: mean.
        target_share: target tokens of all tokens.
        spread: mean squared length over squared mean length, at least 1.
    """

    examples: int
    tokens_per_example: float
    target_share: float
    spread: float

    def __post_init__(self) -> None:
        if (
            self.examples < 1
            or self.tokens_per_example < 1
            or not 0 < self.target_share <= 1
            or self.spread < 1
        ):
            raise UserError(f"planning.parts: {self} has a figure that cannot be")


@dataclass(frozen=True)
class Planning:
    """What ``plan=true`` assumes.

    Args:
        device: a name in :data:`orca.training.flops.DEVICES`.
        memory_gib: of one device; None for the table's.
        mfu: share of the dense bf16 peak that training reaches, recomputation not counted.
        reserve_gib: CUDA context, buffers of NCCL and cuBLAS.
        fragmentation: share of what is allocated that the allocator cannot use.
        fill: share of a pack that holds tokens.
        parts: lengths by part of the data.
        data_card: a ``data_card.json`` whose lengths and fill replace the assumed ones.
    """

    device: str
    mfu: float
    reserve_gib: float
    fragmentation: float
    fill: float
    parts: Mapping[str, Mapping[str, float]]
    memory_gib: float | None = None
    data_card: str | None = None

    def __post_init__(self) -> None:
        known_device(self.device)
        for name in ("mfu", "fill"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"planning.{name}={getattr(self, name)} must lie in (0, 1]")
        if self.memory_gib is not None and self.memory_gib <= 0:
            raise UserError(f"planning.memory_gib={self.memory_gib} must be positive, or null")
        if self.reserve_gib < 0 or self.fragmentation < 0:
            raise UserError("planning.reserve_gib and planning.fragmentation cannot be negative")

    @property
    def hardware(self) -> Device:
        return known_device(self.device)

    @property
    def room(self) -> float:
        """Bytes of one device."""
        return GIB * (self.memory_gib or self.hardware.memory_gib)

    def needed(self, found: Memory) -> float:
        """Bytes of a device with reserve and fragmentation."""
        return found.total * (1 + self.fragmentation) + self.reserve_gib * GIB

    def lengths(self, part: str, capacity: int) -> tuple[Lengths, float, str]:
        """Lengths and fill of a part, and where they come from.

        Raises:
            UserError: nothing is assumed of this part, or the card says too little.
        """
        if part not in self.parts:
            raise UserError(
                f"nothing is assumed of the data's part {part!r}. Give "
                f"planning.parts.{part}.examples, tokens_per_example, target_share and spread"
            )
        assumed = Lengths(**self.parts[part])  # type: ignore[arg-type]
        if self.data_card is None:
            if assumed.tokens_per_example > capacity:
                raise UserError(
                    f"planning.parts.{part}.tokens_per_example={assumed.tokens_per_example:g} does "
                    f"not fit data.max_tokens={capacity}. Say how long examples are in such packs"
                )
            return assumed, self.fill, "assumed (planning.parts)"
        return _from_card(Path(self.data_card), part, assumed, capacity)


def _from_card(
    file: Path, part: str, assumed: Lengths, capacity: int
) -> tuple[Lengths, float, str]:
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
        totals = card["totals"]
        examples, tokens, targets = (totals[n] for n in ("examples", "tokens", "target_tokens"))
        mean, share = tokens / examples, targets / tokens
        squares = totals.get("sum_of_squares", assumed.spread * mean**2 * examples)
    except (OSError, ValueError, KeyError, ZeroDivisionError) as error:
        raise UserError(
            f"planning.data_card={file} is no data card with examples ({error!r})"
        ) from None
    if card["capacity"] != capacity or not str(card["title"]).endswith(f", {part}"):
        raise UserError(
            f"planning.data_card={file} is of {card['title']!r} in packs of {card['capacity']}; "
            f"this stage trains on part {part!r} in packs of {capacity}. Plan one stage at a time"
        )
    lengths = Lengths(assumed.examples, mean, share, max(squares / examples / mean**2, 1.0))
    return lengths, card["fill"], f"{file} ({examples:,} examples); their number is assumed"
