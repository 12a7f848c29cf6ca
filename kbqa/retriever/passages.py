"""Hits with what stands around them, as the texts that go into the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kbqa.types import Chunk, Hit

if TYPE_CHECKING:
    from kbqa.store import Store

__all__ = ["expand"]


def expand(hits: Iterable[Hit], store: Store, neighbours: int) -> list[tuple[str, tuple[Chunk, ...]]]:
    """Each hit with the chunks around it in the same section, as one text and the chunks it was made of.

    A hit that already stands in the passage of a better one gets none of its own.
    """
    passages: list[tuple[str, tuple[Chunk, ...]]] = []
    shown: set[int] = set()
    for hit in hits:
        chunk = hit.chunk
        if chunk.id in shown:
            continue
        around = store.neighbours(chunk.source, chunk.ordinal - neighbours, chunk.ordinal + neighbours)
        run = [other for other in around if other.heading == chunk.heading and other.id not in shown] or [chunk]
        run = _run_around(run, chunk.ordinal)
        shown |= {other.id for other in run}
        passages.append((_joined(run), tuple(run)))
    return passages


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
