"""Lexical search: BM25 over the analyzer's terms.

Three fields, whose scores are added with WEIGHTS: `words`, `bigrams` (with the stems of Latin words, so that these
weigh the same against Chinese words and Chinese pairs, and "acquired" finds "acquiring") and `title`. `words` and
`bigrams` hold what a passage belongs to (title and heading path), a table's header and the text; `title` holds only the
former. On all seven sets of the retrieval benchmark this is better than words or bigrams alone.

One contract (`LexicalIndex`), two kinds. `ExactWords` is BM25 by the book in memory: the newest chunks, which no file
holds yet, and the oracle in the tests. `TantivyWords` is a tantivy index on disk; it rounds field lengths to a few
bits, so its scores differ a little. Its terms come ready-made, joined by blanks.

A tantivy index that the catalogue names is never changed: `extend` makes the next one in a new folder, which shares
the old one's segment files by hard links (tantivy rewrites only the two files that are copied).
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from kbqa.analyzer import Terms, analyze, latin, stem
from kbqa.errors import KnowledgeBaseError
from kbqa.store.errors import DamagedIndex, probe
from kbqa.store.files import link
from kbqa.types import Chunk

if TYPE_CHECKING:
    import tantivy

    from kbqa.store.vectors import Scored

__all__ = [
    "ALL_EQUAL",
    "WEIGHTS",
    "ExactWords",
    "LexicalIndex",
    "Prepared",
    "TantivyWords",
    "chunk_fields",
    "extend",
    "prepare",
    "query_fields",
]

WEIGHTS = {"words": 1.0, "bigrams": 0.5, "title": 0.3}
ALL_EQUAL: Mapping[str, float] = MappingProxyType({})
_K1, _B = 1.2, 0.75  # tantivy's own, which cannot be set
_HEAP = 64_000_000  # bytes of terms in memory before tantivy begins another segment
_REWRITTEN = ("meta.json", ".managed.json")


def chunk_fields(chunk: Chunk) -> dict[str, Sequence[str]]:
    """The terms of a passage by field, repeated as often as they occur."""
    body = analyze(chunk.searchable)
    title = analyze(chunk.context)
    return {"words": body.words, "bigrams": [*body.bigrams, *_spelled(body.words)], "title": title.words}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A passage as tantivy takes it: by field its terms joined by blanks, and how many they are."""

    texts: Mapping[str, str]
    counts: Mapping[str, int]


def prepare(chunk: Chunk) -> Prepared:
    fields = chunk_fields(chunk)
    return Prepared(
        {field: " ".join(terms) for field, terms in fields.items()},
        {field: len(terms) for field, terms in fields.items()},
    )


def query_fields(terms: Terms, shares: Mapping[str, float] = ALL_EQUAL) -> dict[str, dict[str, float]]:
    """The terms to look for in each field, each once, and what it counts (`shares`: those that do not count 1)."""
    words = {word: shares.get(word, 1.0) for word in terms.words}
    pairs = {pair: shares.get(pair, 1.0) for pair in terms.bigrams}
    spelled = {term: share for word, share in words.items() for term in _spelled([word])}
    return {"words": words, "bigrams": pairs | spelled, "title": words}


def _spelled(words: Iterable[str]) -> list[str]:
    """The stems of the Latin ones. As they are written they stand in `words`."""
    return [stem(word) for word in latin(words)]


class LexicalIndex(Protocol):
    @property
    def totals(self) -> Mapping[str, int]:
        """How many terms each field holds over all chunks ever added, and under "chunks" how many those were."""
        ...

    def __len__(self) -> int: ...

    def frequency(self, field: str, term: str) -> int:
        """How many chunks hold the term; chunks removed of late may still be counted."""
        ...

    def search(self, terms: Terms, k: int, shares: Mapping[str, float] = ALL_EQUAL) -> Scored:
        """The `k` chunks with the largest sum of weighted BM25 scores; only those that hold any of the terms.

        `shares`: what a term counts, for those that do not count 1.
        """
        ...


