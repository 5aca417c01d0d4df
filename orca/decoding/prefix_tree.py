"""Token sequences as one row for a model, with the beginnings that they share computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

Ids = np.ndarray
"""Token ids, int64 [length]."""


class PrefixTree:
    """Sequences as a tree of tokens, for one forward pass over a batch of 1.

    A token attends to its ancestors, which are the tokens before it in its sequence, so that the
    model sees each sequence as if it were alone. Nothing is padded, and a passage that several
    questions quote, a prompt that is asked several times, or the prompt before several options
    costs its tokens once. Of the tree that was read ``before``, the keys and values of what its
    last sequence shares with this one's first are taken over.

    Attributes:
        paths: of each sequence, the places of its tokens in ``cache``.
        num_tokens: that the forward pass reads.
        cache: keys and values, after :meth:`read`.
    """

    def __init__(self, before: PrefixTree | None = None) -> None:
        self.paths: list[np.ndarray] = []
        self.num_tokens = 0
        self.cache = DynamicCache()
        self._known = 0
        self._before = before
        self._ids: list[Ids] = []
        self._shared: list[int] = []  # of each sequence, tokens that were there already

    def cost(self, ids: Ids) -> int:
        """Tokens that adding a sequence to a tree would add."""
        return len(ids) - shared_length(self._ids[-1], ids)

    def add(self, ids: Ids, begin: int) -> None:
        """Add a sequence. It shares with the one before it only: add them in sorted order.

        Args:
            begin: the first token whose logits will be asked for.
        """
        previous = self if self.paths else self._before
        shared = shared_length(previous._ids[-1], ids) if previous else 0
        if not self.paths:
            self._known = shared = min(shared, begin)  # what is taken over has no logits here
            self.paths.append(np.arange(len(ids)))
        else:
            if shared > begin and self.paths[-1][begin] < self._known:
                shared = begin
            start = self._known + self.num_tokens
            new = np.arange(start, start + len(ids) - shared)
            self.paths.append(np.concatenate([self.paths[-1][:shared], new]))
        self._ids.append(ids)
        self._shared.append(shared)
        self.num_tokens += len(ids) - shared

    @torch.inference_mode()
    def read(self, causal_lm: Any, places: np.ndarray) -> torch.Tensor:
        """Logits [places, vocabulary] at places of :attr:`paths`; fills :attr:`cache`."""
        device = causal_lm.get_input_embeddings().weight.device
        if self._before is not None and self._known:
            taken = torch.from_numpy(self._before.paths[-1][: self._known]).to(device)
            layers: Any = self._before.cache.layers
            for number, layer in enumerate(layers):
                self.cache.update(layer.keys[:, :, taken], layer.values[:, :, taken], number)
        self._before = None
        sequences = list(zip(self._ids, self._shared, self.paths, strict=True))
        ids = np.concatenate([ids[shared:] for ids, shared, _ in sequences])
        positions = np.concatenate([np.arange(shared, len(ids)) for ids, shared, _ in sequences])
        mask = np.zeros((self.num_tokens, self._known + self.num_tokens), dtype=bool)
        for _, shared, path in sequences:
            own = path[shared:]
            rows = own - self._known
            mask[rows[:, None], path[:shared]] = True
            mask[rows[:, None], own] = np.tri(len(own), dtype=bool)
        return causal_lm(
            torch.from_numpy(ids)[None].to(device),
            position_ids=torch.from_numpy(positions)[None].to(device),
            attention_mask=torch.from_numpy(mask)[None, None].to(device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=torch.from_numpy(places - self._known).to(device),
        ).logits[0]


def shared_length(a: Ids, b: Ids) -> int:
    """Length of the common beginning."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size
