"""Server-Sent Events from bytes that were cut anywhere, as the WHATWG standard reads them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

__all__ = ["LONGEST", "events"]

LONGEST = 1 << 24  # bytes of one line; more is no event stream
_LINE_END = re.compile(rb"\r\n|\n|\r")


def events(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of each event, in order. One that breaks off before its blank line is not whole and does not count.

    ValueError for bytes that are no event stream: not UTF-8, or a line without end.
    """
    data: list[str] = []
    for line in _lines(chunks):
        field, _, value = line.partition(":")
        if not line and data:
            yield "\n".join(data)
            data = []
        elif field == "data":  # a comment has an empty field name; event, id and retry do not matter here
            data.append(value.removeprefix(" "))


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Whole lines. They are cut as bytes: a chunk may end inside a character, and between CR and LF."""
    rest, mark = b"", codecs.BOM_UTF8
    for chunk in chunks:
        rest += chunk
        # A CR at the end may be half of a line end; what follows it decides.
        half = b"\r" if rest.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(rest.removesuffix(half))
        rest += half
        for line in lines:
            yield line.removeprefix(mark).decode()
            mark = b""
        if len(rest) > LONGEST:
            raise ValueError("a line without end")
    if rest.endswith(b"\r"):
        yield rest[:-1].decode()
