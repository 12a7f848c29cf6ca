"""A file becomes a Document.

`read` is the one door: it reads the bytes once, finds out what they are, hands them to the module of that format
and turns whatever goes wrong there into a DocumentError. The formats know nothing of each other or of paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path, PurePath

from kbqa.errors import DocumentError
from kbqa.importing import is_failure
from kbqa.readers.content import Content, Reader, ReadOptions
from kbqa.readers.sniff import BY_SUFFIX, TEXTUAL, detect
from kbqa.types import Document

__all__ = ["SUFFIXES", "ReadOptions", "is_ignored", "read", "read_content", "supports"]

SUFFIXES = frozenset(BY_SUFFIX)

# Format -> module and function; a module is imported when its first file comes.
READERS = {
    "txt": ("text", "read_txt"),
    "md": ("markdown", "read_md"),
    "rst": ("rst", "read_rst"),
    "org": ("fallback", "read_org"),
    "json": ("structured", "read_json"),
    "jsonl": ("structured", "read_jsonl"),
    "html": ("html", "read_html"),
    "mhtml": ("html", "read_mhtml"),
    "docx": ("docx", "read_docx"),
    "pptx": ("pptx", "read_pptx"),
    "odt": ("odf", "read_odf"),
    "odp": ("odf", "read_odf"),
    "doc": ("doc", "read_doc"),
    "ppt": ("ppt", "read_ppt"),
    "msg": ("msg", "read_msg"),
    "xlsx": ("table", "read_workbook"),
    "xlsb": ("table", "read_workbook"),
    "xls": ("table", "read_workbook"),
    "ods": ("table", "read_workbook"),
    "csv": ("table", "read_csv"),
    "tsv": ("table", "read_csv"),
    "eml": ("mail", "read_eml"),
    "epub": ("ebook", "read_epub"),
    "rtf": ("ebook", "read_rtf"),
    "xml": ("xml", "read_xml"),
    "pdf": ("pdf", "read_pdf"),
    "image": ("image", "read_image"),
}


def supports(path: Path) -> bool:
    """Whether ingestion takes such a file in, by its suffix alone."""
    return path.suffix.lower() in SUFFIXES


def is_ignored(path: Path) -> bool:
    """Whether the file is no document at all: hidden, or left behind by a program."""
    name = path.name
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in ("thumbs.db", "desktop.ini")


def read(path: Path, source: str | None = None, options: ReadOptions | None = None) -> Document:
    """The document in the file at `path`, known as `source` (the file's name if not given).

    Raises DocumentError, whatever is wrong: no such file, too large, encrypted, damaged, without any text.
    """
    options = options or ReadOptions()
    source = path.name if source is None else source
    try:
        size = path.stat().st_size
        if size > options.max_bytes:
            raise DocumentError(
                f"{source}: {size:,} bytes are more than the {options.max_bytes:,} allowed", "too-large"
            )
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"{source}: cannot be opened: {error.strerror or error}", kind="unreadable") from error
    format, content = read_content(data, source, options)
    return Document(
        source=source,
        title=content.title or Path(source).stem,
        blocks=content.blocks,
        digest=hashlib.sha256(data).hexdigest(),
        reader=format,
        pages=content.pages,
        warnings=content.warnings,
        metadata=content.metadata,
    )


def read_content(data: bytes, source: str, options: ReadOptions) -> tuple[str, Content]:
    """The format of `data` and what a reader found in it; `source` gives the suffix and stands in messages."""
    if not data.strip(b"\0 \t\r\n"):
        raise DocumentError(f"{source}: the file is empty", kind="empty")
    format = ""
    try:
        format = detect(data, source)
        content = _reader(format, source)(data, options)
        return format, _checked(content, format, source, options)
    except DocumentError as error:
        raise DocumentError(f"{source}: {error}", kind=error.kind) from error
    except BaseException as error:  # whatever a parser trips over, this file fails alone
        if is_failure(error):
            raise _translated(error, source, format) from error
        raise


def _checked(content: Content, format: str, source: str, options: ReadOptions) -> Content:
    """`content` without blank blocks, with a warning if the file's name lies, and within the limits."""
    blocks = tuple(block for block in content.blocks if block.text.strip())
    if not blocks:
        raise DocumentError("there is no text in it", kind="empty")
    characters = sum(len(block.text) for block in blocks)
    if characters > options.max_characters:
        raise DocumentError(
            f"{characters:,} characters are more than the {options.max_characters:,} allowed", "too-large"
        )
    suffix = PurePath(source).suffix
    named = BY_SUFFIX.get(suffix.lower(), format)
    if format and named != format and not {named, format} <= TEXTUAL:
        return replace(content, blocks=blocks, warnings=(f"named {suffix}, but read as {format}", *content.warnings))
    return replace(content, blocks=blocks)


def _reader(format: str, source: str) -> Reader:
    """The function that reads `format`. Mails get the way back to here, for their attachments."""
    if format not in READERS:
        raise _unknown(source)
    module, function = READERS[format]
    reader: Callable[..., Content] = getattr(import_module(f"kbqa.readers.{module}"), function)
    if format in ("eml", "msg"):
        return partial(reader, read_attachment=_read_attachment)
    return reader


def _read_attachment(data: bytes, name: str, options: ReadOptions) -> Content:
    return read_content(data, name, options)[1]


def _unknown(source: str) -> DocumentError:
    """Why bytes that are in no format cannot be read."""
    suffix = PurePath(source).suffix
    if BY_SUFFIX.get(suffix.lower()) not in (None, *TEXTUAL):
        return DocumentError(f"is damaged: these bytes are no {suffix} file", kind="corrupt")
    return DocumentError(
        f"is in no format that kbqa reads ({', '.join(sorted(READERS))}); "
        "save it in one of them, unpack an archive first",
        kind="unsupported",
    )


def _translated(error: BaseException, source: str, format: str) -> DocumentError:
    """What a library's exception means to the owner of the file, in one line."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, MemoryError):
        return DocumentError(f"{source}: there is not enough memory to read it", kind="memory")
    if isinstance(error, RecursionError):
        return DocumentError(f"{source}: its parts are nested too deeply", kind="malformed")
    if isinstance(error, ImportError):
        return DocumentError(f"{source}: a package needed to read it is missing: {reason}", kind="missing-extra")
    if format in TEXTUAL:
        return DocumentError(f"{source}: cannot be read as {format}: {reason}", kind="malformed")
    return DocumentError(f"{source}: is damaged ({type(error).__name__}: {reason})", kind="corrupt")
