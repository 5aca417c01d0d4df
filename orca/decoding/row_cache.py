"""Keys and values of answers that are being written: rows come, grow and leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class RowCache(Cache):
    """A cache whose rows have their own lengths, for steps of one token a row.

    Rows lie in tensors [rows, heads, capacity, head size] which are written in place: appending a
    token copies nothing, a row that leaves is replaced by the last one. The caller keeps
    ``lengths`` and gives the model a mask, as positions beyond a row's length hold anything.

    Attributes:
        lengths: tokens of each row, [rows].
        capacity: tokens a row has room for.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.lengths = torch.empty(0, dtype=torch.int64)
        self.capacity = 0
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._places: tuple[torch.Tensor, torch.Tensor, int] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def num_rows(self) -> int:
        return len(self.lengths)

    def begin_step(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Make room for one token a row; positions [rows, 1] and mask [rows, 1, 1, longest]."""
        longest = int(self.lengths.max()) + 1
        rows, places = torch.arange(self.num_rows, device=device), self.lengths.to(device)
        self._places = (rows, places, longest)
        mask = torch.arange(longest, device=device) <= places[:, None]
        return {"position_ids": places[:, None], "attention_mask": mask[:, None, None, :]}

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a step's keys and values [rows, heads, 1, head size]; all that are there."""
        assert self._places is not None
        rows, places, longest = self._places
        found = []
        for store, new in ((self._keys, key_states), (self._values, value_states)):
            store[layer_idx][rows, :, places] = new[:, :, 0].to(store[layer_idx].dtype)
            found.append(store[layer_idx][: self.num_rows, :, :longest])
        return found[0], found[1]

    def end_step(self) -> None:
        """The step's tokens belong to their rows."""
        self.lengths += 1

    def reserve(self, capacity: int, rows: int) -> None:
        """Have room for ``rows`` rows of ``capacity`` tokens."""
        kept = int(self.lengths.max()) if self.num_rows else 0
        for store in (self._keys, self._values):
            for number, old in enumerate(store):
                _, heads, _, size = old.shape
                # Zeros, for what is masked is multiplied by 0 and must not be infinite.
                store[number] = old.new_zeros(rows, heads, capacity, size)
                store[number][: self.num_rows, :, :kept] = old[: self.num_rows, :, :kept]
        self.capacity = capacity

    def append(
        self, tree: DynamicCache, paths: Sequence[np.ndarray], capacity: int, rows: int
    ) -> None:
        """Add a row for each path through a tree that a model has read.

        Args:
            tree: its keys and values, a batch of 1.
            paths: places in it, of each row.
            capacity: tokens that the rows should have room for.
            rows: that will come in all, this time and the next.
        """
        layers: Any = tree.layers
        if not self._keys:
            self._keys = [_empty(layer.keys) for layer in layers]
            self._values = [_empty(layer.values) for layer in layers]
        first, last = self.num_rows, self.num_rows + len(paths)
        if capacity > self.capacity or last > len(self._keys[0]):
            self.reserve(capacity, rows)
        longest = max(len(path) for path in paths)
        places = np.stack([np.pad(path, (0, longest - len(path))) for path in paths])
        index = torch.from_numpy(places).to(layers[0].keys.device)
        for layer, keys, values in zip(layers, self._keys, self._values, strict=True):
            keys[first:last, :, :longest] = layer.keys[0][:, index].transpose(0, 1)
            values[first:last, :, :longest] = layer.values[0][:, index].transpose(0, 1)
        self.lengths = torch.cat([self.lengths, torch.tensor([len(path) for path in paths])])

    def drop(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        last = self.num_rows - 1
        length = int(self.lengths[last])
        if row != last:
            for tensor in (*self._keys, *self._values):
                tensor[row, :, :length] = tensor[last, :, :length]
            self.lengths[row] = length
        self.lengths = self.lengths[:last]


def _empty(states: torch.Tensor) -> torch.Tensor:
    """No rows, in attention's precision: autocast casts what attention is given, while keys come in
    float32 (they are turned by float32 angles) and would take twice the room."""
    device = states.device.type
    autocast = torch.is_autocast_enabled(device)
    return states[:0].to(torch.get_autocast_dtype(device) if autocast else states.dtype)
