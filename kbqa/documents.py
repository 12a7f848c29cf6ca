"""Documents that a program hands over instead of files: LangChain's become ours here, without LangChain.

LangChain cuts a file into one document a page, a splitter of its own cuts it further; all pieces of one source
become one Document again, in the order in which they came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import PurePath, PurePosixPath
from typing import Any, Protocol

from kbqa.errors import DocumentError
from kbqa.readers.content import clean, text_block
from kbqa.types import Document

__all__ = ["LangChainDocument", "from_langchain", "safe_source"]

READER = "langchain"
LEAST_OVERLAP = 8  # characters; a shorter repetition may well be chance

Value = str | int | float | bool

_ROOT = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/+|[A-Za-z]:")  # https:// file:/// C:/ C:


class LangChainDocument(Protocol):
    """The two attributes that every LangChain document has."""

    @property
    def page_content(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class _Part:
    source: str
    text: str
    page: int | None
    metadata: Mapping[str, Value]


def from_langchain(documents: Iterable[LangChainDocument]) -> Iterator[Document]:
    """One Document for each `metadata["source"]`, or for each text where there is none.

    All are looked at before the first is handed out, as the pages of a source need not come in a row. Where a piece
    begins with the end of the piece before it on the same page, as overlapping chunks do, the repetition is taken
    out. Metadata that all pieces of a source agree on is kept as far as it is text, numbers or bools. Raises
    DocumentError for something that is no LangChain document.
    """
    sources: dict[str, list[_Part]] = {}
    for document in documents:
        part = _part(document)
        sources.setdefault(part.source, []).append(part)
    for source, parts in sources.items():
        yield _whole(source, parts)


def _part(document: LangChainDocument) -> _Part:
    content = getattr(document, "page_content", None)
    metadata = getattr(document, "metadata", None)
    if not isinstance(content, str) or not isinstance(metadata, Mapping):
        raise DocumentError(
            f"a {type(document).__name__} is not a LangChain document: it has no text in page_content or no metadata",
            "unsupported",
        )
    text = clean(content)
    source = metadata.get("source")
    source = safe_source(str(source)) if isinstance(source, str | PurePath) else ""
    values = {str(key): _value(value) for key, value in metadata.items() if isinstance(value, str | int | float)}
    return _Part(source or f"langchain/{_digest(text)[:16]}.txt", text, _page(metadata), values)


def safe_source(source: str) -> str:
    """`source` as a path below a base: roots and drives of paths, schemes of addresses, `.` and `..` are taken off."""
    path = _ROOT.sub("", " ".join(clean(source).split()).replace("\\", "/"), count=1) if source else ""
    return "/".join(part for part in path.split("/") if part.strip(". "))


def _value(value: Value) -> Value:
    return clean(value) if isinstance(value, str) else value


def _page(metadata: Mapping[str, Any]) -> int | None:
    """Counted from 1, as `page_number` is; LangChain's PDF loaders count `page` from 0."""
    for key, first in (("page_number", 1), ("page", 0)):
        page = metadata.get(key)
        if isinstance(page, int) and not isinstance(page, bool) and page >= first:
            return page - first + 1
    return None


def _whole(source: str, parts: list[_Part]) -> Document:
    blocks = tuple(text_block(text, page) for page, text in _runs(parts))
    metadata = _agreed([part.metadata for part in parts])
    title = metadata.get("title")
    document = Document(
        source=source,
        title=title if isinstance(title, str) and title else PurePosixPath(source).stem,
        blocks=blocks,
        digest="",
        reader=READER,
        pages=max((part.page for part in parts if part.page), default=None),
        warnings=() if blocks else ("it holds no text",),
        metadata=metadata,
    )
    return replace(document, digest=_digest(document.text))


def _runs(parts: Iterable[_Part]) -> Iterator[tuple[int | None, str]]:
    """(page, text) of each unbroken piece of text: parts that repeat the end of the one before are glued to it."""
    page: int | None = None
    run: list[str] = []
    before = ""
    for part in parts:
        if not part.text:
            continue
        repeated = _overlap(before, part.text) if part.page == page else 0
        if run and not repeated:
            yield page, "".join(run)
            run = []
        run.append(part.text[repeated:])
        page, before = part.page, part.text
    if run:
        yield page, "".join(run)


def _overlap(before: str, text: str) -> int:
    """How many characters at the start of `text` repeat the end of `before`; 0 for too few to mean anything."""
    if len(text) < LEAST_OVERLAP:
        return 0
    at = before.find(text[:LEAST_OVERLAP], max(0, len(before) - len(text)))
    while at >= 0 and not text.startswith(before[at:]):
        at = before.find(text[:LEAST_OVERLAP], at + 1)
    return len(before) - at if at >= 0 else 0


def _agreed(all_metadata: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    first, *rest = all_metadata
    return {key: value for key, value in first.items() if all(key in m and m[key] == value for m in rest)}


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
