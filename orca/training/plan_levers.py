"""Which change of the options makes a run fit its devices, by planning it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from orca.training.levers import CHECKPOINTING
from orca.training.memory import Setup, Shape, memory
from orca.training.planning import Planning

EIGHT_BIT = 2 * (1 + 4 / 256)
"""Bytes of AdamW's two moments in 8 bits, in blocks of 256 with a float32 scale."""

MOST_NODES = 128
"""More ranks are looked for up to here."""


@dataclass(frozen=True)
class Lever:
    """A change of the options and what it makes of a device's memory, in bytes."""

    options: str
    needed: float
    fits: bool


def levers(shape: Shape, setup: Setup, planning: Planning, share: float) -> list[Lever]:
    """What each change alone makes of the memory, the strongest together where none is enough,
    and the number of ranks that fits with all else equal."""

    def lever(options: str, changed: Setup) -> Lever:
        needed = planning.needed(memory(shape, changed, share))
        return Lever(options, needed, needed <= planning.room)

    def strongest(first: Setup) -> tuple[str, Setup]:
        same = [
            (options, changed)
            for options, changed in _changes(first)
            if changed.strategy == first.strategy and changed.checkpointing != "selective"
        ]
        return min(same, key=lambda c: lever(*c).needed, default=("", first))

    found = [lever(options, changed) for options, changed in _changes(setup)]
    if not any(one.fits for one in found):
        options, together = list[str](), setup
        while not lever("", together).fits:
            option, together = strongest(together)
            if not option:
                break
            options.append(option)
        found.append(lever(" ".join(options), together))
    return found + _more_ranks(shape, setup, planning, share)


def _changes(setup: Setup) -> Iterator[tuple[str, Setup]]:
    place = CHECKPOINTING.index(setup.checkpointing)
    for mode in CHECKPOINTING[place + 1 :]:
        yield f"activation_checkpointing={mode}", replace(setup, checkpointing=mode)
    if setup.loss_chunk > 256:
        yield "loss_chunk=256", replace(setup, loss_chunk=256)
    if setup.micro_batch > 1:
        yield "data.micro_batch=1", replace(setup, micro_batch=1)
    if setup.optimizer_bytes == 8:
        yield "optimizer=adamw_8bit", replace(setup, optimizer_bytes=EIGHT_BIT)
    if setup.sharded and setup.reduce_bytes == 4 and setup.mixed:
        changed = replace(setup, reduce_bytes=2)
        yield "strategy.strategy.reduce_dtype=bfloat16", changed
    if setup.sharded and not setup.cpu_offload:
        yield "strategy.strategy.cpu_offload=true", replace(setup, cpu_offload=True)
    if not setup.sharded and setup.ranks > 1 and setup.lora_rank is None:
        yield "strategy=fsdp", replace(setup, strategy="fsdp")
    if setup.lora_rank is None:
        name = "single" if setup.ranks == 1 else "ddp"  # FSDP2 does not go with adapters
        changed = replace(setup, lora_rank=16, strategy=name, replicas=1, cpu_offload=False)
        yield f"model/adapter=lora strategy={name}", changed


def _more_ranks(shape: Shape, setup: Setup, planning: Planning, share: float) -> list[Lever]:
    """The fewest ranks, by doubling, that fit with all else equal."""
    if setup.lora_rank is not None or (not setup.sharded and setup.ranks > 1):
        return []
    devices, nodes = setup.devices, setup.nodes
    while nodes <= MOST_NODES:
        devices, nodes = (devices * 2, nodes) if devices < 8 else (devices, nodes * 2)
        changed = replace(
            setup,
            strategy="fsdp" if setup.ranks == 1 else setup.strategy,
            devices=devices,
            nodes=nodes,
        )
        needed = planning.needed(memory(shape, changed, share))
        if needed <= planning.room:
            sharded = "strategy=fsdp " if setup.ranks == 1 else ""
            options = f"{sharded}trainer.devices={devices} trainer.num_nodes={nodes}"
            return [Lever(options, needed, True)]
    return []
