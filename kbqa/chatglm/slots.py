"""The free slots of a cache, and what earlier answers left in them.

Who asks on in a conversation sends all of it once more. Where its beginning stands in a slot already, it is not read
again: the new request gets that slot, or a copy of those columns where somebody else may still want the rest of them.
Keys and values of a token depend on what stands before it alone; but for ChatGLM-6B, where nothing can be shared.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

from torch import Tensor

from kbqa.chatglm.cache import Cache
from kbqa.chatglm.lora import Lora

__all__ = ["Content", "Slots"]

WORTH = 16  # tokens: to read fewer takes no longer than to read none


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """The tokens that stand in a slot, what they were read with, and for whom."""

    ids: Many[int]
    prefix: Tensor | None
    lora: Lora | None
    owner: str | None

    def shared(self, other: Content) -> int:
        """How many first tokens of `other` need not be read; its last one must, to know what follows.

        None of another owner's: how soon an answer begins would tell what he has asked.
        """
        if self.owner != other.owner or self.prefix is not other.prefix or self.lora is not other.lora:
            return 0
        pairs = enumerate(zip(self.ids, other.ids[:-1], strict=False))
        return next((at for at, (one, two) in pairs if one != two), min(len(self.ids), len(other.ids) - 1))


class Slots:
    def __init__(self, cache: Cache, shares: bool) -> None:
        self._cache, self._shares = cache, shares
        self.free = list(range(cache.slots))
        self._left: dict[int, Content] = {}  # of free slots, the oldest first

    def take(self, wanted: Content, running: dict[int, Content]) -> tuple[int, int]:
        """(a slot, how many first tokens of `wanted` stand in it)"""
        known, source = max(((it.shared(wanted), slot) for slot, it in (self._left | running).items()), default=(0, 0))
        if not self._shares or known < WORTH:
            known, slot = 0, self._spare(running)
        elif source in self.free and known >= 0.75 * len(self._left[source].ids):
            slot = source
        else:
            slot = self._spare(running)
            self._cache.copy(source, slot, known + (0 if wanted.prefix is None else wanted.prefix.shape[3]))
        self.free.remove(slot)
        self._left.pop(slot, None)
        return slot, known

    def give_back(self, slot: int, left: Content | None) -> None:
        """`left`: what stands there and may be used again."""
        self.free.append(slot)
        if left is not None and self._shares:
            self._left[slot] = left

    def _spare(self, running: dict[int, Content]) -> int:
        """Slots in use stay close together, since those between are computed with them; then the longest unused."""
        used = list(self._left)

        def cost(slot: int) -> tuple[int, int, int]:
            taken = [slot, *running]
            return max(taken) - min(taken), used.index(slot) if slot in self._left else -1, slot

        return min(self.free, key=cost)
