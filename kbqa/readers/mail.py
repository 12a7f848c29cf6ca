"""Mail messages (.eml): who wrote what to whom and when, the text, and the attachments that can be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.policy import Compat32
from email.utils import parsedate_to_datetime

from kbqa.analyzer import CJK
from kbqa.errors import DocumentError
from kbqa.readers.content import Content, ReadOptions, clean, heading_block, one_line, text_block
from kbqa.readers.encoding import decode
from kbqa.readers.html import html_content
from kbqa.types import Block

__all__ = ["ReadAttachment", "read_eml"]

ReadAttachment = Callable[[bytes, str, ReadOptions], Content]

_LABELS = {"From": "发件人", "To": "收件人", "Cc": "抄送", "Date": "日期", "Subject": "主题"}
_MAX_ATTACHMENTS = 100
_MAX_NESTED = 50  # parts in parts
_MACHINES = ("calendar", "x-amp-html")  # texts that no person reads
_FAR_MORE = 3  # times the plain text, which then only says that the reader should look at the other
_UNTOLD = ("image", "audio", "video")  # pictures in mails are logos and signatures far more often than scans


class _RawHeaders(Compat32):
    """Headers may hold, against the standard, plain GBK or UTF-8 bytes: those are text to us, not question marks."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        if any("\udc80" <= char <= "\udcff" for char in value):
            return decode(value.encode("ascii", "surrogateescape"))[0]
        return value


def read_eml(data: bytes, options: ReadOptions, read_attachment: ReadAttachment) -> Content:
    """`read_attachment` reads the bytes of an attachment under its name; its DocumentErrors become warnings."""
    message = message_from_bytes(data.lstrip(b"\r\n"), policy=_RawHeaders())
    subject = _header(message, "Subject")
    headers = {key: value for key in _LABELS if (value := _header(message, key))}
    chinese = re.search(f"[{CJK}]", "".join(headers.values())) is not None
    head = "\n".join(f"{_LABELS[key]}：{value}" if chinese else f"{key}: {value}" for key, value in headers.items())
    parts = list(_leaves(message, []))
    warnings: list[str] = []
    texts = _without_doubles([_blocks(part, warnings) for part in _text_parts(message)])
    blocks = [heading_block(subject, 1)] if subject else []
    blocks += [text_block(head), *(block for text in texts for block in text)]
    attachments = [part for part in parts if _name(part) and part.get_content_maintype() not in _UNTOLD]
    for part in attachments[:_MAX_ATTACHMENTS]:
        blocks += _attachment(part, options, read_attachment, warnings)
    skipped = [_name(part) for part in parts if _name(part) and part not in attachments]
    skipped += [_name(part) for part in attachments[_MAX_ATTACHMENTS:]]
    warnings += [f"the attachment {attachment} was not read" for attachment in skipped]
    if not head and not texts and not attachments:
        raise DocumentError("is no mail message: it has neither headers nor text")
    return Content(title=subject, blocks=tuple(blocks), warnings=tuple(warnings))


def _header(message: Message, key: str) -> str:
    """A header in plain text: encoded words decoded, a date as ISO."""
    text = _unicode(message.get(key, ""))
    if key == "Date":
        try:
            return parsedate_to_datetime(text).isoformat(" ", "minutes")
        except ValueError:
            return text
    return text


def _unicode(text: str) -> str:
    """RFC 2047 words decoded; the character set they name is checked like any other."""
    try:
        parts = decode_header(text)
    except (ValueError, LookupError, HeaderParseError):  # malformed base64 in an encoded word
        return one_line(text)
    return one_line("".join(decode(p, charset or "")[0] if isinstance(p, bytes) else p for p, charset in parts))


def _name(part: Message) -> str:
    """The file name of an attachment, "" for a part that is the message itself."""
    try:
        name = part.get_filename() or ""
    except (LookupError, ValueError, TypeError):  # an unknown character set in an RFC 2231 name
        name = "attachment"
    if not name and part.get_content_type() == "message/rfc822":
        return "message.eml"
    if not name and part.get_content_disposition() == "attachment":
        return "attachment"
    return _unicode(name).replace("/", "_").replace("\\", "_") if name else ""


