"""Opening zip containers that may be hostile: everything is measured before a parser sees it."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from kbqa.errors import DocumentError
from kbqa.readers.content import MIB, ReadOptions

__all__ = ["check_markup", "open_container"]

_MAX_MEMBERS = 20_000
_MAX_RATIO = 250  # of a member beyond _RATIO_FROM; real sheets of repeated rows stay below 100, bombs are near 1,000
_RATIO_FROM = 16 * MIB
_MARKUP = (".xml", ".rels", ".vml")
_CHUNK = 4 * MIB
_DECLARATION = re.compile(rb"<\0?!\0?(?:D\0?O\0?C\0?T\0?Y\0?P\0?E|E\0?N\0?T\0?I\0?T\0?Y)")


@contextmanager
def open_container(data: bytes, options: ReadOptions) -> Iterator[zipfile.ZipFile]:
    """The container in `data`, after a look at its directory. Raises DocumentError: bomb, corrupt, encrypted.

    zipfile never inflates a member beyond the size the directory declares, so what is checked here holds.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as container:
            members = container.infolist()
            if len(members) > _MAX_MEMBERS:
                raise DocumentError(f"holds {len(members):,} parts; refused as a zip bomb", kind="bomb")
            if (total := sum(member.file_size for member in members)) > options.max_uncompressed_bytes:
                limit = options.max_uncompressed_bytes
                raise DocumentError(f"unpacks to {total:,} bytes, {limit:,} are allowed; refused as a zip bomb", "bomb")
            for member in members:
                if member.flag_bits & 1:
                    raise DocumentError("is protected by a password; save a copy without one", kind="encrypted")
                if member.file_size > _RATIO_FROM and member.file_size > _MAX_RATIO * max(1, member.compress_size):
                    raise DocumentError(
                        f"its part {member.filename} unpacks to {member.file_size:,} bytes from "
                        f"{member.compress_size:,}; refused as a zip bomb",
                        kind="bomb",
                    )
            yield container
    except zipfile.BadZipFile as error:
        raise DocumentError(f"is damaged or cut off: {error}", kind="corrupt") from error


def check_markup(container: zipfile.ZipFile) -> None:
    """Unpack every XML part once: sizes and checksums are true, and none declares entities (XML bombs do).

    Office formats never carry a document type declaration, so one is refused whatever stands in it.
    """
    for member in container.infolist():
        if not member.filename.lower().endswith(_MARKUP):
            continue
        tail = b""
        with container.open(member) as stream:
            while chunk := stream.read(_CHUNK):
                if _DECLARATION.search(tail + chunk):
                    raise DocumentError(
                        f"its part {member.filename} declares XML entities; refused as an XML bomb", kind="bomb"
                    )
                tail = chunk[-32:]
