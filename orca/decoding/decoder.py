"""Answers of a causal LM in this process, many at a time: rows leave when they end, others come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from orca.decoding.prefix_tree import Ids, PrefixTree
from orca.decoding.row_cache import RowCache
from orca.errors import UserError

CPU_TREE_TOKENS = 512
GPU_TREE_TOKENS = 2048
"""Tokens of a forward pass over prompts: enough for full speed; with more, attention to other
prompts' tokens, which is masked and computed nonetheless, takes over."""

ROOM = 128
"""Tokens of an answer that a row of the cache has room for at first, and by which it grows."""

MOST_ROWS = 256
"""Answers written at a time; more cost memory for logits and hardly save time."""


class Row:
    """An answer that is being written.

    Attributes:
        index: of the caller.
        ids: of the prompt and, after ``prompt_tokens``, of the answer so far.
        seed: of the sampling.
        limit: tokens that the answer may have.
        ended: an end-of-sequence token came, the last of ``ids``.
        seconds: between the prompt's forward pass and the answer's end.
    """

    def __init__(self, index: int, prompt: Sequence[int], seed: int, limit: int) -> None:
        self.index = index
        self.ids = list(prompt)
        self.prompt_tokens = len(prompt)
        self.seed = seed
        self.limit = limit
        self.ended = False
        self.seconds = 0.0
        self.started = 0.0
        # One number a token, of the seed alone: batch and restarts change nothing.
        self.uniform = np.random.default_rng(seed).random(limit)

    @property
    def new_ids(self) -> list[int]:
        return self.ids[self.prompt_tokens :]


@dataclass(frozen=True, slots=True)
class Question:
    """Continuations of one text to compare.

    Attributes:
        index: of the caller.
        sequences: the text with each continuation.
        begin: tokens of the text, from 1 on.
    """

    index: int
    sequences: Sequence[Ids]
    begin: int


