"""A file becomes a Document.

`read` is the one door: it reads the bytes once, finds out what they are, hands them to the module of that family
and turns whatever goes wrong there into a DocumentError. The families know nothing of each other or of paths.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import cast

from kbqa.errors import DocumentError
from kbqa.readers.content import Content, Reader, ReadOptions
from kbqa.readers.sniff import BY_SUFFIX, detect
from kbqa.types import Document

__all__ = ["SUFFIXES", "ReadOptions", "is_ignored", "read", "read_content", "supports"]

SUFFIXES = frozenset(BY_SUFFIX)

# Format -> module and function; a module is imported when its first file comes.
READERS = {
    "txt": ("text", "read_txt"),
    "md": ("markdown", "read_md"),
    "rst": ("rst", "read_rst"),
    "json": ("structured", "read_json"),
    "jsonl": ("structured", "read_jsonl"),
    "html": ("html", "read_html"),
    "mhtml": ("html", "read_mhtml"),
    "docx": ("docx", "read_docx"),
    "pptx": ("pptx", "read_pptx"),
    "odt": ("odf", "read_odf"),
    "odp": ("odf", "read_odf"),
    "doc": ("legacy", "read_doc"),
    "ppt": ("legacy", "read_ppt"),
    "msg": ("legacy", "read_msg"),
    "xlsx": ("table", "read_workbook"),
    "xlsb": ("table", "read_workbook"),
    "xls": ("table", "read_workbook"),
    "ods": ("table", "read_workbook"),
    "csv": ("table", "read_csv"),
    "tsv": ("table", "read_csv"),
    "eml": ("mail", "read_eml"),
    "epub": ("ebook", "read_epub"),
    "rtf": ("ebook", "read_rtf"),
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
    try:
        format = detect(data, source)
        content = _reader(format)(data, options)
    except DocumentError as error:
        raise DocumentError(f"{source}: {error}", kind=error.kind) from error
    blocks = tuple(block for block in content.blocks if block.text.strip())
    if not blocks:
        raise DocumentError(f"{source}: there is no text in it", kind="empty")
    return format, replace(content, blocks=blocks)


def _reader(format: str) -> Reader:
    if format not in READERS:
        raise DocumentError("is in no format that kbqa reads", kind="unsupported")
    module, function = READERS[format]
    return cast(Reader, getattr(import_module(f"kbqa.readers.{module}"), function))
