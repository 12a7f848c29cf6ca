"""What a search looks at: the base at one moment, in memory or memory-mapped, never changed afterwards.

`load` reads it from the catalogue and the derived indexes, starting from the snapshot before where that helps: while
the generation stays, only what was added and removed since is read.

A derived file that is missing or damaged is replaced by an index in memory (or in a temporary folder), made from the
catalogue; so is one that lags far behind. Before that, the store lets a writer mend it for good where it may.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kbqa.store.catalogue import Passport, State, last_chunk_id, read_chunks, read_passport, read_state, read_vectors
from kbqa.store.derived import (
    IndexRow,
    Limits,
    Piece,
    build_segment,
    build_words,
    gaps,
    open_segment,
    open_words,
    read_rows,
)
from kbqa.store.errors import DamagedIndex
from kbqa.store.files import INDEX
from kbqa.store.lexical import ExactWords, TantivyWords
from kbqa.store.vectors import ExactVectors, FaissVectors, Scored, VectorIndex, search_live

if TYPE_CHECKING:
    from kbqa.analyzer import Terms
    from kbqa.types import Vectors

__all__ = ["Snapshot", "load"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    state: State
    passport: Passport
    seen: int  # the highest chunk id
    dead: frozenset[int]  # chunks that are removed but stand in an index
    words: TantivyWords | None
    words_name: str
    words_last: int  # the highest chunk id that `words` holds
    words_tail: ExactWords  # chunks that `words` does not hold
    segments: tuple[tuple[str, FaissVectors], ...]
    covered: int  # the highest chunk id of the segments
    tail: ExactVectors  # all chunks after that

    def search_words(self, terms: Terms, k: int, shares: Mapping[str, float]) -> Scored:
        new, old = self.words_tail, self.words
        found = search_live(partial(new.search, terms, shares=shares, beside=old), len(new), k, self.dead)
        if old:
            found += search_live(partial(old.search, terms, shares=shares), len(old), k, self.dead)
        return sorted(found, key=_best_first)[:k]

    def search_vectors(self, vector: Vectors, k: int) -> Scored:
        found: Scored = []
        indexes: list[VectorIndex] = [self.tail, *(segment for _, segment in self.segments)]
        for index in indexes:
            found += search_live(partial(index.search, vector), len(index), k, self.dead)
        return sorted(found, key=_best_first)[:k]

    def word_frequency(self, word: str) -> int:
        old = self.words.frequency("words", word) if self.words else 0
        return min(self.state.chunks, old + self.words_tail.frequency("words", word))


def _best_first(hit: tuple[int, float]) -> tuple[float, int]:
    return -hit[1], hit[0]


def load(
    connection: sqlite3.Connection, path: Path, limits: Limits, before: Snapshot | None, repair: bool = False
) -> Snapshot:
    """The base at `path` as `connection`, inside a read transaction, sees it.

    Raises DamagedIndex when an index file is not as its row says (a writer replaced it meanwhile, or it is damaged), or
    when so much is not indexed that somebody should do it for good. With `repair` it is made up for in memory instead.
    """
    state = read_state(connection)
    if before and before.state.version == state.version:
        return before
    if before and before.state.base != state.base:
        before = None
    if before and before.state.generation == state.generation:
        return _caught_up(connection, state, before)
    return _from_rows(_Source(connection, path, limits, repair), state, before)


def _caught_up(connection: sqlite3.Connection, state: State, before: Snapshot) -> Snapshot:
    removed = connection.execute("SELECT chunk FROM removed WHERE revision > ?", (before.state.revision,)).fetchall()
    seen = last_chunk_id(connection)
    _add_words(connection, before.words_tail, before.seen)
    return replace(
        before,
        state=state,
        seen=seen,
        dead=before.dead.union(chunk_id for (chunk_id,) in removed) if removed else before.dead,
        tail=_add_vectors(connection, before.tail, before.seen, seen),
    )


def _add_words(connection: sqlite3.Connection, tail: ExactWords, after: int) -> None:
    after = max([after, *tail.ids[-1:]])  # it holds more than the snapshot says when the last attempt was cut short
    for chunk in read_chunks(connection, "c.id > ? ORDER BY c.id", (after,)):
        tail.add(chunk)


def _add_vectors(connection: sqlite3.Connection, tail: ExactVectors, after: int, upto: int) -> ExactVectors:
    for ids, vectors in read_vectors(connection, after, upto):
        tail = tail.grown(ids, vectors)
    return tail


def _from_rows(source: _Source, state: State, before: Snapshot | None) -> Snapshot:
    connection = source.connection
    passport = read_passport(connection, source.path)
    seen = last_chunk_id(connection)
    dead = {chunk_id for (chunk_id,) in connection.execute("SELECT chunk FROM removed")}
    rows = read_rows(connection)

    known = dict(before.segments) if before else {}
    stored = [row for row in rows if row.kind == "vectors"]
    segments = [(row.name, known.get(row.name) or source.segment(row, passport.dim)) for row in stored]
    segments += [(f"between-{gap.first}", source.missing(gap, passport.dim)) for gap in gaps(connection, stored)]
    covered = max((row.last for row in stored), default=0)
    if source.lags(covered, 2 * source.limits.seal_at):
        segments.append((f"after-{covered}", source.segment_of(Piece(covered + 1, seen, seen - covered), passport.dim)))
        covered = seen
    if before and before.covered <= covered:
        tail = _add_vectors(connection, before.tail.after(covered), max(covered, before.seen), seen)
    else:
        tail = _add_vectors(connection, ExactVectors(passport.dim), covered, seen)
    alive = {chunk_id for (chunk_id,) in connection.execute("SELECT id FROM chunks WHERE id > ?", (covered,))}
    dead.update(set(tail.ids.tolist()) - alive)

    row = next((row for row in rows if row.kind == "words"), None)
    if before and row and row.name == before.words_name:
        words, last = before.words, before.words_last
    else:
        words, last = source.words(row, state, seen)
    words_tail = ExactWords()
    _add_words(connection, words_tail, last)
    return Snapshot(
        state=state,
        passport=passport,
        seen=seen,
        dead=frozenset(dead),
        words=words,
        words_name=row.name if row else "",
        words_last=last,
        words_tail=words_tail,
        segments=tuple(segments),
        covered=covered,
        tail=tail,
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """Opens derived indexes; with `repair` makes them in memory where what lies on disk cannot be used."""

    connection: sqlite3.Connection
    path: Path
    limits: Limits
    repair: bool

    def segment(self, row: IndexRow, dim: int) -> FaissVectors:
        try:
            return open_segment(self.path.parent / INDEX, row)
        except DamagedIndex:
            if not self.repair:
                raise
            return self.segment_of(Piece(row.first, row.last, row.count), dim)

    def missing(self, gap: Piece, dim: int) -> FaissVectors:
        if not self.repair:
            raise DamagedIndex(f"{gap.live} chunks from {gap.first} on are in no segment")
        return self.segment_of(gap, dim)

    def segment_of(self, piece: Piece, dim: int) -> FaissVectors:
        return build_segment(self.connection, piece, dim, self.limits)

    def words(self, row: IndexRow | None, state: State, seen: int) -> tuple[TantivyWords | None, int]:
        """The index and the highest chunk id that it holds."""
        last = row.last if row else 0
        try:
            index = open_words(self.path.parent / INDEX, row) if row else None
            if not self.lags(last, 2 * self.limits.words_tail):
                return index, last
        except DamagedIndex:
            if not self.repair:
                raise
        try:
            return self.temporary_words(state, seen), seen
        except (OSError, DamagedIndex):  # no folder can take it: every chunk is searched in memory
            return None, 0

    def temporary_words(self, state: State, seen: int) -> TantivyWords:
        folder = Path(tempfile.mkdtemp(prefix="kbqa-"))
        try:
            row = build_words(self.connection, folder, None, state.revision, seen, state.chunks)
            made = open_words(folder, row)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
        return made

    def lags(self, last: int, most: int) -> bool:
        """Whether more than `most` chunks come after `last`; that is damage unless it is to be made up for."""
        (more,) = self.connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM chunks WHERE id > ? LIMIT ?)", (last, most + 1)
        ).fetchone()
        if more > most and not self.repair:
            raise DamagedIndex(f"more than {most} chunks after {last} are in no index")
        return bool(more > most)
