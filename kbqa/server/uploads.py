"""Files on their way in: from the body of a request to knowledge/<kb>/, whole or not at all.

A body is written to a hidden folder beside the documents as it comes, so that what becomes of a file is one renaming.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import IO, TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from kbqa.config import is_reserved
from kbqa.errors import DocumentError
from kbqa.ingest import digest_of
from kbqa.readers import is_ignored, supports
from kbqa.server.errors import NotStored, RequestError, TooLarge
from kbqa.store.files import sync

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["Limits", "Received", "Receiver", "as_source", "below", "boundary_of", "place", "settle", "sweep"]

HIDDEN = ".uploading-"
OLD = 3600.0  # seconds after which an upload to which nothing was added belongs to nobody: none may be so slow
LONGEST_HEADER = 8192  # bytes that the headers of one part of a form may have
MOST_FIELDS = 100  # of a form, besides its files
LONGEST_PART, LONGEST_NAME, DEEPEST = 200, 800, 16  # bytes, bytes, folders

_OF_WINDOWS = re.compile(r'[<>:"|?*]')  # what no file may be called there
_DRIVE = re.compile(r"[A-Za-z]:")
_ON_WINDOWS = os.name == "nt"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request."""

    files: int
    bytes_per_file: int


@dataclass(frozen=True, slots=True)
class Received:
    """A file that has come whole and lies at `path`; `name` is what the client calls it."""

    name: str
    path: Path


# --- names -----------------------------------------------------------------------------------------------------------


def as_source(name: str) -> str:
    """What a file that a client calls `name` is called below knowledge/<kb>/: NFC, and a file name on every system.

    Folders in it stay. Raises DocumentError when it could lead elsewhere or cannot be a document's.
    """
    text = name.replace("\\", "/")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise DocumentError(f"{name!r} has control characters in its name; rename it", "name")
    if "\ufffd" in text:
        raise DocumentError(f"{name!r} is neither UTF-8 nor GB18030; rename it, or send its name as UTF-8", "name")
    if text.startswith("/") or _DRIVE.match(text):
        problem = f"{name!r} is an absolute path; send the name alone, or with folders below the base"
        raise DocumentError(problem, "name")
    parts = [_part(part, name) for part in text.split("/")]
    source = "/".join(parts)
    if len(parts) > DEEPEST or len(source.encode()) > LONGEST_NAME:
        problem = f"{name[:80]!r}… is too long: at most {DEEPEST} folders and {LONGEST_NAME} bytes"
        raise DocumentError(problem, "name")
    if any(is_ignored(Path(part)) for part in parts):
        raise DocumentError(f"{name!r} is hidden, or a program's own file, and no document", "hidden")
    if not supports(Path(source)):
        suffix = PurePosixPath(source).suffix or "files without a suffix"
        raise DocumentError(f"{name!r} is no document: kbqa does not read {suffix}", "unsupported")
    return source


def _part(part: str, name: str) -> str:
    """One folder or the file; what cannot stand in a name on Windows becomes `_`, what cannot be seen goes."""
    if part.strip() in ("", ".", ".."):
        raise DocumentError(f"{name!r} is no path of a document: no part of it may be empty, . or ..", "name")
    visible = "".join(character for character in part if unicodedata.category(character) != "Cf")
    clean = _OF_WINDOWS.sub("_", unicodedata.normalize("NFC", visible)).strip().rstrip(". ")
    if not clean or len(clean.encode()) > LONGEST_PART:
        problem = f"{name[:80]!r} is no name for a file: use 1 to {LONGEST_PART} bytes for each part"
        raise DocumentError(problem, "name")
    if is_reserved(clean):
        raise DocumentError(f"{name!r} has a name that Windows reserves ({clean}); rename it", "name")
    return clean


def below(folder: Path, source: str) -> Path | None:
    """Where `source` lies in `folder`; None when it leads out of it or to what is hidden."""
    parts = source.split("/")
    if "\0" in source or "\\" in source or any(p in ("", ".", "..") or p.startswith(".") for p in parts):
        return None
    if _ON_WINDOWS and any(_OF_WINDOWS.search(p) or p != p.rstrip(". ") or is_reserved(p) for p in parts):
        return None  # a drive, a stream of a file (a.md:b), a device, or another file's name with something behind it
    path = folder.joinpath(*parts)
    try:
        root = folder.resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # whether the system can have such a name at all
        return path if root in path.resolve().parents and root in (path.parent / "x").resolve().parents else None
    except (OSError, RuntimeError, ValueError):  # RuntimeError: links in a circle
        return None


# --- receiving -------------------------------------------------------------------------------------------------------


