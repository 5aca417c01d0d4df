"""Packs → the micro-batches of one optimizer step, balanced over ranks.

Every rank sees the whole global batch, so each knows without communication how many target tokens
the step has (the exact loss normalisation) and which packs are its own.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from orca.stream.packing import Pack
from orca.stream.stream import PackStream, StreamPack, StreamState

IGNORED = -100
"""Label of a position that is not trained on."""


@dataclass(slots=True)
class MicroBatch:
    """Packs laid end to end, without padding; T tokens in n examples.

    Attributes:
        input_ids: int64 [1, T].
        position_ids: int64 [1, T], restarting at 0 with every example (see :func:`collate`).
        labels: int64 [1, T]; the *next* token of the same example where that is a target,
            ``IGNORED`` elsewhere (the shift is done here, within examples).
        boundaries: int32 [n + 1], cumulative example lengths (flash attention's cu_seqlens).
        longest: length of the longest example.
        example_ids: ids of the n examples (none for an idle micro-batch).
        group: of validation, what its examples have in common.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    boundaries: torch.Tensor
    longest: int
    example_ids: list[str] = field(default_factory=list)
    group: str = ""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MicroBatch:
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("input_ids", "position_ids", "labels", "boundaries")
        }
        return replace(self, **moved)


@dataclass(slots=True)
class StepBatch:
    """What one rank needs for one optimizer step.

    ``packs`` is the global batch, the same on all ranks; ``micro_batches`` is this rank's share.
    ``progress`` is where the step begins and ends in the run, as fractions of the rows to read.
    ``wait_seconds`` is how long the consumer stood still for this step: from asking the loader for
    it to getting it.
    """

    micro_batches: list[MicroBatch]
    packs: list[StreamPack]
    num_targets: int
    num_tokens: int
    progress: tuple[float, float]
    wait_seconds: float

    @property
    def state(self) -> StreamState:
        """The stream's state once this step is done."""
        return self.packs[-1].state

    @property
    def example_ids(self) -> list[str]:
        return [example.id for item in self.packs for example in item.pack.examples]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> StepBatch:
        moved = [micro.to(device, non_blocking) for micro in self.micro_batches]
        return replace(self, micro_batches=moved)


def collate(packs: Sequence[Pack], isolate: bool = True) -> MicroBatch:
    """Lay the packs' examples end to end.

    Args:
        isolate: False lets an example attend to those before it in its pack, with positions that
            run on: a pack is one sequence, as in packing without boundaries. Targets stay the same.
    """
    examples = [example for pack in packs for example in pack.examples]
    tokens = [torch.from_numpy(example.tokens).long() for example in examples]
    labels = []
    for ids, example in zip(tokens, examples, strict=True):
        shifted = torch.full_like(ids, IGNORED)
        first = max(example.num_prompt - 1, 0)
        shifted[first:-1] = ids[first + 1 :]
        labels.append(shifted)
    lengths = [len(ids) for ids in tokens] if isolate else [pack.num_tokens for pack in packs]
    return MicroBatch(
        input_ids=torch.cat(tokens)[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        labels=torch.cat(labels)[None],
        boundaries=torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32),
        longest=max(lengths),
        example_ids=[example.id for example in examples],
    )


def idle_micro_batch(token: int) -> MicroBatch:
    """A micro-batch without targets, for a rank that has no pack left in a step's last round:
    under sharding every rank must run the same number of forward passes."""
    return MicroBatch(
        input_ids=torch.full((1, 2), token),
        position_ids=torch.arange(2)[None],
        labels=torch.full((1, 2), IGNORED),
        boundaries=torch.tensor([0, 2], dtype=torch.int32),
        longest=2,
    )


def balance(costs: Sequence[float], ranks: int, micro_packs: int) -> list[list[list[int]]]:
    """Share packs out by longest processing time first.

    Args:
        costs: cost of each pack of the global batch.
        micro_packs: most packs of a micro-batch.

    Returns:
        ``[rank][round]`` → indices of packs. Rounds hold micro-batches of similar cost, because
        ranks wait for each other in every round. An index list may be empty.
    """
    rounds = -(-len(costs) // (ranks * micro_packs))
    slots: list[list[int]] = [[] for _ in range(ranks * rounds)]
    loads = [0.0] * len(slots)
    open_slots = [(0.0, slot) for slot in range(len(slots))]  # a heap: the least loaded first
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, slot = heapq.heappop(open_slots)
        slots[slot].append(index)
        loads[slot] = load + costs[index]
        if len(slots[slot]) < micro_packs:
            heapq.heappush(open_slots, (loads[slot], slot))
    by_load = sorted(range(len(slots)), key=lambda s: (-loads[s], s))
    return [
        [sorted(slots[by_load[r * ranks + rank]]) for r in range(rounds)] for rank in range(ranks)
    ]


class StepLoader:
    """Iterate over this rank's :class:`StepBatch` of every optimizer step.

    Args:
        global_batch: packs of one optimizer step, over all ranks and micro-batches.
        micro_batch: packs of one forward pass.
        attention_cost: weight of Σ length² against tokens in a pack's cost; 1 / (6 · hidden
            size) is about right for a dense decoder.
        begun: rows read before the stream's state, for ``progress`` after a resume.
        isolate: as in :func:`collate`.
    """

    def __init__(
        self,
        stream: PackStream,
        *,
        global_batch: int,
        micro_batch: int,
        world_size: int = 1,
        rank: int = 0,
        attention_cost: float = 1e-4,
        begun: float = 0.0,
        isolate: bool = True,
    ) -> None:
        self.stream = stream
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self.world_size = world_size
        self.rank = rank
        self.attention_cost = attention_cost
        self.begun = begun
        self.isolate = isolate
        self.ended_with: StreamState | None = None

    def __iter__(self) -> Iterator[StepBatch]:
        total, begun = self.stream.num_examples, self.begun
        waiting: list[StreamPack] = []
        last = self.stream.state
        asked = time.perf_counter()  # of the consumer, for the next step
        for item in self.stream:
            waiting.append(item)
            if len(waiting) == self.global_batch:
                yield self._step(waiting, begun / total, waiting[-1].examples_read / total, asked)
                asked = time.perf_counter()
                begun, waiting = waiting[-1].examples_read, []
            last = item.state
        self.ended_with = last
        if waiting:
            yield self._step(waiting, begun / total, 1.0, asked)

    def _step(self, packs: list[StreamPack], start: float, end: float, asked: float) -> StepBatch:
        costs = [
            item.pack.num_tokens + self.attention_cost * item.pack.sum_of_squares for item in packs
        ]
        mine = balance(costs, self.world_size, self.micro_batch)[self.rank]
        idle = self.stream.encoder.tokenizer.eos_token_id
        micro_batches = [
            collate([packs[i].pack for i in chosen], self.isolate)
            if chosen
            else idle_micro_batch(idle)
            for chosen in mine
        ]
        return StepBatch(
            micro_batches=micro_batches,
            packs=packs,
            num_targets=sum(item.pack.num_targets for item in packs),
            num_tokens=sum(item.pack.num_tokens for item in packs),
            progress=(start, end),
            wait_seconds=time.perf_counter() - asked,
        )
