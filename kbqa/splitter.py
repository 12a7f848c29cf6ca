"""A Document into Chunks: cut at headings, then at sentence ends, never through a table row.

A chunk stays within one section, so its heading path is true for all of it. Within a section sentences (table rows,
lines of code) are packed into chunks of about equal size; the next chunk begins with the last sentences of the one
before (the overlap). Rows that continue a table in a new chunk carry its header as `preface`.

Sizes are in Chinese characters unless a tokenizer is named: a Latin letter counts as two fifths of one, because an
English passage needs so many more of them to say as much.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

from kbqa.config import SplitterConfig
from kbqa.errors import ConfigError
from kbqa.sentences import sentence_spans
from kbqa.types import BLOCK_SEPARATOR, Block, Chunk, Document

__all__ = ["Splitter", "in_words"]

VERSION = 3
HEADING_SEPARATOR = " > "
HEADING_LIMIT = 80  # characters of one heading in the path: what is longer was hardly meant as a heading
ROW_LIMIT = 4  # a table row longer than so many chunk sizes is cut after all, like text

_CLAUSE_END = re.compile(r"[，、：,:]|\s")

Length = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class _Atom:
    """What is never cut: a sentence, a table row, a line of code. Offsets into the document's text."""

    start: int
    end: int
    size: int
    preface: str = ""  # the table header that must go with it when a chunk begins here
    overlaps: bool = True  # may be repeated at the head of the next chunk


@dataclass(frozen=True, slots=True)
class _Section:
    """The blocks under one heading, with their offsets."""

    path: tuple[str, ...]
    blocks: tuple[tuple[int, Block], ...]


