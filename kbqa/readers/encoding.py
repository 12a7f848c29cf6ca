"""Bytes to text when nobody says in which encoding.

A byte order mark and valid UTF-8 settle it. Otherwise each East Asian encoding is tried on a sample, and the one in
which most characters are everyday ones wins: bytes read in the wrong encoding give rare characters. "Everyday" is
what the national standards themselves put on their first level (GB 2312 rows 16-55, Big5 0xA440-0xC67E, JIS rows
16-47). Western single-byte encodings are left to charset-normalizer.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

__all__ = ["decode", "utf16"]

_BOMS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 1 << 16
_PLAUSIBLE = 0.7  # share of everyday characters from which an encoding is believed; right ones give 0.85 and more
_PUNCTUATION = frozenset("　、。〈〉《》「」『』【】〔〕·—…‘’“”℃〇●○■□◆★①②③④⑤⑥⑦⑧⑨⑩→√×÷±°§") | {
    chr(c) for c in range(0xFF01, 0xFF5F)
}
_ACCENTED = frozenset("àáâãäåæçèéêëìíîïñòóôõöøùúûüýœßÀÁÄÅÇÈÉÊÑÓÖØÜ¿¡«»‘’“”–—…•°·©®™€£§µ²³ºª½\xa0")
_WESTERN = frozenset({"ascii", "cp1252", "iso8859-1", "iso8859-15", "latin-1"})  # every byte string is valid in these


def decode(data: bytes, declared: str = "") -> tuple[str, tuple[str, ...]]:
    """The text of `data` and warnings about bytes that were no text.

    `declared` is what the file says about itself (an HTML meta tag, a mail header); it is believed only when
    neither a byte order mark nor valid UTF-8 contradicts it.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _replacing(data[len(mark) :], encoding)
    if b"\0" in data[:_SAMPLE] and (wide := utf16(data, _PLAUSIBLE)):
        return _replacing(data, wide)
    try:
        return data.decode("utf-8"), ()
    except UnicodeDecodeError:
        pass
    if _mostly_utf8(data):
        return _replacing(data, "utf-8")
    return _replacing(data, _declared(data, declared) or utf16(data, 0.9) or _guess(data[:_SAMPLE]))


def _replacing(data: bytes, encoding: str) -> tuple[str, tuple[str, ...]]:
    try:
        return data.decode(encoding), ()
    except UnicodeDecodeError:
        text = data.decode(encoding, errors="replace")
    lost = len(re.findall("\ufffd+", text))
    return text, (f"{lost} invalid byte sequences in {encoding} were replaced by \ufffd",)


def _mostly_utf8(data: bytes) -> bool:
    """Damaged UTF-8: far more multi-byte characters that are right than bytes that are wrong."""
    text = data[:_SAMPLE].decode("utf-8", errors="ignore")
    right = sum(char > "\x7f" for char in text)
    wrong = len(data[:_SAMPLE]) - len(text.encode())
    return right > 4 * wrong


def _declared(data: bytes, declared: str) -> str:
    """The codec that a label means, if the bytes are valid in it and the label says more than "some bytes"."""
    try:
        name = codecs.lookup(declared.strip("\"' ").replace("gb2312", "gb18030").replace("gbk", "gb18030")).name
        sample = codecs.getincrementaldecoder(name)().decode(data[:_SAMPLE])
    except (LookupError, UnicodeError, TypeError):
        return ""
    if name in _WESTERN or not isinstance(sample, str) or name.startswith("utf"):
        return ""
    return name if name not in _EVERYDAY or _share(sample, name) > 0.5 else ""


@lru_cache(maxsize=8)
def _level(encoding: str, first: int, last: int, trails: tuple[int, ...]) -> frozenset[str]:
    """The characters of a two-byte encoding whose lead byte lies in first..last."""
    found = (bytes((lead, trail)).decode(encoding, "ignore") for lead in range(first, last + 1) for trail in trails)
    return frozenset(filter(None, found))


_HIGH = tuple(range(0xA1, 0xFF))
_BIG5_TRAILS = tuple(range(0x40, 0x7F)) + _HIGH
_EVERYDAY = {  # encoding -> lead bytes of its everyday characters, in the codec and trails that list them
    "gb18030": ("gb2312", 0xB0, 0xD7, _HIGH),
    "big5hkscs": ("big5", 0xA4, 0xC6, _BIG5_TRAILS),
    "cp932": ("euc_jp", 0xB0, 0xCF, _HIGH),
    "euc_jp": ("euc_jp", 0xB0, 0xCF, _HIGH),
    "cp949": ("euc_kr", 0xB0, 0xC8, _HIGH),
}


@lru_cache(maxsize=8)
def _everyday(encoding: str) -> frozenset[str]:
    chars = _level(*_EVERYDAY[encoding]) | _PUNCTUATION
    if encoding in ("cp932", "euc_jp"):
        chars |= {chr(c) for c in range(0x3041, 0x30FF)}
    return chars


def _share(text: str, encoding: str) -> float:
    """How much of the text beyond ASCII is made of everyday characters."""
    letters = [char for char in text if char > "\x7f"]
    chars = _everyday(encoding)
    return sum(char in chars for char in letters) / len(letters) if letters else 0.0


def utf16(data: bytes, threshold: float) -> str:
    """UTF-16 without a mark, either way round, if `threshold` of its characters are everyday ones; else ""."""
    if len(data) % 2:
        return ""
    shares = {}
    everyday = frozenset().union(*map(_everyday, ("gb18030", "big5hkscs", "cp932")))
    for encoding in ("utf-16-le", "utf-16-be"):
        text = data[: min(len(data), _SAMPLE)].decode(encoding, errors="replace")
        good = sum("\x20" <= char <= "\x7e" or char in "\r\n\t" or char in everyday for char in text)
        shares[encoding] = good / len(text)
    best = max(shares, key=lambda encoding: shares[encoding])
    return best if shares[best] >= threshold else ""


def _guess(sample: bytes) -> str:
    shares = {}
    for encoding in _EVERYDAY:
        text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(sample)
        shares[encoding] = _share(text, encoding)
    # Hangul fills the same bytes as the first half of GB 2312's first level, to which no Chinese text keeps.
    if shares.pop("cp949") > 0.97 and len(sample) >= 40:
        return "cp949"
    best = max(shares, key=lambda encoding: shares[encoding])
    if shares[best] >= _PLAUSIBLE:
        return best
    return _western(sample) or (best if shares[best] > 0.3 else "cp1252")


def _western(sample: bytes) -> str:
    """A single-byte encoding. cp1252 is tried by hand: on short texts charset-normalizer prefers its exotic sisters."""
    text = sample.decode("cp1252", errors="replace")
    letters = [char for char in text if char.isalpha()]
    accented = [char for char in text if char > "\x7f"]
    if len(accented) < 0.35 * len(letters) and sum(char in _ACCENTED for char in accented) > 0.9 * len(accented):
        return "cp1252"
    from charset_normalizer import from_bytes

    found = from_bytes(sample).best()
    return found.encoding if found is not None else ""