def _leaves(message: Message, above: list[Message]) -> Iterator[Message]:
    """The parts that are no containers; an attached message is one part, and is read as a file of its own."""
    if len(above) > _MAX_NESTED:
        return
    if message.get_content_type() == "message/rfc822" and above:
        yield message
    elif message.is_multipart():
        for part in message.get_payload():
            if isinstance(part, Message):
                yield from _leaves(part, [*above, message])
    else:
        yield message


def _payload(part: Message) -> bytes:
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload()
        return inner[0].as_bytes() if isinstance(inner, list) and isinstance(inner[0], Message) else b""
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _text_parts(message: Message, depth: int = 0) -> list[Message]:
    """The parts that hold the message itself, in order: of alternatives the plain one or the HTML one."""
    if message.get_content_type() == "message/rfc822" and depth:
        return []
    if message.is_multipart():
        below = [_text_parts(part, depth + 1) for part in _parts(message)] if depth < _MAX_NESTED else []
        if message.get_content_type() == "multipart/alternative":
            return _chosen(below)
        return [part for parts in below for part in parts]
    is_text = message.get_content_maintype() == "text" and message.get_content_subtype() not in _MACHINES
    return [message] if is_text and not _name(message) else []


def _chosen(alternatives: list[list[Message]]) -> list[Message]:
    """HTML where it shows a table, which plain text takes apart, or says far more; else the plain text."""
    plain: list[list[Message]] = []
    rich: list[list[Message]] = []
    for parts in filter(None, alternatives):
        (rich if any(part.get_content_subtype() == "html" for part in parts) else plain).append(parts)
    if not plain or not rich:
        return next(iter([*rich, *plain]), [])
    shown = [block for part in rich[0] for block in _blocks(part, [])]
    said = [block for part in plain[0] for block in _blocks(part, [])]
    tables = any(block.kind == "table" for block in shown)
    return rich[0] if tables or len(_letters(shown)) > _FAR_MORE * len(_letters(said)) else plain[0]


def _without_doubles(texts: list[list[Block]]) -> list[list[Block]]:
    """Without those that say what another one says: some programs do not mark alternatives as such."""
    kept: list[list[Block]] = []
    for text in sorted(texts, key=lambda text: -len(_letters(text))):  # of equals the first stays
        if not any(_letters(text) in _letters(other) for other in kept):
            kept.append(text)
    return [text for text in texts if any(text is other for other in kept)]


def _letters(text: list[Block]) -> str:
    return "".join(re.findall(r"\w+", "".join(block.text for block in text)))


def _parts(message: Message) -> list[Message]:
    payload = message.get_payload()
    return [part for part in payload if isinstance(part, Message)] if isinstance(payload, list) else []


def _blocks(part: Message, warnings: list[str]) -> list[Block]:
    text, lost = decode(_payload(part), str(part.get_param("charset") or ""))
    warnings += lost
    if part.get_content_subtype() == "html":
        return html_content(text)[1]
    return [text_block(paragraph) for paragraph in clean(text).split("\n\n")]


def _attachment(
    part: Message, options: ReadOptions, read_attachment: ReadAttachment, warnings: list[str]
) -> Iterator[Block]:
    name = _name(part)
    if options.max_attachment_depth <= 0:
        warnings.append(f"the attachment {name} lies too deep in other attachments and was not read")
        return
    try:
        inner = replace(options, max_attachment_depth=options.max_attachment_depth - 1)
        content = read_attachment(_payload(part), name, inner)
    except DocumentError as error:
        warnings.append(f"attachment {error}")
        return
    warnings += [f"attachment {name}: {warning}" for warning in content.warnings]
    yield heading_block(name, 1)
    for block in content.blocks:  # its pages are not this message's
        yield replace(block, page=None, level=block.level + 1 if block.kind == "heading" else 0)