class Splitter:
    """Cuts documents by one set of settings; `fingerprint` changes when the same document would be cut otherwise."""

    def __init__(self, config: SplitterConfig | None = None) -> None:
        self.config = config = config or SplitterConfig()
        self.size = config.size
        self.overlap = config.overlap
        self.length: Length = _weighed
        unit = "characters"
        if config.tokenizer:
            self.length, digest = _token_counter(config.tokenizer)
            unit = f"tokens:{digest}"
        self.fingerprint = f"{VERSION}:{self.size}:{self.overlap}:{unit}"

    def split(self, document: Document) -> list[Chunk]:
        text = document.text
        pages = _page_starts(document)
        chunks: list[Chunk] = []
        for section in _sections(document):
            heading = HEADING_SEPARATOR.join(section.path)
            atoms = [atom for start, block in section.blocks for atom in self._atoms(text, start, block)]
            for first, last in self._pack(atoms):
                start, end = atoms[first].start, atoms[last].end
                page, breaks = _pages_within(pages, start, end)
                chunks.append(
                    Chunk(
                        source=document.source,
                        ordinal=len(chunks),
                        text=text[start:end],
                        span=(start, end),
                        title=document.title,
                        heading=heading,
                        preface=atoms[first].preface,
                        page=page,
                        breaks=breaks,
                    )
                )
        return chunks

    def _atoms(self, text: str, start: int, block: Block) -> Iterator[_Atom]:
        end = start + len(block.text)
        if block.kind == "table":
            lines = list(_line_spans(text, start, end))
            header = "\n".join(text[a:b] for a, b in lines[: block.header_rows])[: self.size]
            for row, (a, b) in enumerate(lines):
                preface = header if row >= block.header_rows else ""
                if self.length(text[a:b]) <= ROW_LIMIT * self.size:
                    yield _Atom(a, b, self.length(text[a:b]), preface, overlaps=False)
                else:
                    for c, d in self._cut(text, a, b):
                        yield _Atom(c, d, self.length(text[c:d]), preface, overlaps=False)
        else:
            spans = _line_spans(text, start, end) if block.kind == "code" else sentence_spans(text, start, end)
            for a, b in spans:
                for c, d in self._cut(text, a, b):
                    yield _Atom(c, d, self.length(text[c:d]))

    def _cut(self, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """`(start, end)` in parts of at most `size`, cut at the last comma or white space that fits, else anywhere."""
        while (reach := self._reach(text, start, end)) < end:
            ends = [match.end() for match in _CLAUSE_END.finditer(text, start + (reach - start) // 2, reach)]
            stop = last = ends[-1] if ends else reach
            while last > start and text[last - 1].isspace():
                last -= 1
            if start < last:
                yield start, last
            start = stop
            while start < end and text[start].isspace():
                start += 1
        if start < end:
            yield start, end

    def _reach(self, text: str, start: int, end: int) -> int:
        """The largest offset such that text[start:offset] is within `size`, and at least one character.

        Looks no further than about twice as far as that, so that a line of many megabytes is no special case.
        """
        low, high = start + 1, min(end, start + self.size)
        if high == end and self.length(text[start:end]) <= self.size:
            return end  # as nearly every sentence does
        while high < end and self.length(text[start:high]) <= self.size:
            low, high = high, min(end, high + (high - start))
        while low < high:
            middle = (low + high + 1) // 2
            if self.length(text[start:middle]) <= self.size:
                low = middle
            else:
                high = middle - 1
        return min(low, end)

    def _pack(self, atoms: list[_Atom]) -> Iterator[tuple[int, int]]:
        """(first, last) atom of each chunk. Chunks of a section come out about equally long."""
        total = sum(atom.size for atom in atoms)
        target = total / max(1, -(-total // self.size))
        first, size = 0, 0
        for at, atom in enumerate(atoms):
            if at > first and (size + atom.size > self.size or size >= target):
                yield first, at - 1
                first, size = self._overlap_start(atoms, first, at)
            size += atom.size
        if atoms:
            yield first, len(atoms) - 1

    def _overlap_start(self, atoms: list[_Atom], first: int, at: int) -> tuple[int, int]:
        """Where the chunk that continues with atom `at` begins, and the size of what it repeats."""
        size = 0
        room = min(self.overlap, self.size - atoms[at].size)
        while at - 1 > first and atoms[at - 1].overlaps and size + atoms[at - 1].size <= room:
            at -= 1
            size += atoms[at].size
        return at, size


def _sections(document: Document) -> Iterator[_Section]:
    """The document cut at its headings.

    A heading is not part of its section's text, it is in the path; but one with nothing at all below it is a section
    of its own, so that no text of the document is out of reach.
    """
    path: list[tuple[int, str]] = []
    blocks: list[tuple[int, Block]] = []
    offset = 0
    ahead = [*document.blocks, None][1:]
    for block, following in zip(document.blocks, ahead, strict=True):
        if block.kind == "heading":
            if blocks:
                yield _Section(tuple(title for _, title in path), tuple(blocks))
                blocks = []
            while path and path[-1][0] >= block.level:
                path.pop()
            path.append((block.level, " ".join(block.text.split())[:HEADING_LIMIT]))
            if following is None or (following.kind == "heading" and following.level <= block.level):
                yield _Section(tuple(title for _, title in path[:-1]), ((offset, block),))
        else:
            blocks.append((offset, block))
        offset += len(block.text) + len(BLOCK_SEPARATOR)
    if blocks:
        yield _Section(tuple(title for _, title in path), tuple(blocks))


def _line_spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    cuts = [start - 1, *(match.start() for match in re.compile("\n").finditer(text, start, end)), end]
    return ((a + 1, b) for a, b in pairwise(cuts) if text[a + 1 : b].strip())


def _page_starts(document: Document) -> list[tuple[int, int]]:
    """(offset, page) wherever a block stands on another page than the one before."""
    starts: list[tuple[int, int]] = []
    offset = 0
    for block in document.blocks:
        if block.page is not None and (not starts or starts[-1][1] != block.page):
            starts.append((offset, block.page))
        offset += len(block.text) + len(BLOCK_SEPARATOR)
    return starts


def _pages_within(pages: list[tuple[int, int]], start: int, end: int) -> tuple[int | None, tuple[tuple[int, int], ...]]:
    at = bisect_right(pages, start, key=lambda page: page[0])
    page = pages[at - 1][1] if at else None
    return page, tuple(entry for entry in pages[at:] if entry[0] < end)


def _weighed(text: str) -> int:
    letters = len(text.encode("ascii", "ignore"))
    return len(text) - letters * 3 // 5


def in_words(fingerprint: str) -> str:
    """A splitter's fingerprint as a user would say it: size 400, overlap 50, in characters."""
    version, _, settings = fingerprint.partition(":")
    size, overlap, unit = settings.split(":", 2)
    unit = unit.replace("tokens:", "tokens of tokenizer ")
    by = "" if version == str(VERSION) else f", by version {version} of the splitter"
    return f"size {size}, overlap {overlap}, in {unit}{by}"


def _token_counter(path: str) -> tuple[Length, str]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError("splitter.tokenizer needs the tokenizers library: pip install 'kbqa[st]'") from error
    try:
        content = Path(path).read_bytes()
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise ConfigError(f"splitter.tokenizer: {path} is not a readable tokenizer.json: {error}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), blake2b(content).hexdigest()[:12]
