"""What parent and worker say to each other, as JSON.

What comes from a worker is checked: the functions `read_...` raise TypeError, ValueError or KeyError for anything that
is not what its counterpart `write_...` wrote.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from kbqa.config import SplitterConfig
from kbqa.readers import ReadOptions
from kbqa.store.lexical import WEIGHTS, Prepared
from kbqa.types import Block, Chunk, Document

if TYPE_CHECKING:
    from kbqa.types import Vectors

__all__ = [
    "Orders",
    "read_chunks",
    "read_document",
    "read_prepared",
    "read_vectors",
    "receive",
    "send",
    "write_chunks",
    "write_document",
    "write_prepared",
    "write_vectors",
]

REPLY_BYTES = 1 << 30  # more than ReadOptions lets through


def send(link: Connection, message: Mapping[str, Any]) -> None:
    link.send_bytes(json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def receive(link: Connection) -> dict[str, Any]:
    message = json.loads(link.recv_bytes(REPLY_BYTES).decode("utf-8", "surrogatepass"))
    if not isinstance(message, dict):
        raise TypeError("no object")
    return message


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told once, when it starts."""

    reader: str  # "module:function", a function (path, source, options) -> Document
    options: ReadOptions
    splitter: SplitterConfig | None  # None: documents are not cut
    static: str | None  # the built-in embedder's model, "" for the one that comes with kbqa; None: it is not used
    dim: int  # of its vectors, 0 without it
    memory_mb: int
    seconds: float
    total_seconds: float
    ocr_threads: int

    def write(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def read(told: Mapping[str, Any]) -> Orders:
        splitter = told["splitter"]
        return Orders(
            **{
                **told,
                "options": ReadOptions(**told["options"]),
                "splitter": None if splitter is None else SplitterConfig(**splitter),
            }
        )


def write_document(document: Document) -> dict[str, Any]:
    """Everything but the source, which only the parent says."""
    return {
        "title": document.title,
        "blocks": [[b.kind, b.text, b.level, b.page, b.header_rows] for b in document.blocks],
        "digest": document.digest,
        "reader": document.reader,
        "pages": document.pages,
        "warnings": list(document.warnings),
        "metadata": dict(document.metadata),
    }


def read_document(found: object, source: str) -> Document:
    if not isinstance(found, dict) or not isinstance(found["metadata"], dict):
        raise TypeError("no object")
    blocks = tuple(_block(*fields) for fields in found["blocks"])
    metadata = {_string(key): value for key, value in found["metadata"].items()}
    if not all(isinstance(value, str | int | float | bool) for value in metadata.values()):
        raise TypeError("metadata that is no plain value")
    return Document(
        source=source,
        title=_string(found["title"]),
        blocks=blocks,
        digest=_string(found["digest"]),
        reader=_string(found["reader"]),
        pages=_number(found["pages"]),
        warnings=tuple(_string(warning) for warning in found["warnings"]),
        metadata=metadata,
    )


def write_chunks(chunks: Sequence[Chunk]) -> list[list[Any]]:
    """Everything that the document does not say already."""
    return [[*chunk.span, chunk.heading, chunk.preface, chunk.page, chunk.breaks] for chunk in chunks]


def read_chunks(found: object, document: Document) -> list[Chunk]:
    if not isinstance(found, list):
        raise TypeError("no list of chunks")
    text = document.text
    return [_chunk(document, text, ordinal, *fields) for ordinal, fields in enumerate(found)]


def write_prepared(passages: Sequence[Prepared]) -> list[list[Any]]:
    """The terms of each field and how many they are, field by field in the order of WEIGHTS."""
    return [[value for field in WEIGHTS for value in (it.texts[field], it.counts[field])] for it in passages]


def read_prepared(found: object, count: int) -> list[Prepared]:
    if not isinstance(found, list) or len(found) != count:
        raise TypeError("no list of prepared passages")
    return [_prepared(*values) for values in found]


def _prepared(*values: object) -> Prepared:
    texts, counts = values[0::2], values[1::2]
    return Prepared(
        {field: _string(text) for field, text in zip(WEIGHTS, texts, strict=True)},
        {field: _count(number) for field, number in zip(WEIGHTS, counts, strict=True)},
    )


def write_vectors(vectors: Vectors) -> str:
    return b64encode(vectors.astype("<f4").tobytes()).decode()


def read_vectors(found: object, count: int, dim: int) -> Vectors:
    """(count, dim)"""
    vectors = np.frombuffer(b64decode(_string(found), validate=True), dtype="<f4").reshape(count, dim)
    if not np.isfinite(vectors).all():
        raise ValueError("a vector that is not finite")
    return vectors


def _chunk(
    document: Document,
    text: str,
    ordinal: int,
    start: object,
    end: object,
    heading: object,
    preface: object,
    page: object,
    breaks: Sequence[Sequence[object]],
) -> Chunk:
    first, last = _count(start), _count(end)
    if not first <= last <= len(text):
        raise ValueError("a chunk that is not in the text")
    return Chunk(
        source=document.source,
        ordinal=ordinal,
        text=text[first:last],
        span=(first, last),
        title=document.title,
        heading=_string(heading),
        preface=_string(preface),
        page=_number(page),
        breaks=tuple(_pair(*entry) for entry in breaks),
    )


def _block(kind: object, text: object, level: object, page: object, header_rows: object) -> Block:
    if kind not in ("heading", "text", "table", "code"):
        raise ValueError(f"a block of kind {kind!r}")
    return Block(kind, _string(text), _number(level) or 0, _number(page), _number(header_rows) or 0)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} for text")
    return value


def _number(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"{type(value).__name__} for a number")
    return value


def _pair(first: object, second: object) -> tuple[int, int]:
    return _count(first), _count(second)


def _count(value: object) -> int:
    number = _number(value)
    if number is None or number < 0:
        raise ValueError(f"{value!r} for a count")
    return number
