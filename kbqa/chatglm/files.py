"""Files of weights from outside: whether one is whole, by its size and its table of contents. Reads no weights."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

__all__ = ["cut_off"]

LONGEST = 100 * 2**20  # bytes of a table of contents; the library for safetensors takes no longer one


def cut_off(path: Path) -> str:
    """What is wrong with the file, in a few words; "" when it ends where it says that it ends."""
    try:
        return _safetensors(path) if path.suffix == ".safetensors" else _bin(path)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _safetensors(path: Path) -> str:
    """8 bytes, the length of the table; the table, JSON; the tensors, each of which says where it ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST):
            return "it ends before its table of contents does"
        try:
            table = json.loads(file.read(length))
            ends = [int(about["data_offsets"][1]) for name, about in table.items() if name != "__metadata__"]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return "its table of contents is no JSON"
    if size != (whole := 8 + length + max(ends, default=0)):
        return f"it has {size:,} bytes and must have {whole:,}"
    return ""


def _bin(path: Path) -> str:
    """A zip archive, whose table of contents stands at the end. Files from before torch 1.6 tell nothing."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return "" if path.stat().st_size else "it is empty"
    return "" if zipfile.is_zipfile(path) else "its end is missing"
