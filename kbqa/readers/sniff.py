"""What a file is: by its first bytes, by the members of its container, and only then by its name.

`detect` gives the name of a format (a key of `kbqa.readers.READERS`) or "" where nothing is known about the bytes.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import PurePath

from kbqa.errors import DocumentError
from kbqa.readers.encoding import utf16

__all__ = ["BY_SUFFIX", "detect"]

BY_SUFFIX = {
    **dict.fromkeys([".txt", ".text", ".log"], "txt"),
    **dict.fromkeys([".md", ".markdown", ".mdx"], "md"),
    **dict.fromkeys([".rst"], "rst"),
    **dict.fromkeys([".json"], "json"),
    **dict.fromkeys([".jsonl", ".ndjson"], "jsonl"),
    **dict.fromkeys([".html", ".htm", ".xhtml"], "html"),
    **dict.fromkeys([".mhtml", ".mht"], "mhtml"),
    **dict.fromkeys([".docx", ".docm", ".dotx"], "docx"),
    **dict.fromkeys([".pptx", ".pptm", ".ppsx"], "pptx"),
    **dict.fromkeys([".xlsx", ".xlsm", ".xltx"], "xlsx"),
    **dict.fromkeys([".doc", ".dot", ".wps"], "doc"),
    **dict.fromkeys([".ppt", ".pps", ".dps"], "ppt"),
    **dict.fromkeys([".xls", ".et"], "xls"),
    **dict.fromkeys([".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"], "image"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".xlsb": "xlsb",
    ".ods": "ods",
    ".odt": "odt",
    ".odp": "odp",
    ".pdf": "pdf",
    ".epub": "epub",
    ".rtf": "rtf",
    ".eml": "eml",
    ".msg": "msg",
    ".xml": "xml",
    ".org": "org",
}

# Formats without a signature of their own: here the suffix decides, as long as the bytes are text.
TEXTUAL = frozenset({"txt", "md", "rst", "org", "json", "jsonl", "csv", "tsv", "html", "mhtml", "eml", "xml"})

_MAGIC = (
    (b"%PDF-", "pdf"),
    (b"{\\rtf", "rtf"),
    (b"\x89PNG\r\n\x1a\n", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF87a", "image"),
    (b"GIF89a", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
)
_CONTROL = (*range(0x07), *range(0x0E, 0x15))  # that no text needs
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_STREAMS = (  # looked for in this order
    ("EncryptedPackage", "encrypted"),
    ("WordDocument", "doc"),
    ("Workbook", "xls"),
    ("Book", "xls"),
    ("PowerPoint Document", "ppt"),
    ("__properties_version1.0", "msg"),
)
_OPEN_DOCUMENT = {"text": "odt", "spreadsheet": "ods", "presentation": "odp"}
_HTML = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|table|meta)\b", re.I | re.S
)
_MAIL = re.compile(rb"(?:(?:[A-Za-z][A-Za-z0-9-]*:[^\n]*|[ \t][^\n]*)\r?\n)*?(?:MIME-Version|Received|From):", re.I)


def detect(data: bytes, name: str) -> str:
    """The format of `data`, which came under `name`; "" if neither tells. A broken container is a DocumentError."""
    suffix = BY_SUFFIX.get(PurePath(name).suffix.lower(), "")
    head = data[:4096]
    if head.startswith(_OLE):
        return _inside_ole(data, suffix)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _inside_zip(data)
    for magic, format in _MAGIC:
        if head.startswith(magic):
            return format
    if (head[:2] == b"BM" and data[2:6] == len(data).to_bytes(4, "little")) or (
        head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    ):
        return "image"
    if b"%PDF-" in head[:1024] and (suffix == "pdf" or not looks_like_text(data)):
        return "pdf"  # junk in front of the header is common and readers allow it
    return _textual(head, suffix) if looks_like_text(data) else ""


def _textual(head: bytes, suffix: str) -> str:
    """The format of a text. Under the name of another format it is believed only with some structure of its own."""
    if suffix in TEXTUAL:
        return suffix
    if _MAIL.match(head):
        return "mhtml" if b"multipart/related" in head else "eml"
    if _HTML.match(head):  # many a web system exports "Excel" and "Word" files that are HTML
        return "html"
    if head.lstrip(b"\xef\xbb\xbf \r\n").startswith(b"<?xml"):
        return "xml"  # so do "Excel" and "Word" files of 2003
    if suffix in ("xls", "xlsx") and (b"\t" in head or b"," in head):
        return "csv"
    return "txt" if suffix in ("", "doc", "rtf") else ""


def looks_like_text(data: bytes) -> bool:
    """Whether `data` can be text in any encoding: hardly any control characters, or UTF-16 that makes sense."""
    sample = data[:65536]
    if sample.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return True
    control = sum(sample.count(byte) for byte in _CONTROL)
    return control <= len(sample) // 200 or utf16(data, 0.7) != ""


def _inside_ole(data: bytes, suffix: str) -> str:
    """An entry of an OLE2 directory is 128 bytes, aligned: 64 of name in UTF-16, then the name's length in bytes."""
    for name, format in _OLE_STREAMS:
        encoded = name.encode("utf-16-le") + b"\0\0"
        at = data.find(encoded)
        while at >= 0:
            if at % 128 == 0 and int.from_bytes(data[at + 64 : at + 66], "little") == len(encoded):
                if format == "encrypted":
                    raise DocumentError("is protected by a password; save a copy without one", kind="encrypted")
                return format
            at = data.find(encoded, at + 1)
    return suffix if suffix in ("doc", "xls", "ppt", "msg") else "ole"


def _inside_zip(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as container:
            names = set(container.namelist())
            kind = container.read("mimetype")[:200].decode("ascii", "replace").strip() if "mimetype" in names else ""
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise DocumentError(f"is damaged or cut off: {error}", kind="corrupt") from error
    if kind.startswith("application/vnd.oasis.opendocument."):
        return _OPEN_DOCUMENT.get(kind.rsplit(".", 1)[-1].removesuffix("-template"), "zip")
    if kind == "application/epub+zip" or "META-INF/container.xml" in names:
        return "epub"
    if "xl/workbook.bin" in names:
        return "xlsb"
    for folder, format in (("word/", "docx"), ("xl/", "xlsx"), ("ppt/", "pptx")):
        if any(name.startswith(folder) for name in names):
            return format
    return "zip"