class Decoder:
    """Continues rows of tokens.

    Args:
        causal_lm: of `transformers`, with full attention, on its device.
        end_ids: tokens that end an answer.
        tokens_per_batch: tokens in the cache at most (a single row may have more). Where the
            device's memory does not suffice, the number is halved and the rows begin again; of a
            sharded model, whose ranks must call it in step, that is an error.
    """

    def __init__(self, causal_lm: Any, end_ids: set[int], tokens_per_batch: int) -> None:
        self.causal_lm = causal_lm
        self.end_ids = end_ids
        self.tokens_per_batch = tokens_per_batch
        self.device = causal_lm.get_input_embeddings().weight.device
        self.tree_tokens = CPU_TREE_TOKENS if self.device.type == "cpu" else GPU_TREE_TOKENS
        self.sharded = any(isinstance(module, FSDPModule) for module in causal_lm.modules())
        self._before: PrefixTree | None = None

    @torch.inference_mode()
    def generate(self, rows: Iterable[Row], temperature: float) -> Iterator[Row]:
        """Writes every row's answer to its end; rows come back as they end."""
        # Neighbours share beginnings and have similar lengths; the longest come first.
        waiting = deque(sorted(rows, key=lambda row: (-(len(row.ids) // 128), row.ids)))
        active: list[Row] = []
        cache = RowCache()
        while waiting or active:
            try:
                room = self._room(active, waiting)
                if room:
                    logits = self._admit(active, waiting, cache, room)
                    written = active[-len(logits) :]
                else:
                    self._make_room(active, waiting, cache)
                    logits, written = self._step(active, cache), active
                chosen = choose(logits, written, temperature)
            except torch.OutOfMemoryError:
                if self.sharded:
                    raise UserError(
                        f"this rank's memory does not suffice for {self.tokens_per_batch:,} tokens "
                        "of answers beside its part of the model: ask for fewer and shorter answers"
                    ) from None
                if self.tokens_per_batch <= 2 * ROOM:
                    raise UserError("the device's memory does not suffice for one answer") from None
                self.tokens_per_batch //= 2
                waiting.extendleft(reversed(active))
                active, cache, self._before = [], RowCache(), None
                continue
            for row, token in zip(written, chosen, strict=True):
                row.ids.append(token)
                row.ended = token in self.end_ids
            for number in reversed(range(len(active))):
                row = active[number]
                if row.ended or len(row.ids) - row.prompt_tokens == row.limit:
                    row.seconds = time.monotonic() - row.started
                    cache.drop(number)
                    active[number] = active[-1]
                    active.pop()
                    yield row

    @torch.inference_mode()
    def stream(self, row: Row, temperature: float) -> Iterator[int]:
        """Writes one row's answer and gives each token as soon as it is chosen, an end token too.

        What the prompt shares with that of the row before is not read again.
        """
        active: list[Row] = []
        cache = RowCache()
        logits = self._admit(active, deque([row]), cache, 1)
        while True:
            token = choose(logits, active, temperature)[0]
            row.ids.append(token)
            row.ended = token in self.end_ids
            yield token
            if row.ended or len(row.new_ids) == row.limit:
                row.seconds = time.monotonic() - row.started
                return
            self._make_room(active, deque(), cache)
            logits = self._step(active, cache)

    def _room(self, active: list[Row], waiting: deque[Row]) -> int:
        """How many of the waiting rows may come now: none, or a good part of a batch."""
        if not waiting:
            return 0
        longest = max(len(row.ids) for row in (*active, waiting[0]))
        most = max(1, min(MOST_ROWS, self.tokens_per_batch // capacity_for(longest)))
        room = most - len(active)
        return room if room >= most / 4 else 0

    def _admit(
        self, active: list[Row], waiting: deque[Row], cache: RowCache, room: int
    ) -> torch.Tensor:
        """Read the next prompts; logits [rows, vocabulary] of the first tokens."""
        tree, rows = PrefixTree(self._before), list[Row]()
        while waiting and len(rows) < room:
            ids = np.asarray(waiting[0].ids)
            if rows and tree.num_tokens + tree.cost(ids) > self.tree_tokens:
                break
            rows.append(waiting.popleft())
            tree.add(ids, len(ids) - 1)
        try:
            logits = tree.read(self.causal_lm, np.array([path[-1] for path in tree.paths]))
            longest = max(len(row.ids) for row in (*active, *rows))
            coming = len(active) + min(room, len(rows) + len(waiting))
            cache.append(tree.cache, tree.paths, capacity_for(longest), coming)
        except torch.OutOfMemoryError:
            waiting.extendleft(reversed(rows))
            raise
        self._before = tree
        for row in rows:
            row.started = time.monotonic()
        active.extend(rows)
        return logits

    def _make_room(self, active: list[Row], waiting: deque[Row], cache: RowCache) -> None:
        """Let every row grow by one token; the last ones wait again where memory is short."""
        longest = max(len(row.ids) for row in active)
        if longest <= cache.capacity:
            return
        capacity = capacity_for(longest)
        while len(active) > 1 and len(active) * capacity > self.tokens_per_batch:
            cache.drop(len(active) - 1)
            waiting.appendleft(active.pop())
        cache.reserve(capacity, len(active))

    def _step(self, active: list[Row], cache: RowCache) -> torch.Tensor:
        """The cache holds all of a row but its last token: read that."""
        tokens = torch.tensor([[row.ids[-1]] for row in active], device=self.device)
        logits = self.causal_lm(
            tokens, **cache.begin_step(self.device), past_key_values=cache, use_cache=True
        ).logits[:, -1]
        cache.end_step()
        return logits

    @torch.inference_mode()
    def loglikelihoods(self, questions: Sequence[Question]) -> Iterator[tuple[int, list[float]]]:
        """(index, log-probability of each sequence from where its continuation begins)."""
        waiting = deque(sorted(questions, key=lambda question: question.sequences[0].tolist()))
        tree: PrefixTree | None = None
        while waiting:
            tree, asked = PrefixTree(tree), list[Question]()
            while waiting:
                inputs = [ids[:-1] for ids in waiting[0].sequences]  # the last is asked for alone
                if asked and tree.num_tokens + tree.cost(inputs[0]) > self.tree_tokens:
                    break
                asked.append(waiting.popleft())
                for ids in inputs:
                    tree.add(ids, asked[-1].begin - 1)
            paths = iter(tree.paths)
            scored = [(q, ids, next(paths)[q.begin - 1 :]) for q in asked for ids in q.sequences]
            places, inverse = np.unique(np.concatenate([s[2] for s in scored]), return_inverse=True)
            targets = np.concatenate([ids[question.begin :] for question, ids, _ in scored])
            logits = tree.read(self.causal_lm, places)
            chosen = torch.log_softmax(logits.float(), dim=-1)[inverse, targets].double().cpu()
            sums = iter(part.sum().item() for part in chosen.split([len(s[2]) for s in scored]))
            for question in asked:
                yield question.index, [next(sums) for _ in question.sequences]


def capacity_for(tokens: int) -> int:
    """Room for a row of ``tokens`` that goes on growing, so that rooms seldom change."""
    return (tokens // ROOM + 2) * ROOM


def choose(logits: torch.Tensor, rows: Sequence[Row], temperature: float) -> list[int]:
    """The next token of each row: the most likely, or by the row's number in [0, 1).

    The number picks a place on the cumulative distribution, which needs one number a token where
    noise on every logit would need one for every word of the vocabulary.
    """
    if temperature == 0:
        return logits.argmax(dim=-1).tolist()
    numbers = [row.uniform[len(row.ids) - row.prompt_tokens] for row in rows]
    place = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None]
    cumulative = torch.softmax(logits.float() / temperature, dim=-1).double().cumsum(dim=-1)
    chosen = torch.searchsorted(cumulative, place * cumulative[:, -1:], right=True)
    return chosen[:, 0].clamp(max=logits.shape[-1] - 1).tolist()
