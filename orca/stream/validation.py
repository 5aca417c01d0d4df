"""Validation traces as micro-batches, each of one group of traces: the loss is known by group."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from orca.stream.batches import IGNORED, MicroBatch, collate
from orca.stream.encode import Encoder, Example
from orca.stream.packing import Pack, best_fit_decreasing
from orca.traces import Trace

MOST_GROUPS = 24
"""More would hide each other in a chart."""
REST = "other"


class ValidationLoader:
    """This rank's validation micro-batches (a bare list would mean several loaders to Lightning).

    Every rank runs as many forward passes as the others; a pack that is repeated for that has no
    targets. The groups are mixed, so that the first few batches
    (``trainer.limit_val_batches``) have a share of each.
    """

    def __init__(self, packs: Mapping[str, Sequence[Pack]], world_size: int, rank: int) -> None:
        places = {
            (group, i): (i + 0.5) / len(own)
            for group, own in packs.items()
            for i in range(len(own))
        }
        own = [(group, packs[group][i]) for group, i in sorted(places, key=places.__getitem__)]
        rounds = -(-len(own) // world_size)
        self.batches = []
        for place in range(rank, rounds * world_size, world_size):
            group, pack = own[place % len(own)]
            batch = replace(collate([pack]), group=group)
            if place >= len(own):
                batch.labels.fill_(IGNORED)
            self.batches.append(batch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.batches)


def groups_of(traces: Sequence[Trace]) -> list[str]:
    """Each trace's sub-collection; its task where all are of one sub-collection.

    The rarest groups are one, so that there are no more than ``MOST_GROUPS``.
    """
    names = [trace.sub_collection for trace in traces]
    if len(set(names)) < 2:
        names = [trace.task for trace in traces]
    names = [name or REST for name in names]
    counts = Counter(names)
    if len(counts) <= MOST_GROUPS:
        return names
    kept = {name for name, _ in counts.most_common(MOST_GROUPS - 1)}
    return [name if name in kept else REST for name in names]


def pack_by_group(
    encoder: Encoder, traces: Sequence[Trace], capacity: int
) -> tuple[dict[str, list[Pack]], int]:
    """Packs by group, in the groups' alphabetical order, and how many traces were too long."""
    examples: dict[str, list[Example]] = defaultdict(list)
    too_long = 0
    for group, one in zip(groups_of(traces), encoder.encode(traces), strict=True):
        if isinstance(one, Example):
            examples[group].append(one)
        else:
            too_long += 1
    packs = {}
    for group in sorted(examples):
        own = examples[group]
        bins = best_fit_decreasing([len(one.tokens) for one in own], capacity)
        packs[group] = [Pack([own[i] for i in indices]) for indices in bins]
    return packs, too_long