class ExactWords:
    """BM25 in memory. Only ever grows; one thread adds while others search."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._lengths: dict[str, list[int]] = {field: [] for field in WEIGHTS}
        # field -> term -> place in `_ids` and occurrences, in turn: 8 bytes a posting
        self._postings: dict[str, dict[str, array[int]]] = {field: {} for field in WEIGHTS}
        self._totals = dict.fromkeys((*WEIGHTS, "chunks"), 0)

    @property
    def totals(self) -> Mapping[str, int]:
        return self._totals

    @property
    def ids(self) -> Sequence[int]:
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, chunk: Chunk) -> None:
        place = len(self._ids)
        self._ids.append(chunk.id)
        fields = chunk_fields(chunk)
        for field, terms in fields.items():
            self._lengths[field].append(len(terms))
        for field, terms in fields.items():
            for term, times in Counter(terms).items():
                self._postings[field].setdefault(term, array("I")).extend((place, times))
        _count(self._totals, {field: len(terms) for field, terms in fields.items()})

    def frequency(self, field: str, term: str) -> int:
        return len(self._postings[field].get(term, ())) // 2

    def search(
        self, terms: Terms, k: int, shares: Mapping[str, float] = ALL_EQUAL, beside: LexicalIndex | None = None
    ) -> Scored:
        """`beside` is the large index that these chunks will go to: with its statistics the scores are alike."""
        scores: dict[int, float] = {}
        count = len(self) + (len(beside) if beside else 0)
        for field, wanted in query_fields(terms, shares).items():
            mean = _mean(field, self, beside) or 1.0
            lengths = self._lengths[field]
            for term, share in wanted.items():
                postings = self._postings[field].get(term)
                if postings is None:
                    continue
                found = len(postings) // 2 + (beside.frequency(field, term) if beside else 0)
                weight = WEIGHTS[field] * share * (_K1 + 1) * math.log(1 + (count - found + 0.5) / (found + 0.5))
                for at in range(0, len(postings), 2):
                    place, times = postings[at], postings[at + 1]
                    rounded = _K1 * (1 - _B + _B * lengths[place] / mean)
                    scores[place] = scores.get(place, 0.0) + weight * times / (times + rounded)
        best = sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))[: max(k, 0)]
        return [(self._ids[place], score) for place, score in best]


def _mean(field: str, index: LexicalIndex, beside: LexicalIndex | None) -> float:
    totals = [index.totals, beside.totals] if beside else [index.totals]
    return sum(total[field] for total in totals) / max(1, sum(total["chunks"] for total in totals))


def _count(totals: dict[str, int], counts: Mapping[str, int]) -> None:
    for field, count in counts.items():
        totals[field] += count
    totals["chunks"] += 1


class TantivyWords:
    """An index on disk as it was when it was opened. `DamagedIndex` when tantivy does not take it."""

    def __init__(self, path: Path, totals: Mapping[str, int]) -> None:
        self.totals = totals
        try:
            index = _open(path if os.access(path, os.W_OK) else self._linked(path))
            index.config_reader("manual", 0)  # no thread that watches for changes: there are none
            self._schema, self._searcher = index.schema, index.searcher()
        except (ValueError, OSError) as error:
            raise DamagedIndex(f"{path}: {error}") from error

    def _linked(self, path: Path) -> Path:
        """tantivy cannot open an index without writing a lock file beside it. Where the folder cannot be written, it
        gets one of our own, of links to the files, that goes with this object."""
        folder = Path(tempfile.mkdtemp(prefix="kbqa-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        for file in path.iterdir():
            try:
                (folder / file.name).symlink_to(file.absolute())
            except OSError:  # Windows allows links to few
                shutil.copy2(file, folder)
        return folder

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def ids(self) -> list[int]:
        """Every chunk id in it, in no order."""
        import tantivy

        if not len(self):
            return []
        found = self._searcher.search(tantivy.Query.all_query(), len(self), count=False)
        return [int(value or 0) for value in self._searcher.fast_field_values("id", [at for _, at in found.hits])]

    def frequency(self, field: str, term: str) -> int:
        return int(self._searcher.doc_freq(field, term))

    def search(self, terms: Terms, k: int, shares: Mapping[str, float] = ALL_EQUAL) -> Scored:
        from tantivy import Occur, Query

        # One flat list of terms: only then tantivy skips what cannot come among the best.
        clauses = [
            (
                Occur.Should,
                Query.boost_query(Query.term_query(self._schema, field, term, "freq"), WEIGHTS[field] * share),
            )
            for field, wanted in query_fields(terms, shares).items()
            for term, share in wanted.items()
        ]
        if not clauses or k <= 0:
            return []
        hits = self._searcher.search(Query.boolean_query(clauses), k, count=False).hits
        ids = self._searcher.fast_field_values("id", [at for _, at in hits])
        return [(int(chunk or 0), float(score)) for chunk, (score, _) in zip(ids, hits, strict=True)]


def extend(
    index: Path,
    name: str,
    old: Iterable[str],
    totals: Mapping[str, int],
    drop: Iterable[int],
    add: Iterable[Chunk],
    ready: Mapping[int, Prepared] = MappingProxyType({}),
) -> dict[str, int]:
    """Makes index/name: what the files `old` (paths below `index`) hold, without the chunks `drop`, with `add`.
    `ready` holds those of `add` that were prepared before. Gives the new totals. OSError or KnowledgeBaseError when it
    cannot be written; then the folder is not to be used."""
    import tantivy

    folder = index / name
    folder.mkdir(parents=True)
    started = False
    for path in old:
        started = True
        if Path(path).name in _REWRITTEN:
            shutil.copy2(index / path, folder)
        else:
            link(index / path, folder / Path(path).name)
    after = dict(totals) if started else dict.fromkeys((*WEIGHTS, "chunks"), 0)
    try:
        words = _open(folder) if started else _prepared(tantivy.Index(_schema(), path=str(folder)))
        writer = words.writer(_HEAP, 1)
        for ids in _batched(drop, 10_000):
            # Not delete_documents_by_term: it makes a signed term of the number, which matches nothing.
            writer.delete_documents_by_query(tantivy.Query.term_set_query(words.schema, "id", ids))
        for chunk in add:
            passage = ready.get(chunk.id) or prepare(chunk)
            document = tantivy.Document()
            document.add_unsigned("id", chunk.id)
            for field, text in passage.texts.items():
                document.add_text(field, text)
            writer.add_document(document)
            _count(after, passage.counts)
        writer.commit()
        writer.wait_merging_threads()
    except ValueError as error:  # what tantivy raises for everything; ask the system again for the reason
        probe(folder / "probe")
        raise KnowledgeBaseError(f"{folder}: the lexical index cannot be written ({error})") from error
    for lock in folder.glob(".tantivy-*.lock"):
        lock.unlink()
    return after


def _batched(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    """itertools.batched, which Python 3.11 has not."""
    numbers = iter(numbers)
    while part := list(islice(numbers, size)):
        yield part


def _schema() -> tantivy.Schema:
    from tantivy import SchemaBuilder

    builder = SchemaBuilder()
    builder.add_unsigned_field("id", indexed=True, fast=True)
    for field in WEIGHTS:
        builder.add_text_field(field, tokenizer_name="terms", index_option="freq")
    return builder.build()


def _open(path: Path) -> tantivy.Index:
    import tantivy

    return _prepared(tantivy.Index.open(str(path)))


def _prepared(index: tantivy.Index) -> tantivy.Index:
    from tantivy import TextAnalyzerBuilder, Tokenizer

    index.register_tokenizer("terms", TextAnalyzerBuilder(Tokenizer.whitespace()).build())
    return index