def boundary_of(content_type: str) -> bytes:
    """RequestError when it is no multipart form."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RequestError("send the files as multipart/form-data, as `curl -F files=@FILE` does")
    return options[b"boundary"]


class Receiver:
    """Takes the bytes of a form and writes its files to `folder`, which it makes; everything blocks. `close` it."""

    def __init__(self, folder: Path, boundary: bytes, limits: Limits) -> None:
        self._limits = limits
        self._whole = False
        self._header, self._value, self._room_for_headers = b"", b"", LONGEST_HEADER
        self._headers: dict[bytes, bytes] = {}
        self._fields = 0
        self._name = ""
        self._size = 0
        self._file: IO[bytes] | None = None
        self.files: list[Received] = []
        with _room(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = Path(mkdtemp(prefix=HIDDEN, dir=folder))
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._take_header,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_file,
            "on_part_data": self._take_data,
            "on_part_end": self._end_file,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            self.close()
            raise RequestError(f"the body is no multipart form: {error}") from error

    def feed(self, data: bytes) -> None:
        with _room(self._folder):
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise RequestError(f"the body is no multipart form: {error}") from error

    def finish(self) -> list[Received]:
        """The files, in the order in which they came; RequestError when the form is not whole or has none."""
        if not self._whole:
            raise RequestError("the body ended in the midst of the form; nothing was taken in")
        if not self.files:
            raise RequestError("the form has no file; send at least one, as `curl -F files=@FILE` does")
        return self.files

    def close(self) -> None:
        """Throws away what was not placed."""
        if self._file:
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- what the parser calls ---------------------------------------------------------------------------------------

    def _begin_part(self) -> None:
        self._headers, self._header, self._value, self._room_for_headers = {}, b"", b"", LONGEST_HEADER

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += self._of_header(data, start, end)

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._of_header(data, start, end)

    def _of_header(self, data: bytes, start: int, end: int) -> bytes:
        """Not every version of the parser bounds them itself."""
        self._room_for_headers -= end - start
        if self._room_for_headers < 0:
            raise RequestError(f"a part of the form has more than {LONGEST_HEADER} bytes of headers")
        return data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _begin_file(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = _decoded(options.get(b"filename", b""))
        if not name:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise TooLarge(f"the form has more than {MOST_FIELDS} fields without a file")
            return
        if len(self.files) >= self._limits.files:
            raise TooLarge(
                f"more than {self._limits.files} files in one request (server.max_upload_files); send several requests"
            )
        self._name, self._size = name, 0
        self._file = (self._folder / str(len(self.files))).open("wb")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        self._size += end - start
        if self._size > self._limits.bytes_per_file:
            most = self._limits.bytes_per_file / 2**20
            raise TooLarge(
                f"{self._name} is larger than {most:g} MiB (server.max_upload_mb); nothing was taken in of this request"
            )
        self._file.write(data[start:end])

    def _end_file(self) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        with file:
            file.flush()
            os.fsync(file.fileno())
        self.files.append(Received(self._name, self._folder / str(len(self.files))))

    def _end(self) -> None:
        self._whole = True


def _decoded(name: bytes) -> str:
    """As browsers and curl write it: UTF-8 with a few escapes. An old curl on a Chinese Windows sends GBK."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.decode("gb18030", "replace")
    for escaped, character in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
        text = text.replace(escaped, character)
    return text


# --- placing ---------------------------------------------------------------------------------------------------------


def place(file: Received, folder: Path, source: str, replace: bool) -> None:
    """Makes it the document `source` of `folder`. DocumentError when that cannot be, and then nothing has changed."""
    target = folder.joinpath(*source.split("/"))
    with _room(folder):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise DocumentError(f"{source}: a file has the name of one of its folders; rename it", "folder") from error
        if below(folder, source) is None and not target.is_symlink():
            raise DocumentError(f"{source}: one of its folders is a link that leads out of the base", "link")
        if target.is_dir():
            raise DocumentError(f"{source}: there is a folder of that name; rename it", "folder")
        if replace:
            file.path.replace(target)
        else:
            _place_new(file, target, source)


def settle(folder: Path, sources: Iterable[str]) -> None:
    """Brings the names of what was placed safely to disk, as its contents are already."""
    with _room(folder):
        for parent in {folder / parent for source in sources for parent in PurePosixPath(source).parents}:
            sync(parent)


def _place_new(file: Received, target: Path, source: str) -> None:
    """A link, because that takes no place of another file that came at the same time."""
    try:
        try:
            os.link(file.path, target)
        except FileExistsError:
            raise
        except OSError:  # the file system has no links
            if target.exists() or target.is_symlink():
                raise FileExistsError from None
            file.path.replace(target)
    except FileExistsError:
        if not target.is_file() or digest_of(target) != digest_of(file.path):
            raise DocumentError(
                f"{source} exists and is another file; rename the new one, or send it with ?replace=true", "exists"
            ) from None


def sweep(knowledge: Path) -> None:
    """Throws away what uploads, and deletions of bases, left behind whose service was killed."""
    with suppress(OSError):
        for folder in (*knowledge.glob(f"{HIDDEN}*"), *knowledge.glob(f"*/{HIDDEN}*")):
            if time.time() - _last_change(folder) > OLD:
                shutil.rmtree(folder, ignore_errors=True)


def _last_change(folder: Path) -> float:
    """When a file in it was added or grew, in seconds since 1970; never, where it is gone."""
    with suppress(OSError):
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    return float("inf")


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """NotStored for what the disk says."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise DocumentError("its name is too long for this disk; rename it", "name") from error
        raise NotStored(
            f"{folder} cannot take the files in: {error.strerror or error}; nothing was taken in"
        ) from error
