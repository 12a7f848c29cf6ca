"""Whether a base is what it claims to be: every rule that the store keeps, looked at once more.

Derived indexes, unused vectors, counters and leftovers are mended. What is wrong with documents themselves is only
told: that takes a backup or `kbqa ingest --rebuild`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kbqa.errors import IndexMismatch, KnowledgeBaseBusy, KnowledgeBaseError
from kbqa.store.catalogue import last_chunk_id, read_chunks, read_passport, read_state
from kbqa.store.connections import Pool, connect_writer
from kbqa.store.derived import IndexRow, Limits, gaps, open_segment, open_words, read_rows
from kbqa.store.errors import DamagedIndex, damaged, storage_errors, unknown
from kbqa.store.files import CATALOGUE, INDEX, write_lock
from kbqa.store.writer import Writer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Finding", "VerifyReport", "verify"]

_SHOWN = 20  # findings of one kind; the rest is counted
_UNIT = 0.01  # how far from 1 the length of a stored vector may be


@dataclass(frozen=True, slots=True)
class Finding:
    what: str  # is wrong, in one line
    mended: bool = False


@dataclass(frozen=True, slots=True)
class VerifyReport:
    findings: tuple[Finding, ...]
    documents: int
    chunks: int

    @property
    def sound(self) -> bool:
        """Nothing is wrong any more."""
        return all(finding.mended for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Problem:
    """`index` names a derived index to be built again, `sql` puts the catalogue right; what is mended with neither of
    them is what every checkpoint mends."""

    what: str
    index: str = ""
    sql: str = ""


def verify(folder: Path, mend: bool = True, limits: Limits | None = None) -> VerifyReport:
    """Looks at everything; takes as long as reading the whole base. With `mend` nobody else may be writing
    (KnowledgeBaseBusy). A catalogue that SQLite cannot read at all is one finding."""
    path = folder / CATALOGUE
    if not path.is_file():
        raise unknown(folder)
    if not mend:
        problems, documents, chunks = _looked_at(path)
        return VerifyReport(tuple(Finding(problem.what) for problem in problems), documents, max(chunks, 0))
    with write_lock(folder):
        problems, documents, chunks = _looked_at(path)
        left: set[str] = {problem.what for problem in problems}
        if problems and chunks >= 0:
            try:
                _mend(path, problems, limits or Limits())
                left = {problem.what for problem in _looked_at(path)[0]}
            except KnowledgeBaseError as error:
                problems = [*problems, _Problem(str(error))]
                left.add(str(error))
    findings = tuple(Finding(problem.what, mended=problem.what not in left) for problem in problems)
    return VerifyReport(findings, documents, max(chunks, 0))


def _mend(path: Path, problems: Sequence[_Problem], limits: Limits) -> None:
    with storage_errors(path), closing(connect_writer(path)) as connection:
        for problem in problems:
            if problem.sql:
                connection.execute(problem.sql)
    with closing(Writer(path, limits)) as writer:
        writer.checkpoint(distrust={problem.index for problem in problems})


def _looked_at(path: Path) -> tuple[list[_Problem], int, int]:
    """What is wrong, and how many documents and chunks there are; -1 chunks when the catalogue cannot be read."""
    pool = Pool(path)
    try:
        with pool.reading() as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":  # many lines about pages and cells, of no use to who has to mend it
                return [_Problem(str(damaged(path, "SQLite's integrity check fails")))], 0, -1
            passport = read_passport(connection, path)
            problems = [
                *_few(_catalogue_problems(connection)),
                *_few(_chunk_problems(connection)),
                *_few(_vector_problems(connection, passport.dim)),
                *_index_problems(connection, path.parent / INDEX),
            ]
            (documents,) = connection.execute("SELECT count(*) FROM documents").fetchone()
            (chunks,) = connection.execute("SELECT count(*) FROM chunks").fetchone()
            return problems, documents, chunks
    except IndexMismatch:
        raise
    except KnowledgeBaseBusy:
        raise
    except KnowledgeBaseError as error:
        return [_Problem(str(error))], 0, -1
    finally:
        pool.close()


def _few(problems: Iterator[_Problem]) -> Iterator[_Problem]:
    for count, problem in enumerate(problems):
        if count == _SHOWN:
            yield _Problem(f"... and {1 + sum(1 for _ in problems)} more like that")
            return
        yield problem


def _catalogue_problems(connection: sqlite3.Connection) -> Iterator[_Problem]:
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield _Problem(f"row {row} of {table} names something that is not in {parent}")
    for source, told, count in connection.execute(
        "SELECT d.source, d.chunks, count(c.id) FROM documents d LEFT JOIN chunks c ON c.document = d.id"
        " GROUP BY d.id HAVING d.chunks <> count(c.id)"
    ):
        yield _Problem(f"{source}: {told} chunks are recorded, {count} are there")
    for source, low, high, count in connection.execute(
        "SELECT d.source, min(c.ordinal), max(c.ordinal), count(*) FROM chunks c JOIN documents d ON d.id = c.document"
        " GROUP BY d.id HAVING min(c.ordinal) <> 0 OR max(c.ordinal) <> count(*) - 1"
    ):
        yield _Problem(f"{source}: its {count} chunks are numbered {low} to {high}")
    for source, status in connection.execute(
        "SELECT source, status FROM documents WHERE (status = 'failed') = (error = '')"
    ):
        yield _Problem(f"{source}: it counts as {status}, which does not fit the error that is recorded")
    for (source,) in connection.execute(
        "SELECT source FROM documents d WHERE status = 'indexed' AND (origin = 'api') <>"
        " EXISTS (SELECT 1 FROM contents WHERE document = d.id)"
    ):
        yield _Problem(
            f"{source}: its whole text is not kept where only this base has it, or is kept where a file does"
        )
    (count,) = connection.execute("SELECT count(*) FROM chunks").fetchone()
    told = read_state(connection).chunks
    if told != count:
        yield _Problem(f"{told} chunks are counted, {count} are there", sql=f"UPDATE state SET chunks = {count}")
    if count and last_chunk_id(connection) < connection.execute("SELECT max(id) FROM chunks").fetchone()[0]:
        yield _Problem("a chunk has a higher id than was ever given")


def _chunk_problems(connection: sqlite3.Connection) -> Iterator[_Problem]:
    for chunk in read_chunks(connection, "1", ()):
        start, stop = chunk.span
        if start < 0 or stop - start != len(chunk.text):
            yield _Problem(
                f"{chunk.source}: chunk {chunk.ordinal} has {len(chunk.text)} characters, its span {chunk.span}"
            )


def _vector_problems(connection: sqlite3.Connection, dim: int) -> Iterator[_Problem]:
    unused = "FROM vectors WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE vector = vectors.id)"
    (count,) = connection.execute(f"SELECT count(*) {unused}").fetchone()
    if count:
        yield _Problem(f"{count} vectors belong to no chunk", sql=f"DELETE {unused}")
    for number, size in connection.execute("SELECT id, length(data) FROM vectors WHERE length(data) <> ?", (2 * dim,)):
        yield _Problem(f"vector {number} has {size // 2} dimensions instead of {dim}")
    rows = connection.execute("SELECT id, data FROM vectors WHERE length(data) = ?", (2 * dim,))
    while part := rows.fetchmany(8192):
        lengths = np.linalg.norm(
            np.frombuffer(b"".join(data for _, data in part), dtype="<f2").reshape(-1, dim).astype(np.float32), axis=1
        )
        with np.errstate(invalid="ignore"):
            wrong = ~((lengths == 0) | (np.abs(lengths - 1) < _UNIT))
        for at in np.flatnonzero(wrong):
            yield _Problem(f"vector {part[at][0]} has the length {lengths[at]:.3f} instead of 1")


def _index_problems(connection: sqlite3.Connection, index: Path) -> Iterator[_Problem]:
    rows = read_rows(connection)
    before = 0
    for row in rows:
        try:
            if row.kind == "words":
                ids = np.sort(np.array(open_words(index, row, again=True).ids(), dtype=np.int64))
            else:
                ids = open_segment(index, row, again=True).ids
                if row.first <= before:
                    yield _Problem(f"{row.name} overlaps the segment before it", index=row.name)
                before = row.last
        except DamagedIndex as error:
            yield _Problem(f"{row.name} is damaged: {error}", index=row.name)
            continue
        if (wrong := _wrong_ids(connection, row, ids)) is not None:
            yield _Problem(f"{row.name} {wrong}", index=row.name)
    named = {row.name for row in rows}
    for path in sorted(index.iterdir()) if index.is_dir() else []:
        if path.name not in named:
            yield _Problem(f"{path.name} in {index} belongs to nothing")
    for gap in gaps(connection, [row for row in rows if row.kind == "vectors"]):
        yield _Problem(f"{gap.live} chunks from {gap.first} on are in no segment of vectors")


def _wrong_ids(connection: sqlite3.Connection, row: IndexRow, ids: NDArray[np.int64]) -> str | None:
    """How the chunks in an index differ from those that the catalogue says it holds."""
    span = (row.first, row.last)
    alive = _ids(connection, "SELECT id FROM chunks WHERE id BETWEEN ? AND ?", span)
    gone = _ids(
        connection, "SELECT chunk FROM removed WHERE chunk BETWEEN ? AND ? AND revision > ?", (*span, row.revision)
    )
    lacking = np.setdiff1d(alive, ids)
    if len(lacking):
        return f"lacks {len(lacking)} chunks, the first is {lacking[0]}"
    extra = np.setdiff1d(ids, np.union1d(alive, gone))
    if len(extra):
        return f"holds {len(extra)} chunks that do not exist, the first is {extra[0]}"
    if len(ids) != len(np.unique(ids)):
        return "holds some chunks twice"
    return None


def _ids(connection: sqlite3.Connection, query: str, values: Sequence[int]) -> NDArray[np.int64]:
    return np.fromiter((number for (number,) in connection.execute(query, values)), dtype=np.int64)
