"""The candidates' chunks, read when they are looked at; hits with what stands around them, as texts for the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kbqa.types import Chunk, Hit

if TYPE_CHECKING:
    from kbqa.store import Store

__all__ = ["Passages", "expand"]


class Passages(Mapping[int, "Chunk"]):
    """Chunks by id, those of `ids` that still exist. Their titles are there at once; of a hundred candidates hardly any
    chunk is looked at, and the first one that is brings all others with it, unless `read` has asked for some before."""

    def __init__(self, store: Store, ids: Iterable[int]) -> None:
        self.titles: Mapping[int, str] = store.titles(ids)
        self._store = store
        self._read: dict[int, Chunk] = {}

    def __getitem__(self, chunk_id: int) -> Chunk:
        """KeyError also for one that was removed since."""
        if chunk_id not in self._read and chunk_id in self.titles:
            self.read(self.titles)
        return self._read[chunk_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self.titles)

    def __len__(self) -> int:
        return len(self.titles)

    def __contains__(self, chunk_id: object) -> bool:
        return chunk_id in self.titles

    def read(self, ids: Iterable[int]) -> list[int]:
        """Reads these at once; those that are still there, in the order given."""
        ids = list(ids)
        self._read |= self._store.chunks([i for i in ids if i not in self._read])
        return [i for i in ids if i in self._read]


def expand(hits: Iterable[Hit], store: Store, neighbours: int) -> list[tuple[str, tuple[Chunk, ...]]]:
    """Each hit with the chunks around it in the same section, as one text and the chunks it was made of.

    A hit that already stands in the passage of a better one gets none of its own.
    """
    with store.steady():
        return list(_expanded(hits, store, neighbours))


def _expanded(hits: Iterable[Hit], store: Store, neighbours: int) -> Iterator[tuple[str, tuple[Chunk, ...]]]:
    shown: set[int] = set()
    for hit in hits:
        chunk = hit.chunk
        if chunk.id in shown:
            continue
        around = store.neighbours(chunk.source, chunk.ordinal - neighbours, chunk.ordinal + neighbours)
        run = [other for other in around if other.heading == chunk.heading and other.id not in shown] or [chunk]
        run = _run_around(run, chunk.ordinal)
        shown |= {other.id for other in run}
        yield _joined(run), tuple(run)


def _run_around(chunks: Sequence[Chunk], ordinal: int) -> list[Chunk]:
    """The unbroken run of ordinals that holds `ordinal`."""
    by_ordinal = {chunk.ordinal: chunk for chunk in chunks}
    first = last = ordinal
    while first - 1 in by_ordinal:
        first -= 1
    while last + 1 in by_ordinal:
        last += 1
    return [by_ordinal[at] for at in range(first, last + 1)]


def _joined(chunks: Sequence[Chunk]) -> str:
    """Neighbouring chunks as one text: the context first, overlaps once."""
    first = chunks[0]
    text = first.passage
    end = first.span[1]
    for chunk in chunks[1:]:
        overlap = end - chunk.span[0]
        text += chunk.text[overlap:] if overlap >= 0 else f"\n{chunk.text}"
        end = chunk.span[1]
    return f"{first.context}\n{text}" if first.context else text
