"""A static cache of keys and values: so many slots, each for one sequence, each with room for `capacity` tokens.

Nothing is allocated while answers are written, so memory stays flat whatever comes and goes; unless somebody who does
not know how long an answer will be asks it to grow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kbqa.chatglm.architecture import Architecture

__all__ = ["Cache", "Rows"]


class Cache:
    """`keys[layer]` and `values[layer]` are (slots, G, capacity, D); keys are rotated already."""

    def __init__(
        self, architecture: Architecture, slots: int, capacity: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        a = architecture
        shape = (slots, a.groups, capacity, a.head_dim)
        self.slots, self.capacity = slots, capacity
        self.keys = [_zeros(shape, dtype, device) for _ in range(a.layers)]
        self.values = [_zeros(shape, dtype, device) for _ in range(a.layers)]

    @property
    def nbytes(self) -> int:
        return sum(it.nbytes for it in (*self.keys, *self.values))

    def grow(self, capacity: int) -> None:
        """Makes room for more tokens in every slot, layer by layer, so that only one is there twice."""
        for kept in (self.keys, self.values):
            for layer, old in enumerate(kept):
                kept[layer] = new = _zeros((*old.shape[:2], capacity, old.shape[3]), old.dtype, old.device)
                new[:, :, : self.capacity] = old
        self.capacity = capacity

    def seed(self, slot: int, prefix: Tensor) -> None:
        """Puts a P-Tuning prefix, (layers, 2, G, tokens, D), in front."""
        tokens = prefix.shape[3]
        for layer, (keys, values) in enumerate(prefix):
            self.keys[layer][slot, :, :tokens] = keys
            self.values[layer][slot, :, :tokens] = values

    def copy(self, source: int, target: int, columns: int) -> None:
        """The first `columns` of one slot to another."""
        for it in (*self.keys, *self.values):
            it[target, :, :columns] = it[source, :, :columns]

    def clear(self, slot: int, columns: int, first: int = 0) -> None:
        """Forgets what may be no numbers in the first `columns`, but for the `first` ones: even where nothing looks,
        they would spoil a sum.

        And in the last one, where idle slots get their dummies. No more: memory that nothing has touched yet stays so.
        """
        for it in (*self.keys, *self.values):
            it[slot, :, first:columns].zero_()
            it[slot, :, -1].zero_()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Which any thread may write into: what is made in inference mode could only be changed in it."""
    with torch.inference_mode(False):
        return torch.zeros(shape, dtype=dtype, device=device)


@dataclass(frozen=True, slots=True)
class Rows:
    """The slots `first`.. of a cache, each given T new tokens from column `at` on; they look at the first `width`.

    `at` is (B,), on the cache's device. Several rows at once get one new token each; a single row any number.
    """

    cache: Cache
    first: int
    at: Tensor
    width: int
    start: int | None = 0  # of a single row: at[0], known without asking the device; None: only the device knows
    check: Callable[[], None] | None = None  # called in each layer; what it raises ends the step

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.check:
            self.check()
        rows = slice(self.first, self.first + len(keys))
        kept = self.cache.keys[layer][rows], self.cache.values[layer][rows]  # views
        for new, old in zip((keys, values), kept, strict=True):
            if len(new) == 1 and self.start is not None:
                old[:, :, self.start : self.start + new.shape[2]] = new
            else:
                old[torch.arange(len(new), device=new.device), :, self.at] = new[:, :, 0]
        return kept[0][:, :, : self.width], kept[1][:, :, : self.width]
