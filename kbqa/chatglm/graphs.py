"""Steps of few shapes, which a CUDA GPU can replay: one start instead of several hundred.

To write a token takes some 25 small kernels a layer, and on a fast GPU it takes longer to start than to run them. So a
step whose inputs stand in fixed places is recorded once, as a CUDA graph, and replayed from then on. Rows are filled up
to a power of two, and what they look at to a multiple of WIDTH, so that there are few such steps.

On other devices the same step is computed and not recorded: nothing is gained there, but it can be tested.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kbqa.chatglm.cache import Cache, Rows
from kbqa.chatglm.decoder import Decoder

__all__ = ["WIDTH", "Steps"]

WIDTH = 256  # columns


class Steps:
    """For a cache that does not grow; in inference mode."""

    def __init__(self, decoder: Decoder, cache: Cache) -> None:
        self._decoder, self._cache = decoder, cache
        self._known: dict[tuple[int, int], _Step] = {}
        # One for the memory of all, since one step runs at a time.
        self._pool = torch.cuda.graph_pool_handle() if cache.keys[0].is_cuda else None

    def __call__(self, ids: list[int], at: list[int], placed: Tensor, width: int) -> Tensor:
        """(slots, vocabulary) logits for the first slots, each of which gets the id of `ids` in the column of `at`, at
        the positions `placed`, (slots, P, 1). They hold until the next call."""
        rows = min(1 << (len(ids) - 1).bit_length(), self._cache.slots)
        wide = min(-(-width // WIDTH) * WIDTH, self._cache.capacity)
        step = self._known.get((rows, wide))
        if step is None:
            step = self._known[rows, wide] = _Step(self._decoder, self._cache, rows, wide, placed.shape[1], self._pool)
        return step(ids, at, placed)[: len(ids)]


class _Step:
    """The first `rows` slots, which look at the first `width` columns."""

    def __init__(self, decoder: Decoder, cache: Cache, rows: int, width: int, kinds: int, pool: Any) -> None:
        device = decoder.device
        self._decoder, self._rows, self._idle, self._pool = decoder, rows, cache.capacity - 1, pool
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._at = torch.zeros(rows, dtype=torch.long, device=device)
        self._placed = torch.zeros(rows, kinds, 1, dtype=torch.long, device=device)
        self._columns = torch.arange(width, device=device)
        self._keys = Rows(cache, 0, self._at, width, start=None)
        self._recorded: tuple[torch.cuda.CUDAGraph, Tensor] | None = None

    def __call__(self, ids: list[int], at: list[int], placed: Tensor) -> Tensor:
        """Rows beyond those given get a dummy in the last column."""
        more = self._rows - len(ids)
        self._ids[:, 0] = torch.tensor([*ids, *[0] * more])
        self._at.copy_(torch.tensor([*at, *[self._idle] * more]))
        self._placed[: len(ids)] = placed
        if self._ids.device.type != "cuda":
            return self._compute()
        if self._recorded is None:
            with torch.cuda.device(self._ids.device):  # a thread's own is the first one, wherever the model is
                self._recorded = self._record()
        graph, logits = self._recorded
        graph.replay()
        return logits

    def _compute(self) -> Tensor:
        seen = (self._columns <= self._at[:, None])[:, None, None]
        logits: Tensor = self._decoder(self._ids, self._placed, self._keys, seen)
        return logits[:, 0]

    def _record(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Computed twice before, beside the ordinary stream, as torch wants it: kernels are chosen and loaded then.
        Each time writes the same into the cache."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(2):
                self._compute()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # What other threads do with the GPU meanwhile, as an embedder's may, is none of its business.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._compute()
        return graph, logits
