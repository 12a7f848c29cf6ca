"""PowerPoint 97-2003 (.ppt): the text records of its one long stream (MS-PPT), slide by slide.

A file that was saved many times still holds slides that were changed or deleted. A directory says where the current
version of each lies; nothing else is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kbqa.errors import DocumentError
from kbqa.readers.content import Content, ReadOptions, clean, heading_block, text_block
from kbqa.readers.ole import streams
from kbqa.types import Block

__all__ = ["read_ppt"]

_LIST, _PERSIST, _NOTES_ATOM = 0x0FF0, 0x03F3, 0x03F1
_SLIDES, _NOTES = 0, 2  # instances of lists
_TEXT_HEADER, _WIDE_TEXT, _BYTE_TEXT = 0x0F9F, 0x0FA0, 0x0FA8
_TITLES = (0, 6)  # kinds of text: title, centred title
_CONTAINER = 0xF  # version of records that hold records
_MAX_DEPTH = 30

Text = tuple[int, str]  # kind, text


def read_ppt(data: bytes, options: ReadOptions) -> Content:
    parts = streams(data)
    stream, user = parts.get("PowerPoint Document", b""), parts.get("Current User", b"")
    if "EncryptedSummary" in parts or user[12:16] == b"\xdf\xc4\xd1\xf3":  # the token of an encrypted document
        raise DocumentError("is protected by a password; save a copy without one", kind="encrypted")
    places, document = _directory(stream, user)
    listed: dict[int, list[tuple[int, int, list[Text]]]] = {}
    for kind, instance, body in _records(_body(stream, places[document])):
        if kind == _LIST:
            listed[instance] = list(_entries(body))
    notes = {}
    for place, _, _ in listed.get(_NOTES, []):
        page = _body(stream, places[place])
        atom = next((body for kind, _, body in _records(page) if kind == _NOTES_ATOM), b"\0" * 4)
        notes[struct.unpack_from("<I", atom)[0]] = list(_texts(page, 0))
    blocks: list[Block] = []
    for number, (place, identity, outline) in enumerate(listed.get(_SLIDES, []), start=1):
        drawn = list(_texts(_body(stream, places[place]), 0))
        blocks += _blocks([*outline, *drawn], number)
        blocks += _blocks([(1, text) for _, text in notes.get(identity, []) if text.strip() != "*"], number)
    title = next((block.text for block in blocks if block.kind == "heading"), "")
    return Content(title=title, blocks=tuple(blocks), pages=len(listed.get(_SLIDES, [])) or None)


def _directory(stream: bytes, user: bytes) -> tuple[dict[int, int], int]:
    """Offsets of the current objects by number, and the number of the document itself. The newest edit goes first."""
    places: dict[int, int] = {}
    document = 0
    edit = struct.unpack_from("<I", user, 16)[0]
    seen: set[int] = set()
    while edit and edit not in seen:
        seen.add(edit)
        previous, directory, number = struct.unpack_from("<III", stream, edit + 16)
        document = document or number
        table = _body(stream, directory)
        at = 0
        while at + 4 <= len(table):
            first, count = (
                struct.unpack_from("<I", table, at)[0] & 0xFFFFF,
                struct.unpack_from("<I", table, at)[0] >> 20,
            )
            for index, place in enumerate(struct.unpack_from(f"<{count}I", table, at + 4)):
                places.setdefault(first + index, place)
            at += 4 + 4 * count
        edit = previous
    return places, document


def _body(stream: bytes, at: int) -> bytes:
    length = struct.unpack_from("<I", stream, at + 4)[0]
    return stream[at + 8 : at + 8 + length]


def _records(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, instance and body of each record."""
    at = 0
    while at + 8 <= len(data):
        version, kind, length = struct.unpack_from("<HHI", data, at)
        yield kind, version >> 4, data[at + 8 : at + 8 + length]
        at += 8 + length


def _entries(data: bytes) -> Iterator[tuple[int, int, list[Text]]]:
    """Of each slide in a list: the number of its object, its identity, and the text of its placeholders."""
    entry: tuple[int, int, list[Text]] | None = None
    header = 1
    for kind, _, body in _records(data):
        if kind == _PERSIST:
            if entry:
                yield entry
            place, _, _, identity = struct.unpack_from("<4I", body)
            entry = (place, identity, [])
        elif kind == _TEXT_HEADER:
            header = struct.unpack_from("<I", body)[0]
        elif entry and (text := _text(kind, body)) is not None:
            entry[2].append((header, text))
    if entry:
        yield entry


def _texts(data: bytes, depth: int) -> Iterator[Text]:
    """All texts below a slide: those of its drawing."""
    header = 1
    at = 0
    while at + 8 <= len(data) and depth < _MAX_DEPTH:
        version, kind, length = struct.unpack_from("<HHI", data, at)
        body = data[at + 8 : at + 8 + length]
        if version & 0xF == _CONTAINER:
            yield from _texts(body, depth + 1)
        elif kind == _TEXT_HEADER and len(body) >= 4:
            header = struct.unpack_from("<I", body)[0]
        elif (text := _text(kind, body)) is not None:
            yield header, text
        at += 8 + length


def _text(kind: int, body: bytes) -> str | None:
    if kind == _WIDE_TEXT:
        return body.decode("utf-16-le", "replace")
    return body.decode("latin-1") if kind == _BYTE_TEXT else None


def _blocks(texts: list[Text], page: int) -> Iterator[Block]:
    """Short texts in a row, the cells of a table for the most part, gather in one block."""
    lines: list[str] = []
    for header, text in texts:
        text = clean(text).strip()
        if header in _TITLES and text and len(text) <= 200:
            yield text_block("\n".join(lines), page)
            lines = []
            yield heading_block(text, 1, page)
        elif text:
            lines.append(text)
    yield text_block("\n".join(lines), page)
