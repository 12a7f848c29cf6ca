"""Outlook messages (.msg): a compound file with one stream a property (MS-OXMSG). Becomes a mail, then reads as one."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import EmailMessage

from kbqa.errors import DocumentError
from kbqa.readers.content import Content, ReadOptions, one_line
from kbqa.readers.encoding import decode
from kbqa.readers.mail import ReadAttachment, read_eml
from kbqa.readers.ole import streams

__all__ = ["read_msg"]

_PROPERTIES = {"Subject": "0037", "From": "0C1A", "To": "0E04", "Cc": "0E03"}
_ADDRESS, _HEADERS, _BODY, _HTML = "0C1F", "007D", "1000", "1013"
_FILE_NAMES, _FILE = ("3707", "3704", "3001"), "3701"


def read_msg(data: bytes, options: ReadOptions, read_attachment: ReadAttachment) -> Content:
    parts = streams(data)
    message = EmailMessage()
    for header, tag in _PROPERTIES.items():
        if value := one_line(_text(parts, "", tag)):
            sender = one_line(_text(parts, "", _ADDRESS)) if header == "From" else ""
            message[header] = f"{value} <{sender}>" if "@" in sender and sender != value else value
    for line in _text(parts, "", _HEADERS).splitlines():
        if line.lower().startswith("date:") and "Date" not in message:
            message["Date"] = line[5:].strip()
    body, html = _text(parts, "", _BODY), _text(parts, "", _HTML)
    if body.strip() or not html.strip():
        message.set_content(body)
    else:
        message.set_content(html, subtype="html")
    for folder in sorted({path.partition("/")[0] for path in parts if path.startswith("__attach_version1.0_")}):
        name = next((found for tag in _FILE_NAMES if (found := _text(parts, f"{folder}/", tag))), "attachment")
        if (content := parts.get(f"{folder}/__substg1.0_{_FILE}0102")) is not None:
            message.add_attachment(content, "application", "octet-stream", filename=one_line(name))
    if not message.keys() and not body.strip():
        raise DocumentError("holds no message", kind="empty")
    return read_eml(message.as_bytes(), options, read_attachment)


def _text(parts: Mapping[str, bytes], folder: str, tag: str) -> str:
    """A property as text: kept in UTF-16, in some code page, or (HTML) as bytes."""
    stem = f"{folder}__substg1.0_{tag}"
    if (wide := parts.get(f"{stem}001F")) is not None:
        return wide.decode("utf-16-le", "replace").rstrip("\0")
    narrow = parts.get(f"{stem}001E") or parts.get(f"{stem}0102") or b""
    return decode(narrow)[0].rstrip("\0")
