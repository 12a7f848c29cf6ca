"""The container of old Office files: a small file system of streams inside one file (MS-CFB).

Only reading, only what doc, ppt and msg need; every number in the file is distrusted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kbqa.errors import DocumentError

__all__ = ["streams"]

_END = 0xFFFFFFFA  # sector numbers from here on are marks: end of chain, free, ...
_HEADER_SECTORS = 109  # of the table of sectors, listed in the header itself
_STREAM, _ROOT, _STORAGE = 2, 5, 1


class _Sectors:
    """Sectors of one size, chained by a table."""

    def __init__(self, data: bytes, size: int, offset: int, table: tuple[int, ...]) -> None:
        self.data, self.size, self.offset, self.table = data, size, offset, table

    def chain(self, start: int) -> bytes:
        parts: list[bytes] = []
        for _ in range(len(self.table) + 1):
            if start >= _END or start >= len(self.table):
                return b"".join(parts)
            at = self.offset + start * self.size
            parts.append(self.data[at : at + self.size])
            start = self.table[start]
        raise DocumentError("is damaged: its parts form a circle", kind="corrupt")


def streams(data: bytes) -> dict[str, bytes]:
    """Every stream by its path, "Root Entry" left out: "WordDocument", "__attach_version1.0_#00000000/..."."""
    try:
        return dict(_streams(data))
    except (struct.error, IndexError) as error:
        raise DocumentError("is damaged or cut off: its directory cannot be read", kind="corrupt") from error


def _numbers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])


def _streams(data: bytes) -> Iterator[tuple[str, bytes]]:
    shift, small_shift = struct.unpack_from("<HH", data, 30)
    if shift not in (9, 12) or small_shift != 6:
        raise DocumentError("is damaged: its header makes no sense", kind="corrupt")
    size = 1 << shift
    directory_start, _, small_limit, small_start = struct.unpack_from("<4I", data, 48)
    next_list = struct.unpack_from("<I", data, 68)[0]
    listed = list(struct.unpack_from(f"<{_HEADER_SECTORS}I", data, 76))
    for _ in range(len(data) // size):
        if next_list >= _END:
            break
        *more, next_list = _numbers(data[(next_list + 1) * size : (next_list + 2) * size])
        listed += more
    table = tuple(
        number
        for sector in listed
        if sector < _END
        for number in _numbers(data[(sector + 1) * size : (sector + 2) * size])
    )
    sectors = _Sectors(data, size, size, table)
    directory = sectors.chain(directory_start)
    entries = [directory[at : at + 128] for at in range(0, len(directory) - 127, 128)]
    root_start = struct.unpack_from("<I", entries[0], 116)[0]
    small = _Sectors(sectors.chain(root_start), 64, 0, _numbers(sectors.chain(small_start)))
    for path, entry in _walk(entries):
        start, length = struct.unpack_from("<II", entry, 116)
        if length > len(data):
            raise DocumentError("is damaged: one of its streams is said to be longer than the file", kind="corrupt")
        yield path, (small if length < small_limit else sectors).chain(start)[:length]


def _walk(entries: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """The entries of a folder are a tree of siblings; folders nest."""
    seen: set[int] = set()
    waiting = [(struct.unpack_from("<I", entries[0], 76)[0], "")]
    while waiting:
        index, folder = waiting.pop()
        if index >= len(entries) or index in seen:
            continue
        seen.add(index)
        entry = entries[index]
        length, kind = struct.unpack_from("<HB", entry, 64)
        left, right, child = struct.unpack_from("<3I", entry, 68)
        path = folder + entry[: max(0, min(length, 64) - 2)].decode("utf-16-le", "replace")
        waiting += [(left, folder), (right, folder)]
        if kind == _STORAGE:
            waiting.append((child, f"{path}/"))
        elif kind == _STREAM:
            yield path, entry
