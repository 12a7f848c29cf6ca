"""Org files, read by the optional package `unstructured` and the pandoc that it brings.

Of the formats that `unstructured` knows and kbqa does not, this is the one that it can read without models: photographs
in HEIC and sound need models that it would download. It would also download an English tagger, to tell headings from
sentences by their verbs, and report its use to a host. Here it gets rules for sentences in place of the tagger, which
Chinese needs and which suffice where the markup says what a heading is; reports are turned off; and while it reads, no
connection can be opened.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from kbqa.analyzer import CJK
from kbqa.errors import DocumentError
from kbqa.readers.content import Content, ReadOptions, clean, heading_block, one_line, text_block
from kbqa.readers.encoding import decode
from kbqa.readers.html import html_blocks
from kbqa.types import Block

if TYPE_CHECKING:
    from unstructured.documents.elements import Element  # type: ignore[import-not-found,unused-ignore]

__all__ = ["offline", "read_org"]

_QUIET = {"DO_NOT_TRACK": "1", "SCARF_NO_ANALYTICS": "true", "UNSTRUCTURED_DISABLE_NOTICE": "1"}
_TITLE = re.compile(r"^#\+TITLE:[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_TODO = re.compile(r"^(?:TODO|DONE)\s+")
_BROKEN_LINE = re.compile(rf"(?<=[{CJK}，。、；：！？）」』》]) (?=[{CJK}（「『《])")
_REMEDY = "pip install 'kbqa[unstructured]'"


def read_org(data: bytes, options: ReadOptions) -> Content:
    text, warnings = decode(data)
    title = _TITLE.search(text)
    with offline():
        try:
            elements = _elements(text)
        except ImportError as error:
            raise DocumentError(f"an .org file needs another package: {_REMEDY}", kind="missing-extra") from error
        except OSError as error:  # pypandoc without pandoc
            raise DocumentError(f"pandoc cannot be run ({error}): {_REMEDY}", kind="missing-extra") from error
    return Content(title=one_line(title.group(1)) if title else "", blocks=tuple(_blocks(elements)), warnings=warnings)


def _elements(text: str) -> list[Element]:
    os.environ.update(_QUIET)  # before the import, which reports itself to a host otherwise
    from unstructured.nlp import tokenize  # type: ignore[import-not-found,unused-ignore]
    from unstructured.partition.auto import partition  # type: ignore[import-not-found,unused-ignore]

    tokenize._get_nlp = _sentence_rules
    found: list[Element] = partition(file=io.BytesIO(text.encode()), metadata_filename="a.org", languages=["zho"])
    return found


@lru_cache(maxsize=1)
def _sentence_rules() -> object:
    import spacy  # type: ignore[import-not-found,unused-ignore]

    rules = spacy.blank("xx")  # any language
    rules.add_pipe("sentencizer")
    return rules


def _blocks(elements: Iterable[Element]) -> Iterator[Block]:
    """Headings are those of the markup alone: those that `unstructured` guesses have no depth."""
    for category, group in groupby(elements, lambda element: element.category):
        if category == "ListItem":
            yield text_block("\n".join("- " + _joined(element.text).removesuffix("↩︎") for element in group))
            continue
        for element in group:
            metadata = element.metadata
            if category == "Table" and metadata.text_as_html:
                yield from html_blocks(metadata.text_as_html)
            elif category == "Title" and metadata.category_depth is not None:
                yield heading_block(_TODO.sub("", element.text), metadata.category_depth + 1)
            elif category == "CodeSnippet":
                yield Block("code", clean(element.text))
            else:
                yield text_block(_joined(element.text))


def _joined(text: str) -> str:
    """`text` without the blank that stands for the end of a line inside a Chinese sentence."""
    return _BROKEN_LINE.sub("", text)


# --- no connection ---------------------------------------------------------------------------------------------------

_SHUT: ContextVar[bool] = ContextVar("shut", default=False)
_CONNECTING = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


@contextmanager
def offline() -> Iterator[None]:
    """Whatever tries to reach a host in here fails at once and says so."""
    _watch()
    token = _SHUT.set(True)
    try:
        yield
    finally:
        _SHUT.reset(token)


@lru_cache(maxsize=1)
def _watch() -> None:
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in _CONNECTING and _SHUT.get():
        raise DocumentError(
            "the package unstructured would download something to read it, and kbqa downloads nothing; "
            f"install the version that works without: {_REMEDY} --upgrade",
            kind="missing-extra",
        )
